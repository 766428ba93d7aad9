"""A file that was rounded twice is another model, and pot_distinct makes sure that a gate would notice.

llamacpp://FILE needs no server: llama.cpp runs the file in a process of its own while the tests last.
"""

import pytest
import smollm2


# In this file, this fixture takes the place of the one in conftest.py.
@pytest.fixture(scope="session")
def pot_candidate() -> str:
    return f"llamacpp://{smollm2.q4_0_file()}"


@pytest.mark.pot_distinct(tolerance="int8", positions=16, confidence=0.95)
def test_it_is_another_model() -> None:
    pass
