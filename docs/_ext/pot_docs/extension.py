"""What Sphinx loads: each page's text is prepared before it is parsed, and docstrings become reStructuredText."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.ext.napoleon.docstring import GoogleDocstring

from pot_docs.source import ROOT, PageError, prepared

__all__ = ["setup"]


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", _prepare)
    app.connect("autodoc-process-docstring", _sections)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _prepare(app: Sphinx, name: str, content: list[str]) -> None:
    page = Path(app.env.doc2path(name))
    try:
        content[0] = prepared(content[0], page, _repository())
    except PageError as error:
        raise ExtensionError(f"{page}: {error}") from error


def _sections(_: Sphinx, what: str, *arguments: Any) -> None:
    """Sections such as "Raises:" of functions and classes.

    Napoleon, as an extension, would also take what stands before a colon in an attribute's docstring for its type.
    """
    lines: list[str] = arguments[-1]
    if what in ("function", "method", "class", "exception"):
        # An ending of files, as in *.json, does not begin an emphasis.
        lines[:] = GoogleDocstring([re.sub(r"(?<![\w*])\*(?=\.\w)", r"\\*", line) for line in lines]).lines()


def _repository() -> str | None:
    """Where the project's files can be read on the web; None as long as ``pyproject.toml`` does not say it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    urls = {name.lower(): url for name, url in project.get("urls", {}).items()}
    source = urls.get("source") or urls.get("repository")
    return f"{source.rstrip('/')}/blob/main" if source else None
