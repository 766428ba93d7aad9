"""What scoring returns: :class:`ScoreReport`, the figures with the ways to show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pytest_pot.scoring.score_figures import ScoreFigures, WorstPosition

if TYPE_CHECKING:  # an optional extra
    import pandas as pd

__all__ = ["ScoreLimits", "ScoreReport", "WorstPosition"]

V_co = TypeVar("V_co", covariant=True)


class ScoreLimits(Protocol[V_co]):
    """Limits on a score: :func:`~pytest_pot.identity_limits` and :func:`~pytest_pot.distinct_limit` make them."""

    @property
    def metric(self) -> str:
        """The metric that is limited."""

    def verdict(self, mean: float, worst_prompt: float) -> V_co:
        """The verdict on a completely scored suite, from its mean score and its worst prompt's score."""


class ScoreReport(ScoreFigures):
    """The divergence of a candidate from its reference on a list of prompts.

    Scores have the unit of their metric (nats for ``kl``, ``kl_reverse`` and ``delta_ce``); 0 means that the models agree.
    ``print(report)`` shows the most important figures, :meth:`explain` where the models differ most, and a notebook a table.
    """

    def verdict(self, limits: ScoreLimits[V_co]) -> V_co:
        """What ``limits`` say: ``report.verdict(identity_limits("tv", tolerance="int8"))`` is a :class:`~pytest_pot.Verdict`.

        Every metric is in every report, so the limits need not be on :attr:`metric`. Only the numbers are compared: a gate also
        refuses a limit below the noise floor, and scores that hide too much in the tail (see :attr:`tail_mass`).

        Raises:
            InvalidArgument: the limits are on a metric that does not exist.
        """
        scores = self.prompt_scores(limits.metric)
        return limits.verdict(self.metrics[limits.metric], float(scores.max()))

    def explain(self, most: int = 3) -> str:
        """The figures, and where the models differ most, as in a failure message: the ``most`` worst prompts and positions."""
        from pytest_pot.scoring.score_text import overview, worst_lines

        return "\n".join([*overview(self), *worst_lines(self, most, most)])

    def to_dict(self) -> dict[str, Any]:
        """The report in plain JSON types, as ``report/schema/score_report.schema.json`` in this package describes them."""
        from pytest_pot.scoring.score_json import as_json

        return as_json(self)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per position, as a pandas DataFrame.

        Columns: ``prompt`` (index in the caller's list), ``kind``, ``position`` (0 is the first token of the continuation),
        ``token`` (its text), ``token_id``, each metric by name, and the ``reference_probability`` and
        ``candidate_probability`` of the token; see :class:`WorstPosition` for these.

        Raises:
            PotError: pandas is not installed.
        """
        from pytest_pot.scoring.score_table import as_dataframe

        return as_dataframe(self)

    def __repr__(self) -> str:
        from pytest_pot.scoring.score_text import one_line

        return f"<ScoreReport: {one_line(self)}>"

    def __str__(self) -> str:
        from pytest_pot.scoring.score_text import overview

        return "\n".join(overview(self))

    def _repr_html_(self) -> str:
        from pytest_pot.scoring.score_html import as_html

        return as_html(self)
