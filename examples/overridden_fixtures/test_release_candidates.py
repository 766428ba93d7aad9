"""One empty test gates every candidate of the conftest.py in this folder."""

import pytest

from pytest_pot import PotResult


@pytest.mark.pot_identity
def test_release_candidate() -> None:
    pass


# A class or a module (pytestmark) can have a marker, too; the nearest one wins.
@pytest.mark.pot_identity(preset="single", max_prompt_score=0.05)
class TestEveryPromptOnItsOwn:
    def test_no_prompt_is_far_off(self, pot_result: PotResult) -> None:
        assert pot_result.report.n_truncated == 0
