"""What a run of pytest shows and writes: progress, the summary, reports, unused recordings.

Everything may be imported here but ``plugin.hooks``, ``plugin.fixtures`` and ``plugin.inputs``.
"""
