"""Refuse a checkpoint that does not hold the model that is made of it, as transformers tells after loading.

transformers fills tensors that are missing, or have another shape, as before training: mostly with random numbers. It drops
tensors that the model has no place for. Two such checkpoints may score 0 only because they were filled alike.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import count, shorten, some_of
from pytest_pot.engines.pytorch.experts import misnumbered_experts
from pytest_pot.engines.pytorch.gguf_tensors import gguf_path, left_out

__all__ = ["complete_model", "refuse_incomplete"]

_CONSTANT_BUFFERS = re.compile(
    r"(^|\.)(masked_bias|position_ids|inv_freq|cos_cached|sin_cached|(attn|attention|self_attn|self_attention)\.bias"
    r"|embed_positions\.weights|(encoder|decoder)\.version)$"
)
"""Causal masks, positions, and tables of rotary and sinusoidal ones (``weights``, where learned ones are ``weight``), which
earlier versions of transformers saved and later ones compute; and fairseq's number of a format."""

_CACHE_SCALES = re.compile(r"\.(attn|attention|self_attn|self_attention)\.([kv]_proj\.)?(k|v|kv)_scale$")
"""Scales for a cache of keys and values in fewer bits, which only servers keep so, for unquantised models as well."""

_OTHER_PARTS = re.compile(
    r"^(\w+\.)?(vision\w*|visual\w*|image\w*|img\w*|audio\w*|speech\w*|video\w*|embed_(vision|audio)|multi_modal_projector"
    r"|mm_projector|connector|talker|token2wav|code2wav|mtp\w*|nextn\w*|v_head|value_head|pooler|seq_relationship)\."
)
"""Parts of a checkpoint that the logits of its text model do not depend on: other senses, heads for speculative decoding, and
heads for a value or for the next sentence. They stand at the root, or one level below it."""


def complete_model(folder: str, options: Mapping[str, Any], what: str, allowed: Sequence[str] = ()) -> Any:
    """The model in ``folder``, a folder or hub id, if its files hold all of it.

    Args:
        options: more arguments of ``from_pretrained``.
        what, allowed: see :func:`refuse_incomplete`.

    Raises:
        PotError: tensors are missing, have another shape, or no place in the model.
        Exception: whatever transformers raises for files that it cannot read.
    """
    if "gguf_file" not in options:
        _refuse_misnumbered(folder, what, allowed)
    # Other shapes are ignored here only because transformers would refuse them without their names.
    wanted = {"trust_remote_code": False, "output_loading_info": True, "ignore_mismatched_sizes": True, **options}
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **wanted)
    model, info = loaded
    if "gguf_file" in options:
        info["unexpected_keys"] = {*info["unexpected_keys"], *left_out(gguf_path(folder, options["gguf_file"]), model)}
    refuse_incomplete(model, info, what, allowed)
    return model


def refuse_incomplete(model: Any, info: Mapping[str, Any], what: str, allowed: Sequence[str] = ()) -> None:
    """Raise unless the files held all tensors of ``model``, and nothing that ``model`` has no place for.

    Args:
        info: what ``from_pretrained`` returns with ``output_loading_info=True`` and ``ignore_mismatched_sizes=True``.
        what: the model as messages name it, ``"the candidate 'folder'"``.
        allowed: names of tensors, or patterns with ``*``, that need not match.

    Raises:
        PotError: it names the tensors, the class that was loaded and what the config says that the files hold.
    """

    missing = _checked(info["missing_keys"], allowed)
    extra = [name for name in _checked(info["unexpected_keys"], allowed) if _has_effect(name, model)]
    shapes = dict(map(_with_shapes, info["mismatched_keys"]))
    reshaped = _checked(shapes, allowed)
    if not (missing or extra or reshaped):
        return
    lines = [_beginning(what)]
    if missing:
        lines.append(f"  {count(len(missing), 'tensor')} missing, filled as before training: {some_of(missing)}")
    if reshaped:
        described = [f"{name}{shapes[name]}" for name in reshaped]
        lines.append(f"  {count(len(reshaped), 'tensor')} of another shape, filled as before training: {some_of(described)}")
    if extra:
        lines.append(f"  {count(len(extra), 'tensor')} without a place in the model, left out: {some_of(extra)}")
    renamed = _renamed(missing, extra)
    if renamed is not None:
        lines.append(f"  the names differ: {renamed[0]} in the files seems to be {renamed[1]} in the model")
    example = next(iter([*missing, *reshaped, *extra]))
    raise PotError("\n".join([*lines, _loaded_as(model), _advice(example)]))


def _refuse_misnumbered(folder: str, what: str, allowed: Sequence[str]) -> None:
    """Raise :class:`PotError` if experts in ``folder`` are missing, or there are too many; a hub id is not checked."""
    found = misnumbered_experts(Path(folder))
    missing, extra = ([name for name in _checked(names, allowed) if not _OTHER_PARTS.match(name)] for names in found)
    if not (missing or extra):
        return
    lines = [_beginning(what)]
    if missing:
        lines.append(f"  {count(len(missing), 'tensor')} of experts missing: {some_of(missing)}")
    if extra:
        lines.append(f"  {count(len(extra), 'tensor')} of experts that the model has not: {some_of(extra)}")
    raise PotError("\n".join([*lines, _advice([*missing, *extra][0])]))


def _checked(names: Collection[str], allowed: Sequence[str]) -> list[str]:
    return sorted(name for name in names if not any(fnmatchcase(name, pattern) for pattern in allowed))


def _beginning(what: str) -> str:
    return f"the files of {what} do not hold the model that transformers makes of them:"


def _loaded_as(model: Any) -> str:
    architectures = getattr(model.config, "architectures", None) or []
    says = ", ".join(shorten(str(name), 80) for name in architectures)
    return f"  it was loaded as {type(model).__name__}; " + (f"the config says {says}" if says else "the config names no class")


def _advice(example: str) -> str:
    return (
        "Convert or save the model again, as the class that its config names. If you mean it, list the tensors in pytest's ini "
        f"file, by name or by a pattern with *: pot_allow_tensors = {example}"
    )


def _has_effect(name: str, model: Any) -> bool:
    """Whether the model's logits might depend on a tensor that it has no place for."""
    if _CONSTANT_BUFFERS.search(name):
        return False
    if _CACHE_SCALES.search(name) and getattr(model.config, "quantization_config", None) is None:
        return False
    part = _OTHER_PARTS.match(name)
    if part is None:
        return True
    # A tensor of a part that the model does have was lost.
    return any(module == part[0].rstrip(".") for module, _ in model.named_modules())


def _renamed(missing: Sequence[str], extra: Sequence[str]) -> tuple[str, str] | None:
    """The first of ``extra`` that is one of ``missing`` but for a prefix, and that one."""
    for name in missing:
        for other in extra:
            if other.endswith(f".{name}") or name.endswith(f".{other}"):
                return other, name
    return None


def _with_shapes(entry: str | tuple[str, Sequence[int], Sequence[int]]) -> tuple[str, str]:
    """A tensor's name, and its shapes in the files and in the model in brackets. transformers 4 gives the name alone."""
    if isinstance(entry, str):
        return entry, ""
    name, in_files, in_model = entry
    return name, f" ({list(in_files)}, in the model {list(in_model)})"
