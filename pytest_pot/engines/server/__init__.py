"""Models behind a URL: vLLM, SGLang, llama-server, and other servers that speak OpenAI's protocol.

:mod:`~pytest_pot.engines.server.address` reads a spec, :mod:`~pytest_pot.engines.server.http` speaks HTTP,
:mod:`~pytest_pot.engines.server.backend` finds out which kind of server it is, and each kind has a module of its own. They
import ``core`` and the modules of ``engines`` beside this folder, never torch. The HTTP library is optional: it is imported
when a server is asked for.
"""
