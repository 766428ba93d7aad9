"""How far known changes move a model: the changes, the ladder of a reference, and limits proposed from it.

Everything but ``report`` and ``plugin`` may be imported here. ``perturbations`` and ``damage`` import torch.
"""
