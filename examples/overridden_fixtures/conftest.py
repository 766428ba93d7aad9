"""Override the plugin's fixtures to build models in Python instead of naming them in a marker.

Return the model that your own code builds: a merge, a quantiser, an engine's converter. You can override pot_reference,
pot_candidate, pot_tokenizer and pot_prompts, in a conftest.py or in a test file.
"""

import pytest
import smollm2

from pytest_pot import Prompt


# With params, every marked test in this folder runs once for each candidate.
@pytest.fixture(scope="session", params=["identical", "bf16"])
def pot_candidate(request: pytest.FixtureRequest) -> object:
    make = getattr(smollm2, request.param)
    return make()  # a model, (model, tokenizer), or a name as in a marker


@pytest.fixture(scope="session")
def pot_prompts() -> list[Prompt]:
    return [
        Prompt("Ladies and gentlemen,", " welcome aboard. Please fasten your seat belts and put your bags under the seat."),
        Prompt("SELECT name, salary\nFROM employees\n", "WHERE department = 'Sales'\nORDER BY salary DESC\nLIMIT 10;"),
        Prompt("La Tour Eiffel se trouve", " à Paris, la capitale de la France, et attire des millions de visiteurs par an."),
    ]
