from __future__ import annotations

from typing import Any

import pytest

from pytest_pot import PotError, Verdict
from pytest_pot.gates.verdict.limits import TOLERANCES, IdentityLimits, default_prompt_limit, distinct_limit, identity_limits


def test_the_default_tolerance_is_half() -> None:
    assert identity_limits("tv") == IdentityLimits(0.01, 0.1)
    assert distinct_limit("tv").min_score == 0.01


@pytest.mark.parametrize("name", TOLERANCES)
def test_a_tolerance_names_a_pair_of_limits(name: str) -> None:
    limit = TOLERANCES[name]
    assert identity_limits("tv", tolerance=name) == IdentityLimits(limit, default_prompt_limit("tv", limit))
    assert distinct_limit("tv", tolerance=name).min_score == limit


@pytest.mark.parametrize("metric", ["tv", "jsd", "top1_flip"])
def test_the_prompt_limit_of_a_metric_up_to_1_is_below_1(metric: str) -> None:
    assert default_prompt_limit(metric, 0.001) == pytest.approx(0.01)
    assert default_prompt_limit(metric, 0.08) == pytest.approx(0.31)
    for limit in (0.1, 0.3, 0.45, 0.99):
        assert limit < default_prompt_limit(metric, limit) < 1.0
    assert default_prompt_limit(metric, 0.0) == 0.0


@pytest.mark.parametrize("metric", ["kl", "kl_reverse", "delta_ce"])
def test_the_prompt_limit_of_an_unbounded_metric_is_ten_times_the_limit(metric: str) -> None:
    assert default_prompt_limit(metric, 0.08) == pytest.approx(0.8)
    assert default_prompt_limit(metric, 3.0) == pytest.approx(30.0)


def test_max_prompt_score_alone_also_limits_the_mean() -> None:
    assert identity_limits("kl", max_prompt_score=0.2) == IdentityLimits(0.2, 0.2, "kl")
    assert identity_limits("kl", max_score=0.1, max_prompt_score=0.2) == IdentityLimits(0.1, 0.2, "kl")
    assert identity_limits("tv", tolerance="int8", max_prompt_score=0.2) == IdentityLimits(0.08, 0.2)


def test_limits_are_inclusive_for_same_and_exclusive_for_different() -> None:
    limits = IdentityLimits(0.1, 0.3)
    assert limits.verdict(0.1, 0.3) is Verdict.SAME
    assert limits.verdict(0.1000001, 0.2) is Verdict.DIFFERENT
    assert limits.verdict(0.05, 0.3000001) is Verdict.DIFFERENT  # one broken prompt
    assert distinct_limit("tv", min_score=0.1).verdict(0.1, 1.0) is Verdict.SAME
    assert distinct_limit("tv", min_score=0.1).verdict(0.1000001, 1.0) is Verdict.DIFFERENT
    assert distinct_limit("tv", min_score=0).verdict(0.0, 0.0) is Verdict.SAME


def test_nan_never_passes() -> None:
    assert IdentityLimits(0.1, 0.3).verdict(float("nan"), 0.0) is Verdict.DIFFERENT
    assert IdentityLimits(0.1, 0.3).verdict(0.0, float("nan")) is Verdict.DIFFERENT
    assert distinct_limit("tv", min_score=0).verdict(float("nan"), 0.0) is not Verdict.DIFFERENT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_score": -1}, "max_score=-1 must be a finite number of at least 0"),
        ({"max_score": "0.1"}, "max_score='0.1' must be a finite number"),
        ({"max_score": float("inf")}, "max_score=inf must be"),
        ({"max_prompt_score": True}, "max_prompt_score=True must be"),
        ({"max_score": 0.1, "tolerance": "half"}, "max_score=0.1 and tolerance='half' are two limits; give one"),
        ({"tolerance": "fp8"}, "tolerance='fp8' is not one of 'identical', 'numeric', 'half', 'int8', 'int4'"),
    ],
)
def test_wrong_limits_are_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r".*") as error:
        identity_limits("tv", **arguments)
    assert message in str(error.value)
    assert isinstance(error.value, PotError)


def test_a_tolerance_is_a_limit_on_tv_only() -> None:
    with pytest.raises(ValueError, match="tolerance='int8' is a limit on 'tv'; with metric='kl' give the limit as a number"):
        identity_limits("kl", tolerance="int8")
    with pytest.raises(ValueError, match=r"the default tolerance 'half' is a limit on 'tv'; .* number: min_score="):
        distinct_limit("jsd")


def test_verdicts_compare_and_print_as_their_names() -> None:
    assert Verdict.SAME == "SAME"
    assert f"{Verdict.DIFFERENT}" == "DIFFERENT"
