"""The plain numbers and texts that modules keep beside their tensors: a scale, an epsilon, a window."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

__all__ = ["Constant", "constants_of"]

Constant = float | int | bool | str | None

_LEFT_OUT = {
    # names and what they are counted by
    "name_or_path", "layer_idx", "layer_id", "layer_index", "block_idx", "idx",
    # only training reads these
    "training", "gradient_checkpointing", "loss_type", "router_aux_loss_coef", "jitter_noise", "padding_idx", "sparse",
    "scale_grad_by_freq", "layerdrop", "inplace", "drop_prob",
    # sizes, which the shapes of the weights tell
    "in_features", "out_features", "num_embeddings", "embedding_dim", "vocab_size", "nf", "nx", "normalized_shape",
    # which kernel computes
    "kernel_config", "use_mambapy", "use_associative_scan", "pretraining_tp", "is_flash_attn_available",
    # how far a table has been filled
    "max_seq_len_cached", "original_max_seq_len", "max_position_embeddings", "max_target_positions",
}  # fmt: skip
_LEFT_OUT_PATTERN = re.compile(r"drop|^_|_cache(d)?$")
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def constants_of(model: nn.Module) -> Mapping[str, Constant]:
    """The numbers and texts by module and attribute, in the model's order.

    A module without tensors and without modules in it, such as an activation, is known by its class: that is the value of the
    module's name alone.
    """
    constants: dict[str, Constant] = {}
    for module_name, module in model.named_modules():
        if isinstance(module, _DROPOUT):
            continue
        for name, value in vars(module).items():
            if _is_constant(value) and name not in _LEFT_OUT and not _LEFT_OUT_PATTERN.search(name):
                constants[f"{module_name}.{name}" if module_name else name] = value
        has_parts = any(True for _ in (*module.children(), *module.parameters(recurse=False), *module.buffers(recurse=False)))
        if module_name and not has_parts:
            constants[module_name] = type(module).__name__
    return constants


def _is_constant(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
