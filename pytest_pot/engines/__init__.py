"""What can be scored: the protocol of an engine, what engines return, and which engine runs a given model.

``core`` may be imported here. This folder and :mod:`pytest_pot.calibration.perturbations` are the only places that import
transformers, which they do only when a concrete engine is used. Modules of scoring that compare distributions on a device
import torch as well.
"""
