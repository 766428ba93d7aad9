"""vLLM where it tells the log-probabilities of ids of our choice, and which of the two engines a server gets."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pytest_pot.core.config import ScoringConfig
from pytest_pot.core.errors import PotError
from pytest_pot.engines.base import Level
from pytest_pot.engines.distributions import Floats, Ints, TopK
from pytest_pot.engines.server.checks import SAME
from pytest_pot.engines.server.completions import same_ids
from pytest_pot.engines.server.engine import ServerModel
from pytest_pot.engines.server.given_ids import GivenRows, read_at
from pytest_pot.engines.server.vllm import VllmEngine, prompt_rows
from pytest_pot.engines.tokens import Tokens

__all__ = ["VllmGivenIdsEngine", "engine"]

_PATH = "/inference/v1/generate"
_REFUSED = (400, 403, 404, 405, 422, 501)
_PROBE = Tokens((0, 0), 1)


class VllmGivenIdsEngine(VllmEngine):
    """Asks ``/inference/v1/generate`` for ``prompt_logprob_token_ids``: a list of ids of our choice at each position.

    The server has the endpoint with ``--enable-scale-out``, and ids per position with the model runner of GPUs that vLLM calls
    V2. Written from the source of vLLM 0.32, and not seen against a live server: on a CPU vLLM refuses ids per position. So
    :func:`engine` takes this class only after a trial, in which the same number came by both ways.
    """

    level = Level.GIVEN_IDS

    def at(self, batch: Sequence[Tokens], ids: Ints | int) -> TopK:
        """See :class:`~pytest_pot.engines.base.GivenIds`."""
        if isinstance(ids, int):
            whole = self.top_k(batch, None)
            return whole if ids >= self.vocab_size else whole.first(ids)
        return read_at(self, batch, ids, self.rows_at)

    def rows_at(self, tokens: Tokens, ids: Ints) -> GivenRows:
        """What the server says of one prompt at ``ids`` [n_positions, m]."""
        pieces, own = [], None
        for start in range(0, ids.shape[1], self.most_ids):
            answer = self._told(tokens, ids[:, start : start + self.most_ids])
            pieces.append(self._numbers(answer, ids[:, start : start + self.most_ids].shape))
            own = own or prompt_rows(answer, tokens, 1, self.who)
        assert own is not None, "there is at least one id"
        return GivenRows(
            np.concatenate(pieces, axis=1),
            [row.target for row in own],
            [row.ids[0] for row in own],
            [row.log_probs[0] for row in own],
        )

    def _told(self, tokens: Tokens, ids: Ints) -> dict[str, Any]:
        answer = self.client.post(_PATH, _asking(self.model.name, tokens, ids)).body
        if not isinstance(answer, dict):
            raise PotError(f"{self.who} answered {str(answer)[:200]}")
        same_ids(tokens.ids, answer.get("prompt_token_ids"), self.who)
        return answer

    def _numbers(self, answer: Mapping[str, Any], shape: tuple[int, ...]) -> Floats:
        numbers = _decoded(answer.get("prompt_token_id_logprobs"))
        if numbers is None or numbers.shape != shape:
            came = "no array" if numbers is None else f"an array {list(numbers.shape)}"
            raise PotError(f"{self.who} told {came} where an array {list(shape)} was asked for")
        return numbers


def engine(model: ServerModel, role: str, config: ScoringConfig) -> VllmEngine:
    """The engine for a vLLM server: :class:`VllmGivenIdsEngine` where the server tells given ids and as many of its own as the
    comparison needs, else :class:`~pytest_pot.engines.server.vllm.VllmEngine`.

    Raises:
        PotError: as both classes.
    """
    own = VllmEngine(model, role, config)
    needed = own.vocab_size if config.top_k is None else min(config.top_k, own.vocab_size)
    if own.most_ids < needed:
        return own
    body = _asking(model.name, _PROBE, np.zeros((1, 1), dtype=np.int64))
    answer = model.client.post(_PATH, body, allow=_REFUSED)
    return VllmGivenIdsEngine(model, role, config) if answer.status < 300 and _agrees(answer.body, model) else own


def _agrees(answer: Any, model: ServerModel) -> bool:
    """Whether the answer to the trial has the same number for its one id in both of its parts."""
    if not isinstance(answer, dict) or (numbers := _decoded(answer.get("prompt_token_id_logprobs"))) is None:
        return False
    try:
        row = prompt_rows(answer, _PROBE, 1, model.client.url)[0]
    except PotError:
        return False
    return numbers.shape == (1, 1) and isinstance(row.target, float) and abs(numbers[0, 0] - row.target) <= SAME


def _asking(name: str, tokens: Tokens, ids: Ints) -> dict[str, Any]:
    """A request for ``ids`` [n_positions, m], and beside them for the likeliest id and the token that came."""
    how = {
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": 1,
        "prompt_logprob_token_ids": ids.tolist(),
        # Row i of the ids is about token prompt_logprob_start + i + 1.
        "prompt_logprob_start": tokens.prompt_len - 1,
    }
    return {"model": name, "token_ids": list(tokens.ids), "sampling_params": how, "return_token_ids": True}


def _decoded(text: Any) -> Floats | None:
    """The array that ``text`` holds, a ``.npy`` file in base64; None if it is none."""
    if not isinstance(text, str):
        return None
    try:
        array = np.load(io.BytesIO(base64.b64decode(text, validate=True)), allow_pickle=False)
    except (binascii.Error, ValueError, EOFError, OSError):
        return None
    return array.astype(np.float64) if isinstance(array, np.ndarray) and array.dtype == np.float32 else None
