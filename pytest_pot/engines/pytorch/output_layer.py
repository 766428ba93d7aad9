"""Compute logits only at the positions that we need: take them from a model's forward pass, or make them from hidden states.

Most causal language models end in an output layer, one matrix product from hidden states to logits; some then cap or scale each
logit. We run the model without this layer, and then the layer for the needed positions only, a bounded number at a time. If the
other ids do not matter, we also compute only the needed ids. A model that does anything else to its logits runs unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pytest_pot.engines.pytorch.rounding import same_logits
from pytest_pot.engines.tensors import block_height

__all__ = ["Hidden", "Logits", "OutputLayer", "Rows", "joined"]

Ending = Callable[[Tensor], Tensor]
"""What a model does to each logit after the matrix product: nothing, capping or scaling."""


class Rows(Protocol):
    """The logits at n positions: computed already (:class:`Logits`), or computed on demand (:class:`Hidden`)."""

    vocab_size: int
    device: torch.device

    def __len__(self) -> int: ...

    def chunks(self, height: int | None = None) -> Iterator[Tensor]:
        """All logits, in chunks of at most ``height`` positions, [positions, vocab]; None: as many as suit the device."""

    def at(self, ids: Tensor) -> Tensor:
        """Logits [n, m] at ``ids`` [n, m], which may differ from position to position."""


class Logits:
    """Logits that the model has computed already."""

    def __init__(self, logits: Tensor) -> None:
        """``logits``: [n, vocab]."""
        self._logits = logits
        self.vocab_size = logits.shape[-1]
        self.device = logits.device

    def __len__(self) -> int:
        return len(self._logits)

    def chunks(self, height: int | None = None) -> Iterator[Tensor]:
        yield from torch.split(self._logits, height or block_height(len(self), self.vocab_size, self.device))

    def at(self, ids: Tensor) -> Tensor:
        return self._logits.gather(-1, ids)


class Hidden:
    """Hidden states, from which the output layer computes logits on demand."""

    def __init__(self, states: Tensor, layer: OutputLayer) -> None:
        """``states``: [n, d]."""
        self.states = states
        self.layer = layer
        self.vocab_size = layer.vocab_size
        self.device = states.device

    def __len__(self) -> int:
        return len(self.states)

    def last(self, n: int) -> Hidden:
        """The last ``n`` positions."""
        return Hidden(self.states[len(self) - n :], self.layer)

    def chunks(self, height: int | None = None) -> Iterator[Tensor]:
        for states in torch.split(self.states, height or block_height(len(self), self.vocab_size, self.device)):
            yield self.layer(states)

    def at(self, ids: Tensor) -> Tensor:
        """Multiply by the weights of every id that some position needs: the positions of a text have most ids in common."""
        if not self.layer.some_ids:
            return self._gathered(ids)
        union, columns = torch.unique(ids, return_inverse=True)
        if not self.layer.can_select_ids(self.states[:1], union):
            return self._gathered(ids)
        logits, chunk_size = [], block_height(len(self), len(union), self.device)
        for states, part in zip(torch.split(self.states, chunk_size), torch.split(columns, chunk_size), strict=True):
            logits.append(self.layer(states, union).gather(-1, part))
        return torch.cat(logits)

    def _gathered(self, ids: Tensor) -> Tensor:
        """The logits at ``ids`` from those of the whole vocabulary."""
        height = block_height(len(self), self.vocab_size, self.device)
        chunks = zip(self.chunks(height), torch.split(ids, height), strict=True)
        return torch.cat([chunk.gather(-1, part) for chunk, part in chunks])


def joined(parts: Sequence[Rows]) -> Rows:
    """Join ``parts``, all from the same model, along the positions."""
    hidden = [part for part in parts if isinstance(part, Hidden)]
    if len(hidden) == len(parts):
        return Hidden(torch.cat([part.states for part in hidden]), hidden[0].layer)
    return Logits(torch.cat([chunk for part in parts for chunk in part.chunks()]))


class OutputLayer:
    """The matrix product in which a model ends, and what the model does to each logit after it.

    The model's own forward pass computes the hidden states that go in, with its hooks and adapters.
    """

    some_ids = True
    """Whether we may compute the logits of some ids without the others; if not, we always compute the whole vocabulary. Only on
    a CPU does it take less time: elsewhere the search for the ids makes the host wait, and the product is the smaller part."""

    def __init__(self, layer: nn.Linear, ending: Ending, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        self._layer = layer
        self._ending = ending
        self._autocast = autocast
        self._confirmed = False
        self._some_ids_confirmed = False
        self.vocab_size = layer.weight.shape[0]
        self.some_ids = self.some_ids and layer.weight.device.type == "cpu"

    @classmethod
    def of(cls, model: nn.Module, autocast: Callable[[], AbstractContextManager[Any]]) -> OutputLayer | None:
        """The output layer of ``model``; None if the model may do anything unrecognised after it or instead of it."""
        ending = _ending(getattr(model, "config", None)) if _is_plain_call(model) else None
        layer: Any = getattr(model, "get_output_embeddings", lambda: None)()
        return cls(layer, ending, autocast) if ending is not None and _is_plain_linear(layer) else None

    @property
    def n_columns(self) -> int:
        """How many positions of each sequence this layer still computes while :meth:`states` runs the model."""
        return 0 if self._confirmed else 1

    def __call__(self, states: Tensor, ids: Tensor | None = None) -> Tensor:
        """Logits [n, vocab] of ``states`` [n, d], or [n, m] at ``ids`` [m]."""
        with self._autocast():
            return self._ending(self._product(states, ids))

    def can_select_ids(self, states: Tensor, ids: Tensor) -> bool:
        """Whether we may compute the logits of some ids without the others.

        The first call compares our logits at ``ids`` [m] for ``states`` [1, d] with those of the layer itself. If they differ
        (someone replaced ``nn.Linear.forward`` to try a quantisation), we compute all logits from then on.
        """
        if self.some_ids and not self._some_ids_confirmed:
            with self._autocast():
                self.some_ids = same_logits(self._product(states, ids), self._product(states)[:, ids])
            self._some_ids_confirmed = True
        return self.some_ids

    def _product(self, states: Tensor, ids: Tensor | None = None) -> Tensor:
        if ids is None:
            return torch.as_tensor(self._layer(states))
        bias = self._layer.bias
        return nn.functional.linear(states, self._layer.weight[ids], None if bias is None else bias[ids])

    def states(self, forward: Callable[[], Tensor], shape: Sequence[int]) -> Tensor | None:
        """The hidden states [batch, length, d] that enter this layer while ``forward()`` runs the model and returns its logits.

        ``shape`` is [batch, length]. The layer itself gets no position to compute, except one in the first pass, which checks
        that the model's logits equal the layer's output after the ending. None if they do not, or if the layer's input has
        another shape (ProphetNet predicts two tokens ahead); such an input reaches the layer uncut.
        """
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []
        keep = self.n_columns

        def crop_input(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
            states = arguments[0] if arguments else None
            if not isinstance(states, Tensor) or states.shape[:-1] != tuple(shape):
                return None
            inputs.append(states)
            return (states[:, states.shape[1] - keep :], *arguments[1:])

        def keep_output(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            outputs.append(output if self._confirmed else output.clone())  # Chameleon overwrites this tensor

        handles = self._layer.register_forward_pre_hook(crop_input), self._layer.register_forward_hook(keep_output)
        try:
            logits = forward()
        finally:
            for handle in handles:
                handle.remove()
        ran_once = len(outputs) == len(inputs) == 1
        if not self._confirmed or not ran_once:
            self._confirmed = ran_once and torch.equal(logits, self._ending(outputs[0]).to(logits.dtype))
        return inputs[0] if self._confirmed else None


def _is_plain_call(model: nn.Module) -> bool:
    """Whether calling ``model`` runs only transformers' own forward, without hooks that may need all logits."""
    forward = getattr(type(model).forward, "__module__", None) or ""
    hooks = torch.nn.modules.module
    return (
        forward.startswith("transformers.")
        and type(model).__call__ is nn.Module.__call__
        and not _is_changed(model)
        and not any(len(getattr(hooks, name)) for name in ("_global_forward_hooks", "_global_forward_pre_hooks"))
    )


