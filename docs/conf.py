"""The settings of the documentation's site; ``tox run -e docs`` builds it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from pytest_pot.core.version import __version__

project = "pytest-pot"
author = "the pytest-pot developers"
version = release = __version__
html_title = "pytest-pot"
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "pot_docs.extension"]
exclude_patterns = ["_ext"]
needs_sphinx = "8.0"

myst_enable_extensions = ["colon_fence", "deflist"]
# Anchors as GitHub makes them, so that links work there and here.
myst_heading_anchors = 4
# "..." and quotes in messages stay as they are.
smartquotes = False

toc_object_entries = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
# Names that are not documented here: of other packages, whose inventories would have to be downloaded, and internal ones.
nitpick_ignore_regex = [("py:.*", r"(?!pytest_pot\.[A-Za-z_]+$).*")]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_logo = "_static/logo.svg"
html_favicon = "_static/logo.svg"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0f6b5c",
        "color-brand-content": "#0b6356",
        "color-brand-visited": "#0b6356",
    },
    "dark_css_variables": {
        "color-brand-primary": "#5fd0b8",
        "color-brand-content": "#6fd8c2",
        "color-brand-visited": "#6fd8c2",
    },
    "footer_icons": [],
}
# Output of a terminal is no Python.
highlight_language = "none"
