"""``python -m pytest_pot``: inspect a recording or compare two, without running a model."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pytest_pot.core.errors import PotError
from pytest_pot.core.text import printable_lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0 if it succeeded, or write the reason to stderr and return 1."""
    options = _parser().parse_args(arguments)
    try:
        lines: list[str] = options.run(options)
    except PotError as error:
        sys.stderr.write(f"pytest-pot: {error}\n")
        return 1
    sys.stdout.write("\n".join(map(printable_lines, lines)) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pytest_pot", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    inspect = commands.add_parser("inspect", help="print what a recording holds and where it comes from")
    inspect.add_argument("file", type=Path, metavar="FILE")
    inspect.set_defaults(run=_inspect)
    compare = commands.add_parser(
        "compare", help="score recording B against recording A where their tokens match; every figure is a lower bound"
    )
    compare.add_argument("reference", type=Path, metavar="A")
    compare.add_argument("candidate", type=Path, metavar="B")
    compare.set_defaults(run=_compare)
    for command in (inspect, compare):
        command.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _check_exists(*paths: Path) -> None:
    for path in paths:
        if not os.path.exists(path):
            raise PotError(f"there is no baseline {path.absolute()}")


def _inspect(options: argparse.Namespace) -> list[str]:
    from pytest_pot.baseline.baseline import Baseline
    from pytest_pot.report import inspection
    from pytest_pot.report.json_report import printable_json

    _check_exists(options.file)
    facts = inspection.facts(Baseline.load(options.file), options.file.stat().st_size)
    return [printable_json(facts)] if options.json else inspection.lines(facts)


def _compare(options: argparse.Namespace) -> list[str]:
    from pytest_pot.baseline.baseline import Baseline
    from pytest_pot.report import inspection
    from pytest_pot.report.json_report import printable_json
    from pytest_pot.scoring.baseline_comparison import compare

    _check_exists(options.reference, options.candidate)
    reference, candidate = Baseline.load(options.reference), Baseline.load(options.candidate)
    overlap = compare(reference, candidate)
    if options.json:
        return [printable_json({**asdict(overlap), "n_prompts": overlap.n_prompts})]
    return inspection.comparison_lines(reference, candidate, overlap)


if __name__ == "__main__":
    sys.exit(main())
