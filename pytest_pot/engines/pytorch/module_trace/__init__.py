"""Where two PyTorch models first differ: module by module, each given what the reference's module got.

:mod:`trace` is the way in. It pairs the modules of two models (:mod:`pairing`), records what the reference's modules get and
return (:mod:`recording`), runs the candidate on that record (:mod:`replay`), and judges what that shows (:mod:`findings`).
:mod:`calls` follows the calls of modules, :mod:`nested` finds the tensors in arguments and outputs, and :mod:`distance`
compares two of them; these three import nothing of this folder.
"""
