"""A recorded reference: what it holds, its file, where it came from, and whether it is still the right one.

``core``, ``engines`` and ``prompts`` may be imported here. The format of the file is in ``file_format``, and what a file must
fulfil to be believed is in ``validation``.
"""
