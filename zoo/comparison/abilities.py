"""What each contestant can do: scores over the tasks of each ability, on one scale, with their uncertainty."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from zoo.base.errors import ZooError, unknown
from zoo.comparison.overall import scaled
from zoo.comparison.result import Standing
from zoo.comparison.statistics import Estimate, estimate

EXPLAINED = (
    "Each score is the median over seeds of the mean over the ability's tasks, where 0 is the best rule that needs no "
    "learning and 1 is perfection; a failed run counts as 0. Better and worse are shown where all of the ability's "
    "tasks have that verdict beside the baseline, and never at lengths beyond training. They belong to the same family "
    "as the other verdicts of this report."
)


ARROWS = {"better": " ▲", "worse": " ▼", "provisionally better": " △", "provisionally worse": " ▽"}


@dataclass(frozen=True)
class Ability:
    """A contestant's score in one ability.

    Attributes:
        score: over seeds, from the strongest shortcut, 0, to perfection, 1.
        verdict: ``better`` or ``worse`` than the baseline, perhaps ``provisionally``, where every task of it says so;
            else empty.
    """

    contestant: str
    ability: str
    score: Estimate
    verdict: str

    def __str__(self) -> str:
        low, high = self.score.low, self.score.high
        spread = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
        return f"{self.score.value:.2f}{spread}{' ' + self.verdict if self.verdict else ''}"


def check_abilities(abilities: Mapping[str, Any], tasks: Mapping[str, Any]) -> None:
    """Refuse an ability of no task, or of a task that the comparison has not.

    Raises:
        ZooError: one has; the message names it.
    """
    for ability, words in abilities.items():
        if not words:
            raise ZooError(f"compare.abilities.{ability} is empty; name at least one task of the comparison")
        for word in words:
            if (task := split(word)[0]) not in tasks:
                raise ZooError(f"compare.abilities.{ability}: " + unknown("task in this comparison", task, tasks))


def folder_of_other(folder: Path, beside: str) -> Path:
    """The folder of another comparison, by its name, which lies next to ``folder``, or by its own path."""
    return Path(beside) if os.sep in beside else folder.parent / beside


def check_beside(folder: Path, beside: str, abilities: Mapping[str, Any]) -> None:
    """Refuse another comparison that was not run, or that no ability would be set beside.

    Raises:
        ZooError: either is so.
    """
    if not abilities:
        raise ZooError(
            f"compare.beside={beside}: it compares abilities only, and none are named; name some in compare.abilities"
        )
    other = folder_of_other(folder, beside)
    if not (other / "comparison.json").is_file():
        raise ZooError(
            f"compare.beside={beside}: {other} holds no comparison; run it first, such as zoo compare ladder, or give "
            f"its folder"
        )


def split(word: str) -> tuple[str, str | None]:
    """The task that a word names, and at which further test: ``parity at 64`` is ``test/64`` of parity."""
    task, _, at = word.rpartition(" at ")
    return (task, at) if task else (word, None)


def scores(abilities: Mapping[str, Sequence[str]], standings: Sequence[Standing]) -> list[Ability]:
    """Every contestant in every ability all of whose tasks it has results on, in the order of the comparison.

    A task counts where its metric is a share of right answers and it has a rule that needs no learning. At a further
    test the rule is that of the training length.
    """
    ability_scores = []
    for contestant in dict.fromkeys(standing.contestant for standing in standings):
        by_task = {standing.of: standing for standing in standings if standing.contestant == contestant}
        for ability, words in abilities.items():
            named = [(by_task.get(split(word)[0]), split(word)[1]) for word in words]
            runs = [] if any(s is None for s, _ in named) else [dict(_by_seed(s, at)) for s, at in named if s]
            seeds = set.intersection(*map(set, runs)) if runs else set()
            if seeds:
                means = [fmean(each[seed] for each in runs) for seed in sorted(seeds)]
                # a mean of tasks some of which are at a further test has no verdict of its own
                verdicts = {_told_apart(s) if at is None else "" for s, at in named if s}
                verdict = verdicts.pop() if len(verdicts) == 1 else ""
                ability_scores.append(Ability(contestant, ability, estimate(means), verdict))
    return ability_scores


def _told_apart(standing: Standing) -> str:
    """The verdict beside the baseline, if the two are told apart."""
    return str(standing.verdict) if standing.verdict and standing.verdict.apart else ""


def _by_seed(standing: Standing, at: str | None) -> Iterator[tuple[int, float]]:
    """The scaled score of each seed, where the task counts; a failed run has 0."""
    if scaled(standing, 0.0) is None:
        return
    for row in standing.rows:
        judged = row["test"] if at is None else row["test_harder"].get(at, {})
        value = judged.get(row["metric"])
        share = None if value is None else scaled(standing, value)
        if share is not None:
            yield row["seed"], share
    for row in standing.failed:
        yield row["seed"], 0.0


def chart(ability_scores: Sequence[Ability]) -> dict[str, Any]:
    """A heat map of contestants by abilities; each cell has its score, and below it the interval."""
    import altair as alt

    from zoo.base.html import plain_chart

    values = [
        {
            "contestant": each.contestant,
            "ability": each.ability,
            "score": each.score.value,
            "low": each.score.low,
            "high": each.score.high,
            "n": each.score.n,
            "verdict": each.verdict,
            "said": f"{each.score.value:.2f}{ARROWS.get(each.verdict, '')}",
            "spread": "" if each.score.low is None else f"{each.score.low:.2f} to {each.score.high:.2f}",
        }
        for each in ability_scores
    ]
    base = alt.Chart(alt.Data(values=values)).encode(
        x=alt.X(
            "ability:N", sort=None, title=None, axis=alt.Axis(orient="top", labelAngle=-30, labelLimit=150, grid=False)
        ),
        y=alt.Y("contestant:N", sort=None, title=None, axis=alt.Axis(labelLimit=200, grid=False)),
        tooltip=["contestant:N", "ability:N", "score:Q", "low:Q", "high:Q", "n:Q", "verdict:N"],
    )
    scale = alt.Scale(domain=[0, 1], scheme="viridis")
    cells = base.mark_rect(stroke="#8883").encode(color=alt.Color("score:Q", scale=scale, title="score"))
    ink = alt.condition("datum.score > 0.6", alt.value("#000"), alt.value("#fff"))
    said = base.mark_text(dy=-6, fontSize=12).encode(text="said:N", color=ink)
    spread = base.mark_text(dy=8, fontSize=9).encode(text="spread:N", color=ink)
    return plain_chart(
        alt.layer(cells, said, spread).properties(
            width=alt.Step(78), height=alt.Step(36), title="Contestants by abilities"
        )
    )
