"""Whether and when a request is sent again."""

from __future__ import annotations

import pytest

from pytest_pot.engines.server import retries
from pytest_pot.engines.server.retries import Failed, Tries


def test_pauses_double_up_to_a_limit_and_differ() -> None:
    tries = Tries(timeout=1000)
    pauses = [tries.pause_when_busy(None) for _ in range(10)]
    assert pauses[-1] is None
    for n, pause in enumerate(pauses[:-1]):
        assert pause is not None
        assert 0.5 * min(8.0, 0.5 * 2**n) <= pause <= min(8.0, 0.5 * 2**n)
    assert Tries(1000).pause_when_busy(None) != Tries(1000).pause_when_busy(None)


def test_all_of_them_fit_into_the_timeout() -> None:
    assert Tries(timeout=0.1).pause_when_busy(None) is None
    assert Tries(timeout=10).pause_when_busy("11") is None
    assert Tries(timeout=1000).pause_when_busy("9") == 9.0


@pytest.mark.parametrize("text", ["1001", "9" * 10, "9" * 400, "Fri, 01 Jan 9999 00:00:00 GMT"])
def test_whoever_asks_for_more_than_the_timeout_is_asked_no_more(text: str) -> None:
    assert Tries(timeout=1000).pause_when_busy(text) is None


@pytest.mark.parametrize("text", ["", "soon", "-3", "1.5", "٣", "Mon, 01 Jan 1990 00:00:00 GMT"])
def test_what_is_no_time_is_as_if_nothing_was_said(text: str) -> None:
    pause = Tries(timeout=1000).pause_when_busy(text)
    assert pause is not None
    assert pause <= 0.5


def test_only_what_was_never_answered_is_sent_again() -> None:
    tries = Tries(timeout=1000)
    assert tries.pause_after(Failed("timed out")) is None
    assert [tries.pause_after(Failed("x", dropped=True)) for _ in range(3)] == [0.0, 0.0, None]
    refused = [tries.pause_after(Failed("x", refused=True)) for _ in range(retries._REFUSED_TRIES)]
    assert refused[-1] is None
    assert all(refused[:-1])
