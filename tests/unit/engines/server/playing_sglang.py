"""A local server over a tiny real model that answers as the source of SGLang 0.5.23 says: no real one was at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from .playing import PlayedModel, likeliest
from .serving import Reply

__all__ = ["PlayingSglang"]


class PlayingSglang:
    """Answers as ``sglang.launch_server`` does."""

    headers: Mapping[str, str] = {"server": "uvicorn"}

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        context_len: int = 128,
        old: bool = False,
        incremental: bool = False,
        spoil: Callable[[str, Any], Any] = lambda _, body: body,
    ) -> None:
        """``old``: has only the paths that later versions call deprecated. ``incremental``: the server's flag
        ``--incremental-streaming-output``. ``spoil``: given the path and an answer's body, what is sent instead."""
        self.model = PlayedModel(model)
        self.context_len = context_len
        self.old = old
        self.incremental = incremental
        self.spoil = spoil
        self.weight_version = "default"
        self.asked: list[tuple[str, Any]] = []

    def answer(self, method: str, path: str, body: Any) -> Reply:
        self.asked.append((path, body))
        answers: dict[str, Callable[[], Any]] = {
            "GET /v1/models": self._models,
            "GET /get_model_info": self._model_info,
            "GET /get_server_info": self._server_info,
            "POST /generate": lambda: self._generate(body),
        }
        if not self.old:
            answers |= {"GET /model_info": self._model_info, "GET /server_info": self._server_info}
        answer = answers.get(f"{method} {path}")
        if answer is None:
            return Reply(404, {"detail": "Not Found"})
        try:
            reply = answer()
        except ValueError as error:
            return Reply(400, {"error": {"message": str(error)}})
        return Reply(200, reply if isinstance(reply, Iterator) else self.spoil(path, reply))

    def _models(self) -> Any:
        card = {"id": "models/tiny", "object": "model", "created": len(self.asked), "owned_by": "sglang"}
        card |= {"root": "models/tiny", "parent": None, "max_model_len": self.context_len}
        return {"object": "list", "data": [card]}

    def _model_info(self) -> Any:
        return {
            "model_path": "models/tiny",
            "served_model_name": "models/tiny",
            "tokenizer_path": "models/tiny",
            "is_generation": True,
            "preferred_sampling_params": None,
            "weight_version": self.weight_version,
            "load_format": "auto",
        }

    def _server_info(self) -> Any:
        return {
            "model_path": "models/tiny",
            "max_total_num_tokens": 4096,
            "max_req_input_len": self.context_len - 5,
            "internal_states": [{"last_gen_throughput": float(len(self.asked))}],
            "version": "0.5.23",
        }

    def _generate(self, body: Mapping[str, Any]) -> Any:
        ids: list[int] = body["input_ids"]
        how = {"max_new_tokens": 128, "temperature": 1.0, **body["sampling_params"]}
        self._check(ids, body, how)
        how["seed"] = how.get("sampling_seed")
        out = self.model.generate(ids, how["max_new_tokens"], how)
        if body.get("stream"):
            return self._streamed(ids, out)
        info = self._info(ids, out)
        if body.get("return_logprob"):
            rows = self.model.log_probs([*ids, *out])
            info |= self._logprobs(rows, ids, out, body)
        return {"text": "x" * len(out), "output_ids": out, "meta_info": info}

    def _check(self, ids: Sequence[int], body: Mapping[str, Any], how: Mapping[str, Any]) -> None:
        size = self.model.vocab_size
        if len(ids) >= self.context_len - 5:
            raise ValueError(f"Input length ({len(ids)} tokens) exceeds the maximum allowed length.")
        for token in body.get("token_ids_logprob") or ():
            if not 0 <= token < size:
                raise ValueError(f"token_ids_logprob contains out-of-vocabulary token id {token}; valid range is [0, {size}).")
        for token in how.get("logit_bias") or {}:
            if not 0 <= int(token) < size:
                raise ValueError(f"logit_bias must has keys in [0, {size - 1}], got {token}.")

    def _info(self, ids: Sequence[int], out: Sequence[int]) -> dict[str, Any]:
        return {
            "id": f"request-{len(self.asked)}",
            "finish_reason": {"type": "length", "length": len(out)},
            "prompt_tokens": len(ids),
            "weight_version": self.weight_version,
            "completion_tokens": len(out),
            "cached_tokens": 0,
        }

    def _logprobs(self, rows: Tensor, ids: Sequence[int], out: Sequence[int], body: Mapping[str, Any]) -> dict[str, Any]:
        start = body.get("logprob_start_len", -1)
        start = len(ids) if start in (None, -1) else start
        size = self.model.vocab_size

        def entries(index: int, wanted: Sequence[int]) -> list[Any]:
            """About the token at ``index``, [log-probability, id, text] of each id."""
            values = rows[index - 1].tolist()
            return [[values[each], each, None] for each in wanted]

        came = list(range(start + 1, len(ids)))  # the first token of the range has no entry but null
        told: dict[str, Any] = {
            "input_token_logprobs": [
                [
                    None if index == start else float(rows[index - 1][ids[index]]),
                    ids[index] if ids[index] < size - 1 else 0,
                    None,
                ]
                for index in range(start, len(ids))
            ],
            "output_token_logprobs": [[float(rows[len(ids) + j - 1][each]), each, None] for j, each in enumerate(out)],
        }
        if body.get("top_logprobs_num"):
            k = body["top_logprobs_num"]
            told["input_top_logprobs"] = [None, *(entries(index, likeliest(rows[index - 1], k)) for index in came)]
        if body.get("token_ids_logprob"):
            told["input_token_ids_logprobs"] = [None, *(entries(index, body["token_ids_logprob"]) for index in came)]
        return told

    def _streamed(self, ids: Sequence[int], out: Sequence[int]) -> Iterator[Any]:
        info = self._info(ids, out)
        for n, token in enumerate(out, 1):
            own = info | {"completion_tokens": n, "finish_reason": info["finish_reason"] if n == len(out) else None}
            yield {"text": "x", "output_ids": [token] if self.incremental else list(out[:n]), "meta_info": own}
