"""Tiny GGUF files: Llama models with random weights, and a tokenizer whose tokens are bytes."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

__all__ = ["BYTES", "GGUF_VOCAB", "write_tiny"]

_WORDS = ["he", "Ġa"]
_SPECIAL = ["<s>", "</s>"]
_WIDTH, _FFN, _LAYERS, _HEADS, _KV_HEADS = 64, 96, 2, 2, 1


def _byte_names() -> list[str]:
    """The characters that stand for the 256 bytes in byte-level BPE."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) if byte in shown else chr(256 + others.index(byte)) for byte in range(256)]


BYTES = len(_SPECIAL)
"""The id of the byte 0; the other bytes follow."""
_TOKENS = [*_SPECIAL, *_byte_names(), *_WORDS]
GGUF_VOCAB = len(_TOKENS)


def write_tiny(path: Path, seed: int = 0, *, change: float = 0.0, context: int = 512, per_file: int = 0) -> Path:
    """Write a model to ``path``, and return the path of its first file.

    Args:
        change: how much noise to add to the weights, relative to them.
        per_file: how many tensors each of several files gets, which are named after ``path``; 0: one file.
    """
    generator, noise = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=per_file)
    writer.add_context_length(context)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FFN)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(GGUF_VOCAB)
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(_TOKENS)
    writer.add_token_types([3] * len(_SPECIAL) + [1] * (GGUF_VOCAB - len(_SPECIAL)))
    writer.add_token_merges(["h e", "Ġ a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)

    def matrix(name: str, rows: int, columns: int, scale: float) -> None:
        values = generator.standard_normal((rows, columns)) * scale / np.sqrt(columns)
        values *= 1 + change * noise.standard_normal(values.shape)
        writer.add_tensor(name, values.astype(np.float32))

    kv = _WIDTH // _HEADS * _KV_HEADS
    matrix("token_embd.weight", GGUF_VOCAB, _WIDTH, 8.0)
    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        matrix(block + "attn_q.weight", _WIDTH, _WIDTH, 1.0)
        matrix(block + "attn_k.weight", kv, _WIDTH, 1.0)
        matrix(block + "attn_v.weight", kv, _WIDTH, 1.0)
        matrix(block + "attn_output.weight", _WIDTH, _WIDTH, 1.0)
        matrix(block + "ffn_gate.weight", _FFN, _WIDTH, 1.0)
        matrix(block + "ffn_up.weight", _FFN, _WIDTH, 1.0)
        matrix(block + "ffn_down.weight", _WIDTH, _FFN, 1.0)
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}{norm}.weight", np.ones(_WIDTH, dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(_WIDTH, dtype=np.float32))
    matrix("output.weight", GGUF_VOCAB, _WIDTH, 3.0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if per_file == 0 else min(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))
