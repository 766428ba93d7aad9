"""A model's configuration as recordings keep it: what describes the model, without what describes this machine.

Recordings are committed to repositories, so nothing in them may show where a file was, who trained the model, or a key. In
doubt, a text goes and a number stays: models compute with numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["kept_config"]

_UNREAD = {"id2label", "label2id", "task_specific_params", "transformers.js_config", "device_map", "max_memory"}
"""Fields that no comparison reads, some of which have as many entries as there are classes."""
_LONGEST_TEXT, _LONGEST_LIST, _DEEPEST = 1000, 4096, 16
"""Characters; entries of a list or fields of an object; levels. Configurations of models are far below all three."""

_PATH = re.compile(r"[\w.~:*-][/\\]|(?<!<)[/\\][\w.~*-]|^[/\\]{2}")
"""A path of any system, a model's name on a hub, or an address, anywhere in a text. ``" / "`` and ``"</s>"`` are none."""
_SECRET_VALUE = re.compile(
    r"\bhf_[A-Za-z0-9]{10,}|\bsk-[\w-]{6,}|\b(AKIA|ASIA)[A-Z0-9]{8,}|\b(gh[a-z]|glpat|xox[a-z])[-_]\w{6,}|\bAIza[\w-]{20,}"
    r"|-----BEGIN|\beyJ[\w-]{10,}\.|\b[0-9a-fA-F]{32,}\b|[\w.+-]@[\w-]"
)
"""Keys of well-known services, hexadecimal keys and hashes, addresses of people and machines."""

_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+(?![a-z])")
_PLACES = {
    "path", "paths", "dir", "dirs", "directory", "directories", "folder", "folders", "file", "files", "filename", "filenames",
    "url", "urls", "uri", "uris", "host", "hostname", "username", "user", "login", "email", "command", "cmd", "commit", "pass",
}  # fmt: skip
"""Last words of the names of texts that say where something is or was, or whose it is. Numbers of these names are kept."""
_SECRETS = re.compile(
    r"secret|passw|passphrase|pwd$|credential|bearer|cookie|apikey|(access|auth|encryption|license|private|signing|ssh|account)key"
    r"|(access|api|auth|bearer|bot|github|gitlab|hf|hub|huggingface|refresh|session|wandb)token"
)
"""In a field's name without its separators."""
_SECRET_WORDS = {"auth", "oauth", "authorization", "authentication"}
_COMPUTING_KEYS = {"att", "attn", "attention", "d", "dim", "dims", "head", "heads", "n", "num", "per", "query", "share", "size"}
"""Words beside ``key`` where it is the key of an attention."""
_SPECIAL_TOKENS = {
    "additional", "audio", "bos", "boa", "boi", "bot", "cls", "end", "eoa", "eod", "eoi", "eos", "eot", "image", "img", "mask",
    "num", "pad", "per", "pred", "sep", "special", "start", "unk", "video", "vision",
}  # fmt: skip
"""Words beside ``token`` where it is a token of the vocabulary."""


def kept_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config``, in JSON types, without paths, addresses, keys, and what is too long or too deep, at any depth."""
    kept: dict[str, Any] = _kept(config, _DEEPEST)
    return kept


def _kept(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _kept(each, depth - 1)
            for name, each in value.items()
            if not (_is_unfit(name, depth) or _is_unfit(each, depth) or _is_private(name, each))
        }
    if isinstance(value, list):
        return [_kept(each, depth - 1) for each in value if not _is_unfit(each, depth)]
    return value


def _is_unfit(value: object, depth: int) -> bool:
    """Whether a name or a value is private by itself, or too large."""
    if isinstance(value, str):
        hidden = _PATH.search(value[:_LONGEST_TEXT]) or _SECRET_VALUE.search(value[:_LONGEST_TEXT])
        return len(value) > _LONGEST_TEXT or hidden is not None or (not value.isprintable() and not _is_encodable(value))
    return isinstance(value, Mapping | list) and (len(value) > _LONGEST_LIST or depth <= 1)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a character
        return False
    return True


def _is_private(name: str, value: object) -> bool:
    """Whether ``name`` says that the value is a key, or where something is. Switches and None are neither."""
    if name in _UNREAD:
        return True
    if value is None or isinstance(value, bool):
        return False
    words = [word.lower() for word in _WORD.findall(name)]
    if not words:
        return False
    has_text = _has_text(value)
    if _SECRETS.search("".join(words)) or not _SECRET_WORDS.isdisjoint(words):
        return True
    if words[-1] in ("key", "keys"):
        return has_text or _COMPUTING_KEYS.isdisjoint(words)
    if words[-1] in ("token", "tokens") and _SPECIAL_TOKENS.isdisjoint(words):
        return has_text or words == ["token"]
    return has_text and (words[-1] in _PLACES or words[-2:] == ["commit", "hash"] or words[-3:] == ["name", "or", "path"])


def _has_text(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_text, value.values()))
    return any(map(_has_text, value)) if isinstance(value, list) else isinstance(value, str)
