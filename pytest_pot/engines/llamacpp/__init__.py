"""``llamacpp://path/to/model.gguf``: a GGUF file run by llama.cpp's own kernels, in a llama-server on the loopback interface.

The server comes from the package xllamacpp, and runs in a process of its own: a crash of llama.cpp does not end the tests, and
nothing that it prints is among their output. :mod:`~pytest_pot.engines.llamacpp.child` is that process,
:mod:`~pytest_pot.engines.llamacpp.process` starts and ends it, :mod:`~pytest_pot.engines.llamacpp.backend` is what the registry
asks. They import ``core``, ``engines.server`` and the modules of ``engines`` beside this folder, never torch.
"""
