"""Read continuations token by token through a model's own key-value cache, as it reads them while it generates.

We call the model's own ``generate`` and choose every token ourselves. So the cache, the positions and the masks are those of
generation: static, quantised and sliding caches, recurrent states, and whatever the model prepares for each step.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.core.text import shorten
from pytest_pot.engines.pytorch.batch_reader import Forward, each_alone, padded
from pytest_pot.engines.pytorch.forced_steps import Reduce, Steps, tokens_counted
from pytest_pot.engines.pytorch.memory import is_out_of_memory
from pytest_pot.engines.pytorch.model_facts import ModelFacts
from pytest_pot.engines.pytorch.model_traits import generating_module, has_own_code, max_positions, reads_alone
from pytest_pot.engines.pytorch.rounding import largest_difference, same_cells
from pytest_pot.engines.tensors import Distributions
from pytest_pot.engines.tokens import Tokens

__all__ = ["Decoder", "Reduction"]

_CACHE_SETTINGS = ("cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size")
"""What a model's generation config says about its cache. Its other settings choose tokens, and we choose them here."""

_LEFT_BEHIND = ("generation_config", "_cache", "_previous_max_cache_length")
"""Attributes of a model that change while it generates: our config, a static cache and its length."""


_FLOAT32_EPS = torch.finfo(torch.float32).eps
_ROUNDING_FACTOR = 3.0
"""How many times as far as one forward pass and single steps are from each other, both without padding, padding may move a
model in half precision."""


@dataclass(frozen=True)
class Reduction:
    """What becomes of logits."""

    reduce: Reduce
    device: torch.device
    """Where the model takes its inputs."""
    eps: float
    """Machine epsilon of the model's dtype."""


