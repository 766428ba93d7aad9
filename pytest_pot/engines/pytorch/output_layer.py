"""Logits at the positions that are needed, and at no others: from a model's own forward, or from its hidden states.

Most causal language models end in one matrix product, from hidden states to logits; some cap or scale each logit then. Taken
apart from the rest, that is done for the needed positions only, a bounded number at a time, and for the needed ids only where
the others do not count. A model that does anything else to its logits is left whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pytest_pot.engines.pytorch.rounding import same_logits

__all__ = ["Hidden", "Logits", "OutputLayer", "Rows", "joined"]

_ELEMENTS = {"cpu": 6 << 20}
_ELEMENTS_ELSEWHERE = 1 << 27
"""Logits at once, by the type of the device. On a CPU, 24 MiB in float32: the C library maps larger blocks afresh each time."""

_LEAST_ROWS = 64
"""Positions at once, however large the vocabulary: fewer, and the weights are read more often than it takes to multiply."""


Ending = Callable[[Tensor], Tensor]
"""What a model does to each logit after the product."""


class Rows(Protocol):
    """The logits at n positions, in whatever form they are."""

    vocab_size: int
    device: torch.device

    def __len__(self) -> int: ...

    def chunks(self) -> Iterator[Tensor]:
        """All logits, in chunks of positions, [any, vocab] each."""

    def at(self, ids: Tensor) -> Tensor:
        """The logits at ``ids`` [n, m] of each position, [n, m]."""


class Logits:
    """Logits that a model has made."""

    def __init__(self, logits: Tensor) -> None:
        """``logits``: [n, vocab]."""
        self._logits = logits
        self.vocab_size = logits.shape[-1]
        self.device = logits.device

    def __len__(self) -> int:
        return len(self._logits)

    def chunks(self) -> Iterator[Tensor]:
        yield from torch.split(self._logits, _rows_at_once(self._logits, self.vocab_size))

    def at(self, ids: Tensor) -> Tensor:
        return self._logits.gather(-1, ids)


class Hidden:
    """Hidden states, of which the output layer makes logits."""

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

    def chunks(self) -> Iterator[Tensor]:
        for states in torch.split(self.states, _rows_at_once(self.states, self.vocab_size)):
            yield self.layer(states)

    def at(self, ids: Tensor) -> Tensor:
        """One product with the rows of all ids that any position needs: the positions of a text share most of them."""
        union, places = torch.unique(ids, return_inverse=True)
        if not self.layer.makes_some(self.states[:1], union):
            ends = torch.split(ids, _rows_at_once(self.states, self.vocab_size))
            return torch.cat([chunk.gather(-1, part) for chunk, part in zip(self.chunks(), ends, strict=True)])
        found, rows = [], _rows_at_once(self.states, len(union))
        for states, part in zip(torch.split(self.states, rows), torch.split(places, rows), strict=True):
            found.append(self.layer(states, union).gather(-1, part))
        return torch.cat(found)


def joined(parts: Sequence[Rows]) -> Rows:
    """The positions of all ``parts``, which are of one model."""
    hidden = [part for part in parts if isinstance(part, Hidden)]
    if len(hidden) == len(parts):
        return Hidden(torch.cat([part.states for part in hidden]), hidden[0].layer)
    return Logits(torch.cat([chunk for part in parts for chunk in part.chunks()]))


def _rows_at_once(like: Tensor, width: int) -> int:
    """Positions per chunk of ``width`` logits each; chunks of one batch are of even size."""
    most = max(_LEAST_ROWS, _ELEMENTS.get(like.device.type, _ELEMENTS_ELSEWHERE) // width)
    n_chunks = max(1, -(-len(like) // most))
    return max(1, -(-len(like) // n_chunks))


class OutputLayer:
    """The product that a model ends in, and what it does to each logit then; the model's own forward makes what goes in, hooks,
    adapters and all."""

    some_ids = True
    """Whether logits are made of some ids only where no others are asked for; else always of the whole vocabulary."""

    def __init__(self, layer: nn.Linear, ending: Ending, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        self._layer = layer
        self._ending = ending
        self._autocast = autocast
        self._confirmed = False
        self._rows_confirmed = False
        self.vocab_size = layer.weight.shape[0]

    @classmethod
    def of(cls, model: nn.Module, autocast: Callable[[], AbstractContextManager[Any]]) -> OutputLayer | None:
        """The output layer of ``model``; None where something that is not known might come after it, or in its place."""
        ending = _ending(getattr(model, "config", None)) if _is_plain_call(model) else None
        layer: Any = getattr(model, "get_output_embeddings", lambda: None)()
        return cls(layer, ending, autocast) if ending is not None and _is_plain_linear(layer) else None

    @property
    def n_columns(self) -> int:
        """How many positions of each sequence the layer is left with when the model runs in :meth:`states`."""
        return 0 if self._confirmed else 1

    def __call__(self, states: Tensor, ids: Tensor | None = None) -> Tensor:
        """Logits [n, vocab] of ``states`` [n, d], or [n, m] at ``ids`` [m]."""
        with self._autocast():
            return self._ending(self._product(states, ids))

    def makes_some(self, states: Tensor, ids: Tensor) -> bool:
        """Whether logits at some ids are to be made without the others.

        At the first use, those at ``ids`` [m] of ``states`` [1, d] are compared with what the layer itself makes: where they
        differ (another ``forward`` put into ``nn.Linear``, to try a quantisation), all logits are made from then on.
        """
        if self.some_ids and not self._rows_confirmed:
            with self._autocast():
                self.some_ids = same_logits(self._product(states, ids), self._product(states)[:, ids])
            self._rows_confirmed = True
        return self.some_ids

    def _product(self, states: Tensor, ids: Tensor | None = None) -> Tensor:
        if ids is None:
            return torch.as_tensor(self._layer(states))
        bias = self._layer.bias
        return nn.functional.linear(states, self._layer.weight[ids], None if bias is None else bias[ids])

    def states(self, forward: Callable[[], Tensor], shape: Sequence[int]) -> Tensor | None:
        """What goes into this layer while ``forward()`` runs the model and returns its logits: ``shape`` [batch, length] and d.

        The layer itself is given nothing to do, but for one position at the first use, which shows whether the model's logits
        are what comes out of it, and the ending made of that. None where they are not, or where something of another shape goes
        in (ProphetNet's states of two tokens ahead), of which nothing is taken away.
        """
        went_in: list[Tensor] = []
        came_out: list[Tensor] = []
        keep = self.n_columns

        def cut(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
            states = arguments[0] if arguments else None
            if not isinstance(states, Tensor) or states.shape[:-1] != tuple(shape):
                return None
            went_in.append(states)
            return (states[:, states.shape[1] - keep :], *arguments[1:])

        def note(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            came_out.append(output if self._confirmed else output.clone())  # Chameleon writes over what it gets

        handles = self._layer.register_forward_pre_hook(cut), self._layer.register_forward_hook(note)
        try:
            logits = forward()
        finally:
            for handle in handles:
                handle.remove()
        once = len(came_out) == len(went_in) == 1
        if not self._confirmed or not once:
            self._confirmed = once and torch.equal(logits, self._ending(came_out[0]).to(logits.dtype))
        return went_in[0] if self._confirmed else None


def _is_plain_call(model: nn.Module) -> bool:
    """Whether calling ``model`` runs the library's own forward, and nothing that would want to see all logits."""
    forward = getattr(type(model).forward, "__module__", None) or ""
    hooks = torch.nn.modules.module
    return (
        forward.startswith("transformers.")
        and type(model).__call__ is nn.Module.__call__
        and not _is_changed(model)
        and not any(len(getattr(hooks, name)) for name in ("_global_forward_hooks", "_global_forward_pre_hooks"))
    )


def _is_plain_linear(layer: object) -> bool:
    """Whether each row of its output is its own row's product with a matrix that is there: no quantised or adapted layer."""
    return (
        type(layer) is nn.Linear and type(layer.weight) is nn.Parameter and not layer.weight.is_meta and not _is_changed(layer)
    )


def _is_changed(module: nn.Module) -> bool:
    """Whether it was given hooks, another forward (as accelerate does to models that are spread or offloaded), or compiled."""
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
"""By the configuration's field, what transformers does to the logits, in its operations and their order: Gemma 2 and later,
RecurrentGemma, Cohere, Granite."""


def _ending(config: Any) -> Ending | None:
    """What a model of this configuration does to its logits; None where it speaks of logits in a way that is not known.

    The first use shows whether the model does so, but in low precision one position may not show what it does beside that.
    """
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    every: Mapping[str, Any] = vars(config) if config is not None else {}
    fields = [
        (name, value)
        for name, value in every.items()
        if "logit" in name and "attn" not in name and value not in (None, False, 1)
    ]
    if not fields:
        return lambda logits: logits
    (name, value), *others = fields
    if others or name not in _ENDINGS or type(value) not in (int, float):
        return None
    return lambda logits: _ENDINGS[name](logits, value)
