"""What changed between two models, and where it starts: configuration, weights, modules, and a guess from the divergences.

``core``, ``engines``, ``prompts``, ``baseline`` and the modules of ``scoring`` beside this folder may be imported here.
``diagnose`` is the way in, and ``diagnosis`` is its result. The arithmetic on weights is the engines'; what is here compares
what they tell, groups it, and puts it into words.
"""