class Decoder:
    """Reads batches token by token.

    Prompts are padded on the left, as generation needs it. Padding must not change a model's results, so we check that: the
    prompt with the most padding also runs alone. If that makes a difference, only prompts of the same length share a batch.
    """

    def __init__(self, facts: ModelFacts, role: str, config: ScoringConfig, forward: Forward) -> None:
        """``forward``: runs the model on whole sequences, for the check of the padding.

        Raises:
            PotError: the model has no ``generate`` of transformers.
        """
        model = facts.model
        generator = generating_module(model)
        if generator is None:
            raise PotError(
                f"path='decode' cannot read the {role} token by token: {type(model).__name__} has no generate() of "
                "transformers, which prepares a key-value cache. Use path='prefill', which reads each continuation in one "
                "forward pass"
            )
        self._model = model
        self._generator = generator
        self._role = role
        self._forward = forward
        self._own_code = has_own_code(facts)
        self._takes_mask = _takes_mask(generator)
        self._limit = max_positions(model)
        self._one_by_one = config.every_position
        self._pads = self._takes_mask
        self._harmless_padding = 0
        """The most padding, in tokens, that was seen to change nothing."""

    @property
    def note(self) -> str | None:
        """What a reader of the results should know."""
        if self._pads or self._one_by_one:
            return None
        return "prompts of different length apart, because padding changes its results"

    def at(self, batch: Sequence[Tokens], ids: Tensor | int, reduction: Reduction) -> Distributions:
        """The distributions at ``ids`` [n, m], or at the first m of the vocabulary, at the n positions of ``batch``."""
        starts = [0, *accumulate(tokens.n_positions for tokens in batch)]
        results: dict[int, Distributions] = {}
        waiting = self._groups(batch, range(len(batch)))
        while waiting:
            group = waiting.pop(0)
            tokens = [batch[i] for i in group]
            cells = ids if isinstance(ids, int) else torch.cat([ids[starts[i] : starts[i + 1]] for i in group])
            read = self._read(tokens, cells, reduction)
            if self._is_harmless(tokens, cells, read, reduction):
                ends = [0, *accumulate(t.n_positions for t in tokens)]
                results.update({i: read.rows(*part) for i, part in zip(group, pairwise(ends), strict=True)})
            else:
                self._pads = False
                waiting = self._groups(batch, group) + waiting
        return Distributions.concatenate([results[i] for i in range(len(batch))])

    def _groups(self, batch: Sequence[Tokens], indices: Sequence[int]) -> list[list[int]]:
        """Split ``indices`` into groups of prompts that can be read together."""
        groups: list[list[int]] = []
        for index in indices:
            group = next((group for group in groups if self._can_share([batch[i] for i in (*group, index)])), None)
            if group is None:
                groups.append([index])
            else:
                group.append(index)
        return groups

    def _can_share(self, batch: Sequence[Tokens]) -> bool:
        """Whether ``batch`` can be read together. All rows run for as many steps as the row with most positions."""
        prompts = [tokens.prompt_len for tokens in batch]
        length = max(prompts) + max(tokens.n_positions for tokens in batch)
        if self._one_by_one or reads_alone(self._model, length) or (self._limit is not None and length > self._limit):
            return False
        return self._pads or min(prompts) == max(prompts)

    def _is_harmless(self, batch: Sequence[Tokens], ids: Tensor | int, read: Distributions, reduction: Reduction) -> bool:
        """Whether the padding of ``batch`` left its results ``read`` alone, but for rounding."""
        longest = max(tokens.prompt_len for tokens in batch)
        shortest = min(range(len(batch)), key=lambda i: batch[i].prompt_len)
        padding = longest - batch[shortest].prompt_len
        if padding <= self._harmless_padding:
            return True
        alone, eps = [batch[shortest]], reduction.eps
        start = sum(tokens.n_positions for tokens in batch[:shortest])
        stop = start + alone[0].n_positions
        cells = ids if isinstance(ids, int) else ids[start:stop]
        padded_read = read.rows(start, stop)
        targets = torch.tensor(alone[0].targets, device=reduction.device)
        # One forward pass is cheap, and shows that the padding did nothing if the cache did nothing either.
        whole = reduction.reduce(each_alone(alone, self._forward, reduction.device), targets, cells)
        harmless = same_cells(whole, padded_read, eps)
        if not harmless:
            stepwise = self._read(alone, cells, reduction)
            # In half precision, rounding alone may move a model by more than any fixed bound: see by how much it does here.
            rounding = _ROUNDING_FACTOR * largest_difference(whole, stepwise) if eps > _FLOAT32_EPS else 0.0
            harmless = same_cells(stepwise, padded_read, eps, or_within=rounding)
        self._harmless_padding = padding if harmless else self._harmless_padding
        return harmless

    def _read(self, batch: Sequence[Tokens], ids: Tensor | int, reduction: Reduction) -> Distributions:
        """Read ``batch`` token by token; the distributions of all positions, prompt after prompt."""
        steps = Steps(reduction.reduce, batch, ids, reduction.device)
        with self._own_code_mode(), self._as_before(), tokens_counted(self._generator, steps):
            ids, mask = padded([tokens.ids[: tokens.prompt_len] for tokens in batch], reduction.device, left=True)
            try:
                self._generate(ids, mask, steps)
            except PotError:
                raise
            except Exception as error:  # a cache that is not installed or does not suit the model may raise anything
                if is_out_of_memory(error):
                    raise
                reason = shorten(next(iter(str(error).splitlines()), ""), 200)
                raise PotError(
                    f"the {self._role} cannot be read token by token (path='decode'): its generate() failed after "
                    f"{steps.done} of {steps.count} tokens with {type(error).__name__}: {reason}"
                ) from error
        if steps.done < steps.count:
            raise PotError(
                f"the {self._role} cannot be read token by token (path='decode'): its generate() stopped after {steps.done} of "
                f"{steps.count} tokens, or chooses tokens without the logits processors that it is given. Use path='prefill'"
            )
        if steps.has_no_cache:
            raise PotError(
                f"the {self._role} generates without a key-value cache: {type(self._generator).__name__} read the whole text "
                "again for each token, so path='decode' would show nothing that path='prefill' does not. Use path='prefill'"
            )
        return steps.results()

    def _generate(self, ids: Tensor, mask: Tensor, steps: Steps) -> None:
        from transformers import GenerationConfig, LogitsProcessorList

        generator: Any = self._generator
        own = generator.generation_config
        kept = {name: getattr(own, name) for name in _CACHE_SETTINGS if getattr(own, name, None) is not None}
        # Compiling each shape of a batch would take minutes.
        plain: Any = GenerationConfig(  # type: ignore[no-untyped-call, unused-ignore]
            max_new_tokens=steps.count, do_sample=False, pad_token_id=0, use_cache=True, disable_compile=True, **kept
        )
        # generate() takes from the model's own config what ours leaves open, such as an EOS token to stop at.
        generator.generation_config = plain
        model: Any = self._model
        model.generate(
            ids,
            generation_config=plain,
            logits_processor=LogitsProcessorList([steps]),
            **({"attention_mask": mask} if self._takes_mask else {}),
        )

    @contextmanager
    def _own_code_mode(self) -> Iterator[None]:
        """The user's module may create and keep tensors, which must work outside inference mode too."""
        if not self._own_code:
            yield
            return
        with torch.inference_mode(False), torch.no_grad():
            yield

    @contextmanager
    def _as_before(self) -> Iterator[None]:
        """Restore what ``generate`` leaves behind in the model, and the config that we replace."""
        attributes = vars(self._generator)
        before = {name: attributes[name] for name in _LEFT_BEHIND if name in attributes}
        try:
            yield
        finally:
            for name in _LEFT_BEHIND:
                attributes.pop(name, None)
            attributes.update(before)


def _takes_mask(generator: nn.Module) -> bool:
    """Whether the forward of ``generator`` can be given an attention mask. What it does with it, the check of padding shows."""
    parameters = inspect.signature(generator.forward).parameters
    return "attention_mask" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
