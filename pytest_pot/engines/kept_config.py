"""A model's configuration as recordings keep it: what describes the model, without what describes this machine.

Recordings are committed to repositories, so nothing in them may show where a file was, or a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["kept_config"]

_PATH = re.compile(r"(~|\.|\.\.|[A-Za-z]:)?[/\\].|[A-Za-z][\w+.-]+://")
"""An absolute path of any system, one relative to a folder, or an address."""
_PLACE = re.compile(r"(^|_)(path|paths|dir|directory|folder|file|filename|url|uri|commit_hash)$", re.IGNORECASE)
_SECRET = re.compile(r"^(.*_)?(api_key|auth|credentials?|password|secret)$|^((use_)?auth_|hf_|access_)?token$", re.IGNORECASE)
"""Names of fields. Those of special tokens, such as ``bos_token``, are kept."""


def kept_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config``, in JSON types, without paths, addresses and keys, at any depth."""
    kept: dict[str, Any] = _kept(config)
    return kept


def _kept(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _kept(each) for name, each in value.items() if not _is_private(name, each)}
    if isinstance(value, list):
        return [_kept(each) for each in value if not _is_path(each)]
    return value


def _is_private(name: str, value: object) -> bool:
    if not isinstance(value, str):
        return False
    return _is_path(value) or bool(_PLACE.search(name) or _SECRET.search(name))


def _is_path(value: object) -> bool:
    return isinstance(value, str) and _PATH.match(value) is not None
