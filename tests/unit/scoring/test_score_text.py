"""A report as text, as a table for notebooks and as a DataFrame."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from transformers import PreTrainedTokenizerFast

from pytest_pot import (
    PotError,
    Prompt,
    ScoreReport,
    ScoringConfig,
    TeacherForcedScorer,
    Verdict,
    distinct_limit,
    identity_limits,
)
from pytest_pot.core.names import METRICS
from pytest_pot.scoring.position_statistics import DELTA_P_PERCENTILES, DeltaP, SameTop
from pytest_pot.scoring.score_text import delta_p_text, figure_lines, models_text, same_top_text

from ..models import Pair, changed, tiny

HOSTILE = Prompt("<script>alert(1)</script>\x1b[2J", "<b>&\u202e</b>", "<i>\x07</i>")


@pytest.fixture(scope="module")
def pair() -> Pair:
    return tiny(), changed(tiny(), 0.3)


@pytest.fixture(scope="module")
def report(pair: Pair, prompts: list[Prompt], tokenizer: PreTrainedTokenizerFast) -> ScoreReport:
    return TeacherForcedScorer(ScoringConfig(top_k=10)).score_batch(*pair, [*prompts, HOSTILE], tokenizer)


def test_the_repr_is_one_short_line(report: ScoreReport) -> None:
    assert repr(report) == (
        f"<ScoreReport: tv {report.mean:.3g}, worst prompt {report.max:.3g}; 9 prompts, {report.n_positions} positions; "
        "float32 on cpu>"
    )
    assert len(repr(replace(report, labels=("x" * 5000, "y" * 5000)))) <= 300


def test_print_shows_a_few_lines(report: ScoreReport) -> None:
    lines = str(report).splitlines()
    assert lines[0] == (
        f"tv {report.mean:.3g} (the mean over 9 prompts, {report.n_positions} positions); worst prompt {report.max:.3g}"
    )
    assert lines[1] == f"compared: top 10 + tail of {report.tail_mass:.1%}, float32 on cpu"
    assert lines[2].startswith(f"all metrics: tv {report.mean:.3g}, jsd ")
    assert lines[3] == rf"by kind: <i>\x07</i> {report.scores[8]:.3g}"
    assert lines[4:] == figure_lines(report)
    assert max(map(len, lines)) < 200


def test_the_figures_are_told_in_four_lines(report: ScoreReport) -> None:
    tv, kl, change, same = figure_lines(report)
    spread = np.percentile(np.concatenate(report.divergences["tv"]), [50, 90, 99, 100])
    assert tv == "tv over positions: median {:.3g}, 90% {:.3g}, 99% {:.3g}, max {:.3g}".format(*spread)
    assert kl.startswith("kl over positions: median ")
    assert report.delta_p is not None
    assert change == f"change of the next token's probability (Δp): {delta_p_text(report.delta_p.to_dict())}"
    assert same == f"same likeliest token: {same_top_text(*report.same_top)}"
    assert len(figure_lines(replace(report, config=ScoringConfig(metric="kl")))) == 3


def test_the_documentation_shows_them_in_these_words(report: ScoreReport) -> None:
    page = (Path(__file__).parents[3] / "docs" / "explanation" / "percentiles.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"```text\n(.*?)```", page, re.DOTALL)

    def words(text: str) -> str:
        return re.sub(r"(?<= )[-+]?\d+(\.\d+)?(e-\d+)?%?(?=[,;\s]|$)", "N", text)

    assert [words(line.strip()) for line in shown.splitlines()] == [words(line) for line in figure_lines(report)]


def test_signs_and_digits_of_the_change() -> None:
    values = (-50.0, -12.0, -8.125, -3.0, -1.0, -0.5, -0.0, 0.5, 1.0, 3.0, 7.0, 11.0, 40.0)
    change = DeltaP(-0.0, 2.345, dict(zip(DELTA_P_PERCENTILES, values, strict=True)))
    assert delta_p_text(change.to_dict()) == (
        "mean 0 points, RMS 2.35; min -50, 0.1% -12, 1% -8.12, 5% -3, median 0, 95% +3, 99% +7, 99.9% +11, max +40"
    )
    assert delta_p_text(None) == "not known: probabilities are relative to the compared tokens"


@pytest.mark.parametrize(
    ("same", "text"),
    [
        (SameTop(1.0, 0.0), "100% ± 0%"),
        (SameTop(0.999999, 1e-6), "99.99% ± 0.0001%"),
        (SameTop(0.9621, 0.0081), "96.21% ± 0.81%"),
        (SameTop(0.5, None), "50%"),
        (SameTop(0.57, None), "57%"),
        (SameTop(0.0, None), "0%"),
    ],
)
def test_a_share_below_1_is_never_100_percent(same: SameTop, text: str) -> None:
    assert same_top_text(*same) == text


@pytest.mark.parametrize(
    ("reference", "candidate", "text"),
    [
        ("float32 on cpu", "float32 on cpu", "float32 on cpu"),
        ("float32 on cpu", "bfloat16 on cuda:0", "float32 on cpu and bfloat16 on cuda:0"),
        ("float32 on cpu, cached", "float32 on cpu", "float32 on cpu (reference from the cache)"),
        ("float32 on cpu, recorded", "float32 on cpu", "float32 on cpu (reference recorded)"),
        ("float32 on cuda:0, recorded", "float32 on cpu", "float32 on cuda:0 (recorded) and float32 on cpu"),
        ("float32 on cuda:0, cached", "float32 on cpu", "float32 on cuda:0 (from the cache) and float32 on cpu"),
        ("recorded", "float32 on cpu", "float32 on cpu (reference recorded)"),
        (
            "float32 on cpu",
            "float32 on cpu, read token by token through its cache",
            "float32 on cpu (candidate read token by token through its cache)",
        ),
        (
            "float32 on cpu, recorded",
            "float32 on cpu, read token by token through its cache",
            "float32 on cpu (reference recorded; candidate read token by token through its cache)",
        ),
        (
            "float32 on cpu, one by one, cached",
            "float32 on cpu, one by one",
            "float32 on cpu, one by one (reference from the cache)",
        ),
        ("float32 on cpu, one by one, cached", "float32 on cpu", "float32 on cpu (reference one by one, from the cache)"),
        ("float32 on cpu, one by one", "float32 on cpu", "float32 on cpu (reference one by one)"),
        ("x\x1b[2J, cached", "y", r"x\x1b[2J (from the cache) and y"),
    ],
)
def test_what_ran_is_told_once(reference: str, candidate: str, text: str) -> None:
    assert models_text((reference, candidate)) == text


def test_explain_shows_where_the_models_differ_most(report: ScoreReport) -> None:
    lines = report.explain(2).splitlines()
    start = len(str(report).splitlines())
    assert lines[:start] == str(report).splitlines()
    assert lines[start] == "worst prompts:"
    worst = [int(index) for index in np.argsort(-report.scores)[:2]]
    assert [int(line.split("prompt ")[1].split()[0].rstrip(":")) for line in lines[start + 1 : start + 3]] == worst
    assert lines[start + 3] == "worst positions (context ▸ next token):"
    assert sum("▸ '" in line for line in lines) == 2
    assert len(lines) == start + 8


def test_hostile_text_is_escaped(report: ScoreReport) -> None:
    for text in (report.explain(99), repr(report), str(report)):
        assert all(character.isprintable() or character == "\n" for character in text)
    html = report._repr_html_()
    assert "<script>" not in html
    assert "\x1b" not in html


def test_the_table_for_notebooks_is_well_formed(pair: Pair, tokenizer: PreTrainedTokenizerFast) -> None:
    report = TeacherForcedScorer(ScoringConfig(top_k=10)).score_batch(*pair, [HOSTILE], tokenizer)
    html = report._repr_html_()
    seen: list[str] = []
    texts: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            seen.append(tag)

        def handle_data(self, data: str) -> None:
            texts.append(data)

    Reader().feed(html)
    assert set(seen) == {"table", "caption", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    assert seen.count("tr") == 1 + len(METRICS)
    assert "tv (the score)" in texts
    assert any(text.startswith("same likeliest token: ") for text in texts)
    assert any("<b>" in text and "prompt 0" in text for text in texts)  # as text


def test_a_renormalised_report_has_a_table_too(pair: Pair, tokenizer: PreTrainedTokenizerFast) -> None:
    config = ScoringConfig(top_k=5, tail="renormalise")
    html = TeacherForcedScorer(config).score_batch(*pair, [Prompt("ab", "cd")], tokenizer)._repr_html_()
    assert "same likeliest token of those compared" in html
    assert "probability: mean" not in html


def test_a_data_frame_has_a_row_per_position(report: ScoreReport) -> None:
    table = report.to_dataframe()
    assert list(table.columns) == [
        "prompt",
        "kind",
        "position",
        "token",
        "token_id",
        *METRICS,
        "reference_probability",
        "candidate_probability",
    ]
    assert len(table) == report.n_positions
    assert table.groupby("prompt")["tv"].mean().to_numpy() == pytest.approx(report.scores, rel=1e-12)
    assert set(table["kind"].dropna()) == {HOSTILE.kind}
    for worst in report.worst(5):
        [row] = table[(table["prompt"] == worst.prompt_index) & (table["position"] == worst.position)].itertuples()
        assert (row.tv, row.token, row.token_id) == (worst.score, worst.token, worst.token_id)
        assert row.reference_probability == worst.reference_probability
        assert row.candidate_probability == worst.candidate_probability
    change = 100 * (table["candidate_probability"] - table["reference_probability"])
    assert report.delta_p is not None
    assert report.delta_p.rms == pytest.approx(np.sqrt((change**2).mean()), rel=1e-12)
    assert pd.api.types.is_float_dtype(table["kl"])


def test_prompts_keep_their_indices_in_a_data_frame(report: ScoreReport) -> None:
    drawn = replace(report, indices=[2 * index for index in report.indices])
    assert list(drawn.to_dataframe()["prompt"].unique()) == [0, 2, 4, 6, 8, 10, 12, 14, 16]


def test_without_pandas_the_message_says_what_to_install(report: ScoreReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(PotError, match=r"to_dataframe\(\) needs pandas.*: pip install 'pytest-pot\[pandas\]'"):
        report.to_dataframe()


# -- verdicts without pytest -------------------------------------------------------------------------------------------


def test_a_verdict_without_pytest(report: ScoreReport) -> None:
    assert report.verdict(identity_limits(max_score=report.mean, max_prompt_score=report.max)) is Verdict.SAME
    assert report.verdict(identity_limits(max_score=report.mean, max_prompt_score=0.99 * report.max)) is Verdict.DIFFERENT
    assert report.verdict(identity_limits("tv", tolerance="half")) is Verdict.DIFFERENT
    assert report.verdict(distinct_limit(min_score=0.99 * report.mean)) is Verdict.DIFFERENT
    assert report.verdict(distinct_limit("tv", tolerance="int4")) is Verdict.SAME


def test_limits_on_another_metric_take_that_metrics_figures(report: ScoreReport) -> None:
    mean, worst = report.metrics["kl"], report.prompt_scores("kl").max()
    assert report.mean != mean
    assert report.verdict(identity_limits("kl", max_score=mean, max_prompt_score=worst)) is Verdict.SAME
    assert report.verdict(identity_limits("kl", max_score=0.99 * mean, max_prompt_score=worst)) is Verdict.DIFFERENT
    assert report.verdict(identity_limits("kl", max_score=mean, max_prompt_score=0.99 * worst)) is Verdict.DIFFERENT


def test_limits_on_a_metric_that_does_not_exist_are_refused() -> None:
    for make in (identity_limits, distinct_limit):
        with pytest.raises(PotError, match="metric='kld' is not one of 'tv'"):
            make("kld", 0.1)
