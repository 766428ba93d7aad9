"""Quantised models: recognise them, leave them in their own precision, and say what reading one needs.

Converting a quantised model to another dtype breaks it: some libraries refuse, others fail in the first forward, and others
would convert scales but not the packed weights. So such a model runs as it was loaded.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.pytorch.model_facts import ModelFacts, facts_of

__all__ = [
    "float_dtypes",
    "is_of_library",
    "is_quantised",
    "is_quantised_layer",
    "library_of",
    "loading_options",
    "methods_of",
    "package_of",
    "quantisation_errors",
    "refuse_dtype",
    "settings_in",
]

_NEEDED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "aqlm": (("aqlm", "'aqlm[gpu,cpu]'"), ("accelerate", "accelerate")),
    "auto-round": (("auto_round", "auto-round"),),
    "awq": (("gptqmodel", "gptqmodel"), ("accelerate", "accelerate")),
    "bitnet": (("accelerate", "accelerate"),),
    "bitsandbytes": (("bitsandbytes", "bitsandbytes"), ("accelerate", "accelerate")),
    "compressed-tensors": (("compressed_tensors", "compressed-tensors"),),
    "eetq": (("kernels", "kernels"), ("accelerate", "accelerate")),
    "fbgemm_fp8": (("fbgemm_gpu", "fbgemm-gpu"), ("accelerate", "accelerate")),
    "fouroversix": (("fouroversix", "fouroversix"),),
    "fp8": (("accelerate", "accelerate"),),
    "fp_quant": (("fp_quant", "fp_quant"),),
    "gemma": (),
    "gguf": (("gguf", "gguf"), ("accelerate", "accelerate")),
    "gptq": (("optimum", "optimum"), ("gptqmodel", "gptqmodel")),
    "higgs": (("flute", "flute-kernel"), ("fast_hadamard_transform", "fast_hadamard_transform"), ("accelerate", "accelerate")),
    "hqq": (("hqq", "hqq"),),
    "metal": (),
    "mxfp4": (("accelerate", "accelerate"),),
    "mxfp8": (("accelerate", "accelerate"),),
    "nvfp4": (("kernels", "kernels"),),
    "quanto": (("optimum.quanto", "optimum-quanto"), ("accelerate", "accelerate")),
    "quark": (("quark", "amd-quark"),),
    "sinq": (("sinq", "sinq"),),
    "spqr": (("spqr_quant", "'spqr_quant[gpu]'"), ("accelerate", "accelerate")),
    "torchao": (("torchao", "torchao"),),
    "vptq": (("vptq", "vptq"), ("accelerate", "accelerate")),
}
"""What reading a model of each method needs: the module that is imported, and what pip calls it."""

_LIBRARIES = frozenset(
    (
        "aqlm",
        "auto_gptq",
        "auto_round",
        "awq",
        "bitsandbytes",
        "compressed_tensors",
        "eetq",
        "fbgemm_gpu",
        "gptqmodel",
        "hqq",
        "optimum",
        "quark",
        "spqr_quant",
        "torchao",
        "vptq",
    )
)
"""Libraries whose layers and tensors hold quantised weights, also in a model that transformers did not quantise."""

_WITHOUT_CPU_KERNELS = {"fp8": "FineGrainedFP8Config", "mxfp8": "FineGrainedFP8Config", "mxfp4": "Mxfp4Config"}
"""Methods that run on GPUs only, and the class of transformers that can ask for dequantised weights."""

_PLAIN_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def is_quantised(model: nn.Module | ModelFacts) -> bool:
    """Whether ``model``, or a model that it wraps (as an adapter does), holds quantised weights.

    Not if it was dequantised when it was loaded: its weights are plain numbers then.
    """
    facts = facts_of(model)
    return (
        bool(methods_of(facts))
        or facts.is_flagged_quantised
        or any(map(is_quantised_layer, facts.classes))
        or any(map(is_of_library, facts.parameter_classes))
        or not _PLAIN_DTYPES.issuperset(facts.float_dtypes)  # float8
    )


def methods_of(model: nn.Module | ModelFacts) -> set[str]:
    """The methods by which transformers quantised modules of ``model``: ``"bitsandbytes"``. Not those that it dequantised."""
    facts = facts_of(model)
    methods = {name for module in facts.quantisers if (name := _method_of(module)) is not None}
    # Weights of a GGUF file are plain numbers after loading, except in layers of a kernel library.
    return methods if any("Gguf" in kind.__name__ for kind in facts.classes) else methods - {"gguf"}


def _method_of(module: nn.Module) -> str | None:
    settings = getattr(getattr(module, "hf_quantizer", None), "quantization_config", None)
    method = getattr(module, "quantization_method", None) or getattr(settings, "quant_method", None)
    if method is None or getattr(settings, "dequantize", False):
        return None
    return str(getattr(method, "value", method))


def package_of(model: nn.Module) -> str:
    """The library that holds the quantised weights of ``model``, and its class for them: ``"torchao Int8Tensor"``."""
    for module in model.modules():
        for part in (module, *module.parameters(recurse=False)):
            kind = type(part)
            if is_of_library(kind) or (part is module and is_quantised_layer(kind)):
                return f"{library_of(kind)} {kind.__name__}"
    return "float8"


def is_quantised_layer(kind: type) -> bool:
    """Whether modules of this class hold weights that a library packs in its own way."""
    return is_of_library(kind) or kind.__module__.startswith("torch.ao.nn.quantized")


def is_of_library(kind: type) -> bool:
    """Whether a library for quantised weights defines this class, of a module or a tensor."""
    return library_of(kind) in _LIBRARIES


def library_of(kind: type) -> str:
    """The package that defines this class."""
    return kind.__module__.partition(".")[0]


def float_dtypes(model: nn.Module | ModelFacts) -> set[torch.dtype]:
    """The dtypes of the parameters of ``model``, packed weights left out."""
    return _PLAIN_DTYPES.intersection(facts_of(model).float_dtypes)


def refuse_dtype(model: nn.Module | ModelFacts, config: ScoringConfig, spec: str | None = None) -> None:
    """Raise :class:`PotError` if ``config`` asks for another dtype than that in which the quantised ``model`` is.

    ``spec``: what was just loaded with that dtype, with its role; None for an object in memory.
    """
    dtypes = float_dtypes(model)
    if config.dtype == "auto" or dtypes <= {getattr(torch, config.dtype)}:
        return
    own = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
    remedy = f"Load it with dtype=torch.{config.dtype}" if spec is None else f"Quantise it again from weights in {config.dtype}"
    raise PotError(
        f"cannot score {spec or 'this model'} with dtype={config.dtype!r}: it is quantised and runs in {own}, and converting a "
        f"quantised model breaks it. {remedy}, or set dtype='auto'"
    )


def settings_in(spec: str) -> Mapping[str, Any] | None:
    """The quantisation settings in the config of the folder or hub id ``spec``; None if there are none, or no config."""
    config: Any = None
    with suppress(Exception):  # whatever is wrong with the config, loading the model will say
        path = Path(spec, "config.json")
        if os.path.isfile(path):
            config = json.loads(path.read_text(encoding="utf-8"))
        elif not os.path.exists(spec):
            from transformers import PretrainedConfig

            config = PretrainedConfig.get_config_dict(spec)[0]
    holders = [config, *(config.get(name) for name in ("text_config", "llm_config"))] if isinstance(config, dict) else []
    found = (holder.get("quantization_config") for holder in holders if isinstance(holder, dict))
    return next((settings for settings in found if isinstance(settings, dict)), None)


def loading_options(settings: Mapping[str, Any] | None, device: torch.device, dtype: str) -> dict[str, Any]:
    """The options of ``from_pretrained`` for a model with these quantisation ``settings``, on ``device``, in ``dtype``.

    Formats that have no kernel for CPUs (fp8, mxfp4) are dequantised there, straight to float32 unless another dtype is asked
    for. Everything else is loaded onto its device at once, because some formats can only be unpacked there.
    """
    if settings is None:
        return {}
    if device.type == "cpu":
        dequantising = _dequantising(settings)
        if dequantising is not None:
            return {"quantization_config": dequantising, **({"dtype": torch.float32} if dtype == "auto" else {})}
        # Left alone, bitsandbytes takes a GPU wherever there is one.
        return {"device_map": {"": device}} if _method_in(settings) == "bitsandbytes" else {}
    return {"device_map": {"": device}} if importlib.util.find_spec("accelerate") is not None else {}


def _dequantising(settings: Mapping[str, Any]) -> Any:
    """A config that asks for dequantised weights; None for formats that run on CPUs, or that cannot be dequantised."""
    import transformers

    kind = getattr(transformers, _WITHOUT_CPU_KERNELS.get(_method_in(settings), ""), None)
    config = None if kind is None else kind(dequantize=True)
    # transformers 4 takes the argument for fp8 too, and drops it.
    return config if getattr(config, "dequantize", False) else None


@contextmanager
def quantisation_errors(what: str, settings: Mapping[str, Any] | None, device: torch.device) -> Iterator[None]:
    """Say why ``what``, which has these quantisation ``settings``, cannot be loaded for ``device``.

    Raises:
        PotError: the method is not known, so that transformers would ignore it and take packed weights for plain ones; it
            runs on GPUs only; or the model cannot be loaded, mostly because a package is missing, which the message names.
    """
    if settings is None:
        yield
        return
    method = _method_in(settings)
    if not _is_known(settings):
        import transformers

        raise PotError(
            f"{what} is quantised by {method!r}, which transformers {transformers.__version__} cannot read: install a version "
            "that can, or name an unquantised or dequantised copy"
        )
    if device.type == "cpu" and method in _WITHOUT_CPU_KERNELS and _dequantising(settings) is None:
        import transformers

        raise PotError(
            f"{what} is quantised by {method}, which runs on a GPU only, and transformers {transformers.__version__} cannot "
            "dequantise it: install transformers 5 or newer, set device='cuda', or name an unquantised or dequantised copy"
        )
    try:
        yield
    except PotError as error:
        missing = [package for module, package in _NEEDED.get(method, ()) if not _is_installed(module)]
        if missing:
            packages = "a package that is" if len(missing) == 1 else "packages that are"
            raise PotError(
                f"{what} is quantised by {method}, and that needs {packages} not installed: pip install {' '.join(missing)}"
            ) from error
        raise


def _is_known(settings: Mapping[str, Any]) -> bool:
    from transformers.quantizers import auto

    supports: Any = auto.AutoHfQuantizer.supports_quant_method
    try:
        return bool(supports(settings))
    except ValueError:  # no method is named
        return False


def _method_in(settings: Mapping[str, Any]) -> str:
    if settings.get("load_in_8bit") or settings.get("load_in_4bit"):
        return "bitsandbytes"  # older versions did not name it
    method = str(settings.get("quant_method", ""))
    return "bitsandbytes" if method.startswith("bitsandbytes") else method


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is a part of
        return False
