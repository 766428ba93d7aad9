"""The report as one HTML page, which needs no network and no scripts.

``page`` makes it; ``views`` says what the page tells of a gate, ``plots`` draws, ``templates`` has the markup and the style.
Modules here may import all folders but ``plugin``, and do not import pytest. Only ``page`` imports jinja2.
"""
