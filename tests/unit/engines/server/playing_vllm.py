"""A local server that answers as vLLM 0.32 does, over a tiny real model.

A test compares its answers with the recorded ones of a real server, field by field. ``/inference/v1/generate`` with ids per
position has no recorded answer: it is written from vLLM's source.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from .playing import PlayedModel, likeliest, values_and_ranks
from .serving import Reply

__all__ = ["PlayingVllm"]


class _Refused(Exception):
    def __init__(self, message: str, parameter: str | None = None, status: int = 400, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        error = {"message": message, "type": kind, "param": parameter, "code": status}
        self.reply = Reply(status, {"error": error})


class PlayingVllm:
    """Answers as ``vllm serve`` does."""

    headers: Mapping[str, str] = {"server": "uvicorn"}

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        max_logprobs: int = 20,
        max_model_len: int = 128,
        scale_out: bool = False,
        v2: bool = True,
        spoil: Callable[[str, Any], Any] = lambda _, body: body,
    ) -> None:
        """``scale_out``: whether ``--enable-scale-out`` is set; ``v2``: whether the model runner is the GPU's. ``spoil``: given
        the path and an answer's body, what is sent instead."""
        self.model = PlayedModel(model)
        self.name = "tiny"
        self.version = "0.32.0"
        self.max_logprobs = max_logprobs if max_logprobs >= 0 else self.model.vocab_size
        self.max_model_len = max_model_len
        self.scale_out = scale_out
        self.v2 = v2
        self.spoil = spoil
        self.asked: list[tuple[str, Any]] = []

    def answer(self, method: str, path: str, body: Any) -> Reply:
        self.asked.append((path, body))
        answers: dict[str, Callable[[], Any]] = {
            "GET /v1/models": self._models,
            "GET /version": lambda: {"version": self.version},
            "POST /v1/completions": lambda: self._completions(body),
            "POST /inference/v1/generate": lambda: self._generate(body),
        }
        try:
            answer = answers.get(f"{method} {path}")
            if answer is None:
                return Reply(404, {"detail": "Not Found"})
            reply = answer()
        except _Refused as refused:
            return refused.reply
        return Reply(200, reply if isinstance(reply, Iterator) else self.spoil(path, reply))

    def _models(self) -> Any:
        entry = {
            "id": self.name,
            "object": "model",
            "created": len(self.asked),  # another one at each request
            "owned_by": "vllm",
            "root": "models/tiny",
            "parent": None,
            "max_model_len": self.max_model_len,
            "permission": [{"id": f"modelperm-{len(self.asked)}", "object": "model_permission"}],
        }
        return {"object": "list", "data": [entry]}

    def _check(self, body: Mapping[str, Any], ids: Sequence[int], how: Mapping[str, Any]) -> None:
        if body.get("model") not in (None, self.name):
            message = f"The model `{body['model']}` does not exist. Valid aliases: {self.name}."
            raise _Refused(message, "model", 404, "NotFoundError")
        for each in ids:
            if not 0 <= each < self.model.vocab_size:
                raise _Refused(f"Token id {each} is out of vocabulary")
        for field, what in (("prompt_logprobs", "prompt"), ("logprobs", "sample")):
            wanted = how.get(field)
            wanted = self.model.vocab_size if wanted == -1 else wanted
            if wanted is not None and wanted > self.max_logprobs:
                message = f"Requested {what} logprobs of {wanted}, which is greater than max allowed: {self.max_logprobs}"
                raise _Refused(f"{message} (parameter={field}, value={wanted})", field)
        n = how.get("max_tokens", 16)
        if n < 1 and not body.get("echo"):
            raise _Refused(f"max_tokens must be at least 1, got {n}. (parameter=max_tokens, value={n})", "max_tokens")
        if len(ids) + max(n, 1) > self.max_model_len:
            message = f"This model's maximum context length is {self.max_model_len} tokens. However, your prompt contains"
            raise _Refused(f"{message} {len(ids)} input tokens.", "input_tokens")

    def _prompt_logprobs(self, rows: Tensor, ids: Sequence[int], k: int | None) -> list[Any] | None:
        if k is None:
            return None
        k = self.model.vocab_size if k == -1 else k
        entries: list[Any] = [None]
        for row, token in zip(rows[:-1], ids[1:], strict=True):
            # First the token that came, then the likeliest: one more, if it is not among them.
            names = dict.fromkeys([token, *likeliest(row, k)])
            values, ranks = values_and_ranks(row)
            entries.append(
                {
                    str(each): {"logprob": max(values[each], -9999.0), "rank": ranks[each], "decoded_token": f"<{each}>"}
                    for each in names
                }
            )
        return entries

    def _completions(self, body: Mapping[str, Any]) -> Any:
        ids: list[int] = body["prompt"]
        self._check(body, ids, body)
        if body.get("stream"):
            if body.get("prompt_logprobs") is not None:
                raise _Refused("`prompt_logprobs` are not available when `stream=True`. (parameter=prompt_logprobs)")
            return self._streamed(body, ids)
        out = self.model.generate(ids, body.get("max_tokens", 16), dict(body))
        shown = [*ids, *out] if body.get("echo") else out
        rows = self.model.log_probs([*ids, *out])
        echoes = body.get("logprobs") if body.get("echo") else None
        prompt_logprobs = self._prompt_logprobs(rows[: len(ids)], ids, body.get("prompt_logprobs", echoes))
        choice = {
            "index": 0,
            "text": "".join(f"<{each}>" for each in shown),
            "logprobs": self._logprobs(rows, [*ids, *out], len(shown), body) if body.get("logprobs") is not None else None,
            "finish_reason": "length",
            "stop_reason": None,
            "token_ids": out if body.get("return_token_ids") else None,
            "prompt_logprobs": prompt_logprobs,
            "prompt_token_ids": ids if body.get("return_token_ids") else None,
            "routed_experts": None,
        }
        return {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": len(self.asked),
            "model": self.name,
            "choices": [choice],
            "service_tier": None,
            "system_fingerprint": "vllm-0.32.0-10b43c20",
            "usage": _usage(len(ids), len(out)),
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }

    def _logprobs(self, rows: Tensor, ids: Sequence[int], n: int, body: Mapping[str, Any]) -> Any:
        """Of the last ``n`` tokens of ``ids``."""
        as_ids = body.get("return_tokens_as_token_ids")

        def name(token: int) -> str:
            return f"token_id:{token}" if as_ids else f"<{token % 7}>"  # as texts, some are the same

        numbers: list[float | None] = []
        top: list[dict[str, float] | None] = []
        for index in range(len(ids) - n, len(ids)):
            row = None if index == 0 else rows[index - 1]
            numbers.append(None if row is None else float(row[ids[index]]))
            listed = () if row is None else dict.fromkeys([ids[index], *likeliest(row, body["logprobs"])])
            top.append(None if row is None else {name(each): max(float(row[each]), -9999.0) for each in listed})
        return {
            "text_offset": list(range(n)),
            "token_logprobs": numbers,
            "tokens": [name(each) for each in ids[-n:]],
            "top_logprobs": top,
        }

    def _streamed(self, body: Mapping[str, Any], ids: Sequence[int]) -> Iterator[Any]:
        for token in self.model.generate(ids, body.get("max_tokens", 16), dict(body)):
            logprobs = {"tokens": [f"token_id:{token}"]} if body.get("logprobs") is not None else None
            # Many a token is only a part of a character: it has no text.
            choice: dict[str, Any] = {"index": 0, "text": "" if token % 2 else "x", "logprobs": logprobs, "finish_reason": None}
            choice["token_ids"] = [token] if body.get("return_token_ids") else None
            yield {"id": "cmpl-1", "object": "text_completion", "model": self.name, "choices": [choice]}

    def _generate(self, body: Mapping[str, Any]) -> Any:
        if not self.scale_out:
            message = "Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable them."
            raise _Refused(message, None, 403, "PermissionDeniedError")
        ids: list[int] = body["token_ids"]
        how = body["sampling_params"]
        self._check(body, ids, how)
        rows = self.model.log_probs(ids)
        scores = self._scores(rows, ids, how) if how.get("prompt_logprob_token_ids") is not None else None
        return {
            "request_id": "generate-tokens-1",
            "model": self.name,
            "created": len(self.asked),
            "usage": _usage(len(ids), 1),
            "prompt_logprobs": self._prompt_logprobs(rows, ids, how.get("prompt_logprobs")),
            "prompt_token_id_logprobs": scores,
            "prompt_token_ids": ids if body.get("return_token_ids") else None,
            "mm_placeholders": None,
            "metrics": None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "output_mode": "tokens",
            "choices": [{"index": 0, "finish_reason": "length", "token_ids": [int(rows[-1].argmax())], "logprobs": None}],
        }

    def _scores(self, rows: Tensor, ids: Sequence[int], how: Mapping[str, Any]) -> str:
        wanted, start, name = how["prompt_logprob_token_ids"], how.get("prompt_logprob_start") or 0, "prompt_logprob_token_ids"
        width = max(map(len, wanted))
        if width > self.max_logprobs:
            raise _Refused(f"Requested {width} token ids per row in {name}, which is greater than max allowed", name)
        if not self.v2:
            message = f"{name} requires the V2 model runner (VLLM_USE_V2_MODEL_RUNNER=1). (parameter={name})"
            raise _Refused(message, name)
        if len(wanted) != max(len(ids) - 1 - start, 0):
            raise _Refused(f"{name} has {len(wanted)} rows, but the prompt has {len(ids) - 1 - start} scored rows", name)
        scores = np.full((len(wanted), width), -np.inf, dtype=np.float32)
        for i, row in enumerate(wanted):  # row i is about the token start + i + 1
            scores[i, : len(row)] = rows[start + i].numpy()[row]
        with io.BytesIO() as buffer:
            np.save(buffer, scores, allow_pickle=False)
            return base64.b64encode(buffer.getvalue()).decode("ascii")


def _usage(n_prompt: int, n_out: int) -> Any:
    return {
        "prompt_tokens": n_prompt,
        "total_tokens": n_prompt + n_out,
        "completion_tokens": n_out,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }
