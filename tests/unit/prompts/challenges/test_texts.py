"""Challenge prompts are sensible texts, and their statements are right: we recompute each from the text itself."""

from __future__ import annotations

import doctest
import json
import re
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import permutations
from typing import Any

import pytest

from pytest_pot import Prompt
from pytest_pot.prompts.challenges import challenge_prompts

from .equations import wrong_equations


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return challenge_prompts("texts", 8 * 90)


def search(pattern: str, text: str, flags: int = 0) -> re.Match[str]:
    match = re.search(pattern, text, flags)
    assert match is not None, (pattern, text)
    return match


def matching(prompts: list[Prompt], kind: str, opening: str) -> list[str]:
    """The whole texts of one template, of which there must be at least 15."""
    texts = [prompt.text + (prompt.continuation or "") for prompt in prompts if prompt.kind == kind]
    matches = [text for text in texts if re.search(opening, text)]
    assert len(matches) >= 15
    return matches


def test_every_slot_is_filled(prompts: list[Prompt]) -> None:
    for prompt in prompts:
        whole = prompt.text + (prompt.continuation or "")
        assert not re.search(r"\$(?!\{article\})|‖", whole)
        if prompt.kind in ("fact", "narrative", "reasoning", "dialogue"):
            assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiouhx]|  ", whole), whole


def test_no_text_ends_in_white_space(prompts: list[Prompt]) -> None:
    assert not [p for p in prompts if p.text[-1].isspace() or p.text[0].isspace() or (p.continuation or "")[-1].isspace()]


def test_continuations_are_long_enough_for_every_preset(prompts: list[Prompt]) -> None:
    for prompt in prompts:
        pieces = re.findall(r"\d{1,3}|[^\W\d]+|[^\w\s]+", prompt.continuation or "")
        assert len(pieces) >= 64, prompt.continuation


def test_the_equations_in_the_prompts_are_right(prompts: list[Prompt]) -> None:
    for kind in ("arithmetic", "reasoning", "structured", "dialogue"):
        n_equations, wrong = wrong_equations("\n".join(p.text + (p.continuation or "") for p in prompts if p.kind == kind))
        assert n_equations > 30
        assert not wrong


def test_sums_and_remainders_are_right(prompts: list[Prompt]) -> None:
    for text in matching(prompts, "arithmetic", "on paper"):
        a, b, c = map(int, search(r"(\d+) × (\d+) \+ (\d+) on paper", text).groups())
        assert int(search(r"The answer is (\d+)\.$", text)[1]) == a * b + c
        ninth = search(r"(\d+) leaves a remainder of (\d) and (\d+) one of (\d)\. .* which leaves (\d),", text)
        assert [int(n) for n in ninth.groups()] == [a, a % 9, b, b % 9, a * b % 9]


def test_the_change_on_a_bill_is_right(prompts: list[Prompt]) -> None:
    for text in matching(prompts, "arithmetic", "kilos of"):
        n, p, m, q = (Fraction(value) for value in re.findall(r"\d+(?:\.\d\d)?", text)[:4])
        paid, change = search(r"pays with ([\d.]+) and is given .* = ([\d.]+) in return", text).groups()
        assert Fraction(paid) - Fraction(change) == n * p + m * q
        assert 0 < Fraction(change) <= 50
        discount = Fraction(search(r"a tenth, which is ([\d.]+) to the nearest cent", text)[1])
        assert abs(discount - (n * p + m * q) / 10) <= Fraction(1, 200)


def test_arrival_times_are_right(prompts: list[Prompt]) -> None:
    for text in matching(prompts, "arithmetic", "the train from"):
        start, hours, minutes, wait, ride = search(
            r"at (\d\d:\d\d)\. It needs (\d+) h (\d+) min .* leaves (\d+) minutes later and drives for another (\d+)", text
        ).groups()
        whole = timedelta(hours=int(hours), minutes=int(minutes) + int(wait) + int(ride))
        end = datetime.strptime(start, "%H:%M") + whole
        assert search(r"He arrives at (\d\d:\d\d)\.", text)[1] == f"{end:%H:%M}"
        assert search(r"gives (\d\d:\d\d) once more", text)[1] == f"{end:%H:%M}"
        h, m = search(r"minutes, which is (\d+) h (\d+) min", text).groups()
        assert timedelta(hours=int(h), minutes=int(m)) == whole


