"""What a marker does to a test: one folder for each kind of gate, and what all kinds have in common.

``core``, ``engines``, ``prompts``, ``baseline`` and ``scoring`` may be imported here. The kinds never import each other.
"""
