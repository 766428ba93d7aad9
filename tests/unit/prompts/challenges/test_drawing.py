"""Challenge prompts: what the key decides, and how many prompts it chooses from."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import re
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest

from pytest_pot import Prompt
from pytest_pot.prompts.challenges import TEMPLATES, challenge_prompts, challenge_sample
from pytest_pot.prompts.challenges.template import Template

KINDS = ["fact", "code", "dialogue", "reasoning", "multilingual", "narrative", "arithmetic", "structured"]
DIGESTS = {
    ("spring release", 0): "bfe97acbfb3d7e16",
    ("spring release", 1): "1e609236a098e65d",
    ("spring release", 26): "1d208da9e7db656a",
    ("spring release", 999): "2ee4352a83f9c19f",
    ("ключ", 3): "95c1502562efc3a1",
}


def digest(prompt: Prompt) -> str:
    return hashlib.sha256(f"{prompt.kind}\0{prompt.text}\0{prompt.continuation}".encode()).hexdigest()[:16]


def test_two_parties_with_the_same_key_get_the_same_prompts() -> None:
    """The same on any machine, with any Python, in any later version."""
    digests = {(key, index): digest(challenge_prompts(key, index + 1)[index]) for key, index in DIGESTS}
    assert digests == DIGESTS
    every_template = "".join(digest(prompt) for prompt in challenge_prompts("spring release", 240))
    assert hashlib.sha256(every_template.encode()).hexdigest()[:16] == "6d31b861480d9a97"


def test_another_process_draws_the_same_prompts_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pytest_pot.prompts.challenges import challenge_prompts; print(challenge_prompts('k', 40));"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        assert run.stdout == f"{challenge_prompts('k', 40)}\n[]\n"


def test_every_draw_is_an_hmac_of_key_index_and_slot() -> None:
    def draw(key: str, index: int, name: str, below: int) -> int:
        mac = hmac.new(key.encode(), f"pytest-pot challenge 1|{index}|{name}".encode(), "sha256").hexdigest()
        return int(mac[:16], 16) * below // 2**64

    for index, prompt in enumerate(challenge_prompts("schlüssel", 48)):
        templates = [template for template in TEMPLATES if template.kind == KINDS[index % 8]]
        template = templates[draw("schlüssel", index, "template", len(templates))]
        values = {name: slot[draw("schlüssel", index, name, len(slot))] for name, slot in template.slots.items()}
        assert prompt == template.fill(values)


def test_challenge_prompts_cycle_through_the_kinds() -> None:
    assert [prompt.kind for prompt in challenge_prompts("k", 24)] == KINDS * 3


def test_the_kinds_in_a_sample_are_independent_of_each_other() -> None:
    """A chi-squared test on the 64 pairs of kinds; if kinds took turns, it would give 7 * n."""
    kinds = [KINDS.index(prompt.kind or "") for prompt in challenge_sample("k", 4001)]
    n = len(kinds) - 1
    pair_counts = np.zeros((8, 8))
    np.add.at(pair_counts, (kinds[:-1], kinds[1:]), 1)
    chi_squared = float(((pair_counts - n / 64) ** 2 / (n / 64)).sum())
    assert chi_squared < 63 + 5 * (2 * 63) ** 0.5
    assert challenge_sample("k", 5) == challenge_sample("k", 11)[:5]
    assert len({prompt.text for prompt in challenge_sample("k", 500)}) == 500
    assert challenge_sample("l", 5) != challenge_sample("k", 5)


def test_a_longer_list_begins_with_the_shorter_one() -> None:
    assert challenge_prompts("k", 50)[:11] == challenge_prompts("k", 11)


def test_another_key_or_index_gives_another_prompt() -> None:
    prompts = [prompt for key in ("a", "b", "a ", "A") for prompt in challenge_prompts(key, 800)]
    assert len({prompt.text for prompt in prompts}) == len(prompts)
    assert len({prompt.continuation for prompt in prompts}) == len(prompts)


def test_there_are_too_many_prompts_to_tune_a_model_to() -> None:
    """Counted from the slots: the tests below show that each value of a slot gives another prompt."""
    sizes = [math.prod(len(slot) for slot in template.slots.values()) for template in TEMPLATES]
    assert min(sizes) > 10**12
    assert sum(sizes) > 10**25
    assert [template.size for template in TEMPLATES] == sizes


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: f"{template.kind}-{next(iter(template.slots))}")
def test_every_value_of_a_slot_gives_another_prompt(template: Template) -> None:
    """The values of a slot differ, and each gives another prompt, whatever the values of other slots are."""
    for slot, choices in template.slots.items():
        assert len(set(choices)) == len(choices)
        for base in (0, 1, -1):
            values = {name: others[base] for name, others in template.slots.items()}
            few = list(choices)[:: max(1, len(choices) // 40)]
            assert len({template.fill({**values, slot: value}) for value in few}) == len(few), slot


def test_templates_and_values_are_drawn_evenly() -> None:
    prompts = challenge_prompts("even", 8 * 300)
    for kind in KINDS:
        texts = [prompt.text for prompt in prompts if prompt.kind == kind]
        opening = Counter(min(index for index, start in enumerate(OPENINGS[kind]) if re.search(start, text)) for text in texts)
        assert len(opening) == 3
        assert max(abs(count - 100) for count in opening.values()) < 5 * math.sqrt(300 * 2 / 9), kind
    days = Counter(re.findall(r"^On (\w+) evening", "\n".join(p.text for p in prompts), re.MULTILINE))
    assert len(days) == 7
    assert max(days.values()) < 2 * sum(days.values()) / 7


OPENINGS = {
    "fact": ["^The .* is \\d+ kilometres", "born", "first described"],
    "code": ["^def ", "^/// ", "^// "],
    "dialogue": ["^Guest", "^<\\|im_start", "^\\["],
    "reasoning": ["want to start", "^An empty", "^Notice"],
    "multilingual": ["^Liebe", "^Chère", "^Querida"],
    "narrative": ["^On ", "^Notebook", "^The race"],
    "arithmetic": ["on paper", "kilos of", "the train from"],
    "structured": ["^\\{", "^Delivery", "^\\d\\d:\\d\\d INFO"],
}


@pytest.mark.parametrize("key", ["", " ", "\n", None, b"bytes", 7])
def test_a_key_that_is_blank_or_not_a_string_is_an_error(key: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^the key of a challenge must be a string that is not empty or blank, and it is \w+$"
    ):
        challenge_prompts(key, 1)


@pytest.mark.parametrize("n", [0, -1, True, 2.0, "3", None])
def test_a_wrong_number_of_prompts_is_an_error(n: Any) -> None:
    with pytest.raises(ValueError, match=r"n=.*: the number of challenge prompts must be an integer of at least 1"):
        challenge_prompts("k", n)


def test_any_string_can_be_a_key() -> None:
    assert len({challenge_prompts(key, 1)[0] for key in ("ключ", "🔑", "\udc80", "k" * 10_000)}) == 4