def test_ages_are_right(prompts: list[Prompt]) -> None:
    times_of = {"twice": 2, "three times": 3, "four times": 4}
    for text in matching(prompts, "reasoning", "want to start"):
        more, times, total = search(r"is (\d+) years older than .* is ([\w ]+) as old as .* they are (\d+)\.", text).groups()
        young, middle, old = map(int, search(r"The check: (\d+) \+ (\d+) \+ (\d+) = ", text).groups())
        assert (middle, old) == (young + int(more), young * times_of[times])
        assert young + middle + old == int(total)
        years = int(search(r"In (\d+) years", text)[1])
        assert int(search(r"to (\d+)\.$", text)[1]) == sum(age + years for age in (young, middle, old))


def test_the_time_when_a_tank_is_full_is_right(prompts: list[Prompt]) -> None:
    for text in matching(prompts, "reasoning", "^An empty"):
        numbers = search(r"holds (\d+) litres.* delivers (\d+) litres a minute, but (\d+) litres", text).groups()
        volume, pump, leak = map(int, numbers)
        start, end = search(r"At (\d\d:\d\d)", text)[1], search(r"The answer is therefore (\d\d:\d\d)\.$", text)[1]
        took = datetime.strptime(end, "%H:%M") - datetime.strptime(start, "%H:%M")
        assert took.total_seconds() / 60 * (pump - leak) == volume


def test_the_owners_of_the_animals_are_the_only_solution(prompts: list[Prompt]) -> None:
    for text in matching(prompts, "reasoning", "^Notice"):
        people = search(r"neighbours, (\w+), (\w+) and (\w+), each", text).groups()
        x, y, z = animals = search(r"one animal: a ([\w-]+), a ([\w-]+) and a ([\w-]+)\.", text).groups()
        w, m, o = people
        assert f"{w} does not own the {x}. {o} owns neither the {x} nor the {z}." in text
        possible = [
            owned
            for order in permutations(animals)
            if (owned := dict(zip(people, order, strict=True)))[w] != x and owned[o] not in (x, z)
        ]
        assert possible == [{w: z, m: x, o: y}]
        assert f"the {y} belongs to {o}" in text
        assert f"{w} must have the {z}" in text


def test_the_figures_of_a_life_and_of_a_river_are_right(prompts: list[Prompt]) -> None:
    for text in matching(prompts, "fact", r"\(born"):
        born, work, age_at, moved, child = map(
            int,
            search(r"born (\d+) .* finished in (\d+), when she was (\d+) .* in (\d+), when she was (\d+),", text).groups(),
        )
        after, died, age = map(int, search(r"another (\d+) years and died in (\d+) at the age of (\d+)", text).groups())
        assert (work - born, moved - born, died - work, died - born) == (age_at, child, after, age)
        assert moved < work
    for text in matching(prompts, "fact", "kilometres long"):
        length, height = map(int, search(r"is (\d+) kilometres long.* height of (\d+) metres", text).groups())
        assert int(search(r"about (\d+) centimetres per kilometre", text)[1]) == height * 100 // length
        first, gap, second = map(int, search(r"floods of (\d+) .* again (\d+) years later, in (\d+),", text).groups())
        assert first + gap == second


def test_python_code_passes_its_own_tests(prompts: list[Prompt]) -> None:
    for text in matching(prompts, "code", r"\Adef "):
        space: dict[str, Any] = {}
        exec(text, space)
        function, test = (value for name, value in space.items() if name != "__builtins__")
        test()
        (example,) = doctest.DocTestFinder().find(function, globs=space)
        assert len(example.examples) == 1
        assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


def test_rust_states_the_right_checksums(prompts: list[Prompt]) -> None:
    for text in matching(prompts, "code", r"\A///"):
        factor, modulus, seed = (int(search(rf"{name} = (\d+);", text)[1]) for name in ("FACTOR: u64", "MODULUS: u64", "state"))
        stated = re.findall(r"&\[(.*)\]\), (\d+)\);", text)
        assert [data.count(",") + bool(data) for data, _ in stated] == [0, 1, 2, 3]
        for data, result in stated:
            state = seed
            for value in filter(None, data.split(", ")):
                state = (state * factor + int(value)) % modulus
            assert state == int(result)


