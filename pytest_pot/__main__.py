"""The commands of python -m pytest_pot: inspect a recording, compare two, explain how two models differ, compare two runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from pytest_pot.core.errors import PotError
from pytest_pot.core.names import DTYPES
from pytest_pot.core.text import printable_lines

_LINE = 40
"""Characters of the line that shows the progress."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 0 if it succeeded; where it could not, write the reason to stderr and return 1.

    ``diff`` returns 1 if a verdict changed, and 2 if it could not compare.
    """
    options = _parser().parse_args(arguments)
    try:
        lines, status = options.run(options)
    except PotError as error:
        sys.stderr.write(f"pytest-pot: {error}\n")
        return int(options.error_status)
    sys.stdout.write("\n".join(map(printable_lines, lines)) + "\n")
    return int(status)


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
    explain = commands.add_parser(
        "explain",
        help="tell what changed between two models (configuration, weights by name) and where the difference starts",
        description="Tell what changed between two models: configuration, weights by name, and the first module whose output "
        "differs. The exit status is 0, also where little could be told, and 1 where a model cannot be loaded.",
    )
    explain.add_argument("reference", metavar="REFERENCE", help="a model by any name that markers take, or a recording")
    explain.add_argument("candidate", metavar="CANDIDATE", help="a model")
    explain.add_argument(
        "--prompts", type=Path, metavar="FILE", help="compare the modules on the first prompt of this JSON Lines file"
    )
    explain.add_argument("--device", default="auto", help="where both models run: auto, cpu, cuda, cuda:N, mps (default: auto)")
    explain.add_argument("--dtype", default="auto", help=f"precision of both: {', '.join(DTYPES)} (default: auto)")
    explain.set_defaults(run=_explain)
    diff = commands.add_parser(
        "diff",
        help="tell what changed between the JSON reports of two runs, as Markdown",
        description="Tell what changed between the JSON reports of two runs (--pot-report=gates.json), as Markdown: verdicts, "
        "scores that moved by more than noise, limits, gates that are new or gone. The exit status is 0 where no verdict "
        "changed, 1 where one did, for better or worse, and 2 where a report cannot be read. Gates that are new or gone do not "
        "change it.",
    )
    diff.add_argument("old", type=Path, metavar="OLD")
    diff.add_argument("new", type=Path, metavar="NEW")
    diff.set_defaults(run=_diff)
    for command in (inspect, compare, explain, diff):
        command.set_defaults(error_status=2 if command is diff else 1)
        command.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


_Output = tuple[list[str], int]
"""What a command prints, and its exit status."""


def _check_exists(*paths: Path) -> None:
    for path in paths:
        if not os.path.exists(path):
            raise PotError(f"there is no recording {path.absolute()}")


def _inspect(options: argparse.Namespace) -> _Output:
    from pytest_pot.baseline.baseline import Baseline
    from pytest_pot.report import inspection
    from pytest_pot.report.json_report import printable_json

    _check_exists(options.file)
    facts = inspection.facts(Baseline.load(options.file), options.file.stat().st_size)
    return [printable_json(facts)] if options.json else inspection.lines(facts), 0


def _compare(options: argparse.Namespace) -> _Output:
    from pytest_pot.baseline.baseline import Baseline
    from pytest_pot.report import inspection
    from pytest_pot.report.json_report import printable_json
    from pytest_pot.scoring.baseline_comparison import compare

    _check_exists(options.reference, options.candidate)
    reference, candidate = Baseline.load(options.reference), Baseline.load(options.candidate)
    overlap = compare(reference, candidate)
    if options.json:
        return [printable_json({**asdict(overlap), "n_prompts": overlap.n_prompts})], 0
    return inspection.comparison_lines(reference, candidate, overlap), 0


def _explain(options: argparse.Namespace) -> _Output:
    from pytest_pot.baseline.naming import is_baseline
    from pytest_pot.core.config import ScoringConfig

    config = ScoringConfig(device=options.device, dtype=options.dtype)
    _check_exists(*(Path(spec) for spec in (options.reference, options.candidate) if is_baseline(spec)))
    from pytest_pot.report.explanation import ExplanationRequest, explain
    from pytest_pot.report.json_report import printable_json

    request = ExplanationRequest(options.reference, options.candidate, config, options.prompts)
    with _progress_line() as progress:
        explanation = explain(request, progress)
    return [printable_json(explanation.to_dict())] if options.json else explanation.lines(), 0


def _diff(options: argparse.Namespace) -> _Output:
    from pytest_pot.report.diff_markdown import diff_lines
    from pytest_pot.report.json_report import printable_json
    from pytest_pot.report.report_diff import compare_reports
    from pytest_pot.report.saved_report import load_report

    diff = compare_reports(load_report(options.old), load_report(options.new))
    return [printable_json(diff.to_dict())] if options.json else diff_lines(diff), int(diff.verdict_changed)


@contextmanager
def _progress_line() -> Iterator[Callable[[int, int], None] | None]:
    """Shows the steps that are done on a terminal, in one line that is wiped at the end; None where there is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return

    def show(done: int, total: int) -> None:
        sys.stderr.write(f"\rcomparing, {done} of {total} steps".ljust(_LINE))
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\r" + " " * _LINE + "\r")


if __name__ == "__main__":
    sys.exit(main())