def _is_plain_linear(layer: object) -> bool:
    """Whether ``layer`` only multiplies each input row by a weight matrix in memory; quantised and adapted layers do more."""
    return (
        type(layer) is nn.Linear and type(layer.weight) is nn.Parameter and not layer.weight.is_meta and not _is_changed(layer)
    )


def _is_changed(module: nn.Module) -> bool:
    """Whether ``module`` has hooks or a new ``forward`` (accelerate adds one to spread or offloaded models), or is compiled."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or "forward" in vars(module)
        or getattr(module, "_compiled_call_impl", None) is not None
    )


_ENDINGS: Mapping[str, Callable[[Tensor, float], Tensor]] = {
    "final_logit_softcapping": lambda logits, cap: torch.tanh(logits / cap) * cap,
    "logits_soft_cap": lambda logits, cap: torch.tanh(logits / cap) * cap,
    "logit_scale": lambda logits, scale: logits * scale,
    "logits_scaling": lambda logits, scaling: logits / scaling,
}
"""What transformers does to the logits, by config field, with the same operations in the same order: Gemma 2 and later,
RecurrentGemma, Cohere, Granite."""


def _ending(config: Any) -> Ending | None:
    """What a model with this config does to its logits; None if the config has logit settings that we do not recognise.

    The first pass checks the model's logits against this too. But in low precision, the one position that it checks may hide
    an additional operation.
    """
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    settings: Mapping[str, Any] = vars(config) if config is not None else {}
    fields = [
        (name, value)
        for name, value in settings.items()
        if "logit" in name and "attn" not in name and value not in (None, False, 1)
    ]
    if not fields:
        return lambda logits: logits
    (name, value), *others = fields
    if others or name not in _ENDINGS or type(value) not in (int, float):
        return None
    return lambda logits: _ENDINGS[name](logits, value)
