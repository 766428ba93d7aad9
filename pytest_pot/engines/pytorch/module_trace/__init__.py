"""Where two PyTorch models first differ: module by module, each given what the reference's module got.

:mod:`trace` compares two models. It pairs their modules (:mod:`pairing`), records what the reference's modules get and return
(:mod:`recording`), and runs the candidate on that record (:mod:`replay`). :mod:`nested` finds the tensors in arguments and
outputs, and :mod:`distance` compares two of them. ``trace`` may import all others, ``replay`` and ``recording`` only ``nested``
and ``distance``, and those two nothing of this folder.
"""
