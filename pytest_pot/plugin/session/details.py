"""Whether this run writes something that has room for the details of gates."""

from __future__ import annotations

import os

import pytest

from pytest_pot.plugin.options import option
from pytest_pot.plugin.session.html_rows import html_page

__all__ = ["STEP_SUMMARY", "details_wanted"]

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
"""The environment variable with the file that GitHub shows on the page of a job."""


def details_wanted(config: pytest.Config) -> bool:
    """Whether the results of gates are to have their details: they cost time to make and to send between processes."""
    return option(config, "report") is not None or bool(os.environ.get(STEP_SUMMARY)) or html_page(config)
