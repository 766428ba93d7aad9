from __future__ import annotations

import copy
import functools
import inspect
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ....models import tiny
from .tracing import first_of, larger, traced

HOME = __name__
LARGER = f"{Path(inspect.getfile(larger)).name}:{inspect.getsourcelines(larger)[1]})"
"""Where the hook is written, for someone who is in another folder."""


def smaller(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (arguments[0] * 0.9, *arguments[1:])


@pytest.mark.parametrize("name", ["model.layers.1.mlp", "model.layers.1.mlp.up_proj"])
def test_hooks_and_a_patched_forward_are_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = tiny("llama")

    def own_code(change: Any, *, of_reference: bool = False) -> str | None:
        models = [copy.deepcopy(reference), copy.deepcopy(reference)]
        change(models[not of_reference].get_submodule(name))
        first = first_of(traced(models[0], models[1]))
        assert first.name == name
        return first.own_code

    def patch(module: Any) -> None:
        original = module.forward

        @functools.wraps(original)
        def doubled(*arguments: Any) -> Any:
            return 2 * original(*arguments)

        module.forward = doubled

    def place(function: Any) -> str:
        line = inspect.getsourcelines(function)[1]
        return f"({os.path.relpath(inspect.getfile(function))}:{line})"

    monkeypatch.chdir(Path(__file__).parent)
    hook = f"a forward hook there: {larger.__module__}.larger {place(larger)}"
    assert own_code(lambda module: module.register_forward_hook(larger)) == f"the candidate has {hook}"
    assert own_code(lambda module: module.register_forward_hook(larger), of_reference=True) == f"the reference has {hook}"
    bound = functools.partial(larger)
    assert own_code(lambda module: module.register_forward_hook(bound)) == f"the candidate has {hook}"
    assert own_code(lambda module: module.register_forward_pre_hook(smaller)) == (
        f"the candidate has a forward pre-hook there: {HOME}.smaller {place(smaller)}"
    )
    patched = f"a patched forward there: {HOME}.{patch.__qualname__}.<locals>.doubled ({Path(__file__).name}:"
    assert patched in str(own_code(patch))
    monkeypatch.chdir(tmp_path)
    assert str(own_code(lambda module: module.register_forward_hook(larger))).endswith(f".larger ({LARGER}")


def test_what_libraries_put_on_modules_is_left_out() -> None:
    reference = tiny("llama")
    candidate = copy.deepcopy(reference)
    candidate.model.layers[0].mlp.up_proj.weight.data *= 1.1
    assert first_of(traced(reference, candidate)).own_code is None
    candidate.model.layers[0].mlp.up_proj = torch.compile(candidate.model.layers[0].mlp.up_proj, backend="eager")
    assert first_of(traced(reference, candidate)).own_code is None
