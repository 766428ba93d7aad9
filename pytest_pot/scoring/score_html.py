"""A score's figures as a small HTML table, for notebooks."""

from __future__ import annotations

from jinja2 import Environment

from pytest_pot.core.text import count, number, quoted, shorten
from pytest_pot.scoring.score_figures import ScoreFigures
from pytest_pot.scoring.score_text import cells_text, delta_p_text, models_text, same_top_text

__all__ = ["as_html"]

_TEMPLATE = """\
<table>
<caption>{{ title }}</caption>
<thead><tr><th scope="col">metric</th>{% for name in columns %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for name, values in rows %}\
<tr><th scope="row">{{ name }}</th>{% for value in values %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}\
</tbody>
</table>
<ul>
{% for line in lines %}\
<li>{{ line }}</li>
{% endfor %}\
</ul>
"""
_COLUMNS = {50: "median position", 90: "90%", 99: "99%", 100: "worst position"}
_WORST = 3


def as_html(figures: ScoreFigures) -> str:
    """A table of the metrics, and a list of what else is most worth knowing. Nothing in it is taken for HTML: prompts, tokens
    and names come from strangers."""
    rows = []
    for metric, mean in figures.metrics.items():
        spread = figures.percentiles(metric)
        values = [mean, figures.prompt_scores(metric).max(), *(spread[key] for key in _COLUMNS)]
        rows.append((f"{metric} (the score)" if metric == figures.metric else metric, [number(value) for value in values]))
    change = figures.delta_p
    lines = [
        f"compared: {cells_text(figures)}, {models_text(figures.labels)}",
        *([] if change is None else [f"change of the next token's probability (Δp): {delta_p_text(change.to_dict())}"]),
        f"same likeliest token{' of those compared' if figures.renormalised else ''}: {same_top_text(*figures.same_top)}",
        *(
            f"{number(worst.score)} at prompt {worst.prompt_index}, position {worst.position}: "
            f"{shorten(worst.context, 48, keep='end')} ▸ {quoted(worst.token, 24)}"
            for worst in figures.worst(_WORST)
            if worst.score > 0
        ),
    ]
    title = f"{count(figures.n_prompts, 'prompt')}, {count(figures.n_positions, 'position')}"
    columns = ["mean", "worst prompt", *_COLUMNS.values()]
    template = Environment(autoescape=True).from_string(_TEMPLATE)
    return template.render(title=title, columns=columns, rows=rows, lines=lines)
