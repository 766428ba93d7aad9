"""A llama-server as somebody runs it: with its own defaults, in a process that the tests start and end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["serving"]

_SCRIPT = """
import json, sys, xllamacpp
settings = json.loads(sys.argv[1])
parameters = xllamacpp.CommonParams()
parameters.model.path = settings["path"]
parameters.hostnames, parameters.port = ["127.0.0.1"], 0
parameters.n_parallel, parameters.n_ctx = settings["n_slots"], settings["n_slots"] * 512
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
parameters.fit_params = False
parameters.verbosity = -1
if settings["exact"]:
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def serving(path: Path, *, n_slots: int = 4, exact: bool = False) -> Iterator[str]:
    """The URL of a server of the GGUF file ``path``, which runs while the context lasts.

    Args:
        n_slots: prompts that it reads side by side.
        exact: whether keys and values are float32, and flash attention is off.
    """
    settings: dict[str, Any] = {"path": str(path), "n_slots": n_slots, "exact": exact}
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, json.dumps(settings)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait(20)
