"""A score's figures as a pandas DataFrame."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from pytest_pot.core.errors import PotError
from pytest_pot.scoring.score_figures import ScoreFigures

if TYPE_CHECKING:  # an optional extra
    import pandas as pd

__all__ = ["as_dataframe"]


def as_dataframe(figures: ScoreFigures) -> pd.DataFrame:
    """One row per position; see :meth:`~pytest_pot.ScoreReport.to_dataframe`.

    Raises:
        PotError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise PotError(
            f"to_dataframe() needs pandas, which cannot be imported ({error}): pip install 'pytest-pot[pandas]'"
        ) from error

    sizes = [tokens.n_positions for tokens in figures.tokens]
    ids = list(chain.from_iterable(tokens.targets for tokens in figures.tokens))
    texts = {token: figures.text_of([token]) for token in set(ids)}
    probabilities = {
        f"{role}_probability": np.exp(np.minimum(np.concatenate([top.targets for top in tops]), 0.0))
        for role, tops in zip(("reference", "candidate"), figures.distributions, strict=True)
    }
    return pd.DataFrame(
        {
            "prompt": np.repeat(np.array(figures.indices, dtype=np.int64), sizes),
            "kind": list(chain.from_iterable([prompt.kind] * n for prompt, n in zip(figures.prompts, sizes, strict=True))),
            "position": np.concatenate([np.arange(n) for n in sizes]),
            "token": [texts[token] for token in ids],
            "token_id": ids,
            **{name: np.concatenate(values) for name, values in figures.divergences.items()},
            **probabilities,
        }
    )
