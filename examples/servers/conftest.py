"""Gate the server that you ship: here a real llama-server with SmolLM2's 4-bit file, which these fixtures start and end.

With a server that runs already, you need no fixture: name its address, pytest --pot-candidate=http://localhost:8080. pytest-pot
finds out whether it is vLLM, SGLang, llama.cpp or another one that speaks OpenAI's protocol.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import smollm2
from transformers import PreTrainedTokenizerBase

from pytest_pot import Prompt, builtin_prompts

# In a shell: llama-server --model FILE --port 0 --threads 1 --parallel 4 --ctx-size 1024
START = """
import sys, xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.hostnames, parameters.port = ["127.0.0.1"], 0
parameters.n_parallel, parameters.n_ctx = 4, 1024
parameters.cpuparams.n_threads = 1
parameters.verbosity = -1
server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def llama_server(file: Path) -> Iterator[str]:
    """The address of a llama-server with the GGUF file ``file``, which ends with the context."""
    with subprocess.Popen(
        [sys.executable, "-c", START, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()  # the script waits for this


# A fixture may return the address of a server, as a marker may name it.
@pytest.fixture(scope="session")
def pot_candidate() -> Iterator[str]:
    with llama_server(smollm2.gguf_file()) as address:
        yield address


# A server has no tokenizer to give. The option --pot-tokenizer names one, too.
@pytest.fixture(scope="session")
def pot_tokenizer() -> PreTrainedTokenizerBase:
    return smollm2.reference()[1]


@pytest.fixture(scope="session")
def pot_prompts() -> list[Prompt]:
    return builtin_prompts(12)