def test_javascript_states_the_right_totals(prompts: list[Prompt]) -> None:
    for text in matching(prompts, "code", r"\A// "):
        prices = {article: int(price) for article, price in re.findall(r'\["(\w+)", (\d+)\]', text)}
        calls = re.findall(r"total\(\{ (.*) \}(?:, (\d+))?\)\); // (\d+)", text)
        assert len(calls) == 4
        for basket, voucher, result in calls:
            counts = [pair.split(": ") for pair in basket.split(", ")]
            assert sum(prices[article] * int(count) for article, count in counts) - int(voucher or 0) == int(result)


def test_json_can_be_parsed_and_its_summary_is_right(prompts: list[Prompt]) -> None:
    for text in matching(prompts, "structured", r"\A\{"):
        record = json.loads(text)
        levels = [row["level"] for row in record["levels"]]
        assert record["summary"] == {"count": 3, "sum": sum(levels), "highest": max(levels), "lowest": min(levels)}
        assert record["alarm"]["limit"] - record["alarm"]["below_limit_by"] == levels[1] == max(levels)


def test_tables_add_up(prompts: list[Prompt]) -> None:
    for text in matching(prompts, "structured", r"\ADelivery"):
        rows = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
        *articles, total = rows[2:]
        assert len(articles) == 3
        for _, pieces, price, amount in articles:
            assert int(pieces) * Fraction(price) == Fraction(amount)
        assert int(total[1]) == sum(int(row[1]) for row in articles)
        assert Fraction(total[3]) == sum(Fraction(row[3]) for row in articles)


def test_logs_are_in_order_and_their_counts_are_right(prompts: list[Prompt]) -> None:
    for text in matching(prompts, "structured", r"\A\d\d:\d\d INFO"):
        times = [datetime.strptime(line[:5], "%H:%M") for line in text.splitlines()]
        assert times == sorted(times)
        total, done, left = map(int, search(r"started, (\d+) .* after (\d+) \w+, (\d+) left", text, re.DOTALL).groups())
        assert total - done == left
        took = int(search(r"took (\d+) minutes", text)[1])
        assert timedelta(minutes=took) == times[-1] - times[0]


def test_sums_in_dialogues_are_right(prompts: list[Prompt]) -> None:
    for text in matching(prompts, "dialogue", "^Guest"):
        day, nights = map(int, search(r"from (\d+) \w+, for (\d+) nights", text).groups())
        assert int(search(r"leaving on (\d+) ", text)[1]) == day + nights <= 28
        price, meal = int(search(r"at (\d+) a night", text)[1]), int(search(r"It is (\d+) more", text)[1])
        assert int(search(r"so (\d+) in all", text)[1]) == nights * (price + meal)
    for text in matching(prompts, "dialogue", "im_start"):
        watts, hours, rate = search(r"draws (\d+) watts and runs for (\d+) hours .* costs ([\d.]+) here", text).groups()
        cost = Fraction(search(r"the cost is ([\d.]+), to the nearest cent", text)[1])
        assert abs(cost - Fraction(int(watts) * int(hours) * 30, 1000) * Fraction(rate)) <= Fraction(1, 200)


def test_sums_in_letters_are_right(prompts: list[Prompt]) -> None:
    for text in matching(prompts, "multilingual", "^Liebe"):
        month, year = search(r"kostet (\d+) Euro im Monat, also (\d+) Euro im Jahr", text).groups()
        assert int(month) * 12 == int(year)
    for text in matching(prompts, "multilingual", "^Chère"):
        jars, price, total = search(r"acheté (\d+) pots de miel à ([\d,]+) euros, ce qui fait ([\d,]+) euros", text).groups()
        assert int(jars) * Fraction(price.replace(",", ".")) == Fraction(total.replace(",", "."))
        since, now, years = map(int, search(r"depuis (\d+); en (\d+), cela fera donc (\d+) ans", text).groups())
        assert now - since == years
    for text in matching(prompts, "multilingual", "^Querida"):
        trees, kilos, total = map(int, search(r"tiene (\d+) olivos.* unos (\d+) kilos de .* unos (\d+) kilos", text).groups())
        assert trees * kilos == total
