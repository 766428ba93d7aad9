"""Output for people and machines: the summary table, JSON, Markdown, JUnit properties, facts about recordings.

Modules here may import all folders but ``plugin``, and do not import pytest.
"""
