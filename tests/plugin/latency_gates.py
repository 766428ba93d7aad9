"""Tests with latency gates, for projects of tests."""

from __future__ import annotations

__all__ = ["LATENCY_OFF", "latency_tests"]

LATENCY_OFF = "--pot-latency=off"


def latency_tests(*arguments: str, body: str = "pass", fixtures: str = "") -> str:
    """A test module with one ``pot_latency`` test per list of arguments."""
    tests = [
        f"@pytest.mark.pot_latency({one})\ndef test_{index}({fixtures}):\n    {body}\n" for index, one in enumerate(arguments)
    ]
    return "import pytest\n\n" + "\n".join(tests)
