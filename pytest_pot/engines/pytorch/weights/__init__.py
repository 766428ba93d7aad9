"""The tensors of a model by name: what identifies each, and how those of two models differ.

``core``, the modules of ``engines`` and those of ``engines.pytorch`` may be imported here. ``named`` is the way in.
"""
