"""What the site is made with: Markdown that is generated from the package and from the results of its benchmarks.

``tables`` writes reference pages from the code, ``schema`` from JSON Schemas, ``results`` reads figures, ``source`` puts all of
it into a page's text, and ``extension`` is what Sphinx loads. Only the last one imports Sphinx.
"""
