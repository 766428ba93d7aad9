"""Find the equations in a text and evaluate both sides."""

from __future__ import annotations

import re

NUMBER = r"\(?\d+(?:\.\d+)?(?:\*\*2)?\)?"
TERM = rf"{NUMBER}(?: ?[-+*/] ?{NUMBER})*"


def wrong_equations(text: str) -> tuple[int, list[str]]:
    """The number of equations "… = …" of plain terms in ``text``, and those that are wrong."""
    signs: dict[str, str | int | None] = {"−": "-", "×": "*", "÷": "/", "²": "**2"}
    plain = text.translate(str.maketrans(signs))
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", plain)
    count, wrong = 0, []
    for equation in re.findall(rf"(?<![-+*/=:] )(?<![\w.)/*+√-]){TERM}(?: = {TERM})+(?![\w.]*\w|, remainder)", plain):
        sides = equation.split(" = ")
        if any(side.count("(") != side.count(")") for side in sides):
            continue  # the end of a longer equation
        count += 1
        values = [_evaluate(side) for side in sides]
        # A rounded result has fewer decimals than the quotient.
        decimals = min(len(side.partition(".")[2]) for side in sides[1:])
        if max(values) - min(values) > (0.5 * 10**-decimals if "/" in equation and decimals else 1e-6):
            wrong.append(equation)
    return count, wrong


def _evaluate(term: str) -> float:
    assert re.fullmatch(r"[-+*/(). \d]+", term)
    return float(eval(term))
