"""The page of a search: its history as a picture, what each hyperparameter explains, and every trial."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoo.base.html import drawings, inline, plain_chart, tips, write_html

LEAST_TRIALS = 4
"""Fewer explain nothing."""
STATES = {"COMPLETE": "finished", "PRUNED": "given up early", "FAIL": "failed"}


@dataclass(frozen=True)
class SearchSummary:
    """What a search found.

    Attributes:
        study: its name.
        direction: ``maximize`` or ``minimize``.
        metric: of the validation score.
        best: the number of the best trial, from 0.
        command: trains it.
    """

    study: str
    direction: str
    metric: str
    best: int
    command: str


def importance(study: Any) -> dict[str, float]:
    """The share of the scores' variance that each hyperparameter explains, the largest first; empty for few trials.

    Optuna's fANOVA (Hutter, Hoos, Leyton-Brown 2014), over the trials that finished, with a seed so that the same
    study says the same.
    """
    from optuna.exceptions import ExperimentalWarning
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    scores = [trial.value for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])]
    if len(scores) < LEAST_TRIALS or len(set(scores)) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)))


def write_page(path: Path, summary: SearchSummary, trials: Sequence[Any], mattered: Mapping[str, float]) -> Path:
    """Write the page, and return its path.

    Args:
        path: where.
        summary: what the search found.
        trials: every trial that ended, as Optuna keeps it.
        mattered: of :func:`importance`.
    """
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    rows = [
        {
            "number": trial.number + 1,
            "status": STATES[trial.state.name],
            "score": trial.value if trial.state.name == "COMPLETE" else None,
            "values": [trial.params.get(key) for key in keys],
            "run": trial.user_attrs.get("run") or trial.user_attrs.get("error") or "",
        }
        for trial in trials
    ]
    data = {
        "summary": summary,
        "keys": keys,
        "rows": rows,
        "importance": mattered,
        "time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **drawings(lambda: _charts(summary, rows, mattered), "the same command"),
    }
    return write_html(path, "zoo.runs", "search.html.j2", data)


def _charts(
    summary: SearchSummary, rows: Sequence[Mapping[str, Any]], mattered: Mapping[str, float]
) -> Iterator[tuple[str, dict[str, Any]]]:
    import altair as alt

    better = max if summary.direction == "maximize" else min
    points: list[dict[str, Any]] = []
    for row in rows:
        if row["score"] is None:
            continue
        best = better([point["best"] for point in points[-1:]] + [row["score"]])
        points.append({"trial": row["number"], "score": row["score"], "best": best})
    name = f"validation {summary.metric.replace('_', ' ')}"
    base = alt.Chart(inline(points), width=640, height=300)
    x = alt.X("trial:Q", title="trial", axis=alt.Axis(tickMinStep=1, format="d"))
    scale = alt.Scale(zero=False)
    dots = base.mark_circle(size=60, color="#4c78a8").encode(
        x, alt.Y("score:Q", title=name, scale=scale), tooltip=tips(["trial:Q", "score:Q"])
    )
    line = base.mark_line(interpolate="step-after", color="#e45756").encode(x, alt.Y("best:Q", scale=scale))
    yield "history", plain_chart(alt.layer(line, dots))
    if mattered:
        shares = [{"hyperparameter": key, "share": share} for key, share in mattered.items()]
        bars = alt.Chart(inline(shares), width=480, height=30 * len(shares)).mark_bar(color="#4c78a8")
        yield (
            "importance",
            plain_chart(
                bars.encode(
                    alt.X("share:Q", title="share of the variance of scores", scale=alt.Scale(domain=[0, 1])),
                    alt.Y("hyperparameter:N", sort=None, title=None),
                    tooltip=tips(["hyperparameter:N", "share:Q"]),
                )
            ),
        )
