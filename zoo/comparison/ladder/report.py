"""What a report says of a ladder: from its standings at each rung, in figures and in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import median
from typing import Any

from zoo.base.errors import many
from zoo.comparison.ladder.backtest import Scores, Stop, backtest, first_right
from zoo.comparison.ladder.forecast import ComputeLaw, compute_law
from zoo.comparison.ladder.gain import LEAST_RUNGS, Gain, coverage, gains, said
from zoo.comparison.ladder.noise import deviations
from zoo.comparison.ladder.rates import RateLaw, fit_rates, points_of, rates_around
from zoo.comparison.ladder.valley import Point, Valley, valley
from zoo.comparison.plan_file import RungFile
from zoo.comparison.result import Standing
from zoo.comparison.scaling import Fitted, fits
from zoo.comparison.words import joined, quantity

RATE = "optimizer.lr"
REFITS = 40
"""Of the law of parameters and tokens, for the doubts that it is shown with."""


@dataclass(frozen=True)
class Step:
    """A rung as it was run: its size, and what a run took there, the median over all runs.

    Attributes:
        task: its name at this rung.
        parameters: that were asked for.
        stage: ``tuned``, ``checked`` or ``predicted``.
        flops, tokens, seconds: of training a run.
        seeds: reported runs of each contestant, the fewest.
    """

    task: str
    parameters: float
    stage: str
    flops: float
    tokens: float
    seconds: float
    seeds: int


@dataclass(frozen=True)
class Rates:
    """The learning rate of a contestant over size.

    Attributes:
        contestant: whose it is.
        best: the best rate that was tried, by number of parameters, at the rungs where several were.
        law: fitted to the tuned rungs.
        size: of the rung where it was checked; none where it was not.
        predicted: what the law says of that rung.
        interval: its 95 % interval; none where there is no fit.
        cost: how much better the best of the rates tried there scored than the predicted one, in the metric.
    """

    contestant: str
    best: Mapping[float, float]
    law: RateLaw
    size: float | None = None
    predicted: float | None = None
    interval: tuple[float, float] | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Trial:
    """The winner trained once beyond the top rung, at four times its size, with a predicted learning rate.

    Attributes:
        contestant: who won.
        parameters, flops: of the run.
        score: in the metric; none where the run failed.
        failure: why it failed; empty where it did not.
        told: what the law of loss over compute says there, with the lowest and the highest of fits that leave out one
            rung; none of a score that rises.
    """

    contestant: str
    parameters: float
    flops: float
    score: float | None
    failure: str
    told: tuple[float, float, float] | None

    def beside(self) -> str:
        """Where the score lies beside the forecast, in words."""
        if self.told is None or self.score is None:
            return ""
        _, low, high = self.told
        return "below" if self.score < low else "above" if self.score > high else "within"


@dataclass(frozen=True)
class Ladder:
    """One task of a ladder.

    Attributes:
        of: the task as the comparison lists it.
        metric: by which contestants are compared.
        higher_is_better: its direction.
        baseline: with whom gains are compared.
        margin: the difference that matters.
        steps: the rungs that every contestant has finished, the smallest first.
        missing: rungs that some contestant has not finished.
        scores: of each seed at each of these, counted upwards.
        stops: what each rung but the top one would have told.
        gains: of each contestant but the baseline.
        rates: the learning rates of each contestant over size.
        laws: of the loss over compute, of each contestant.
        valleys: the best size of each contestant at each rung, where several were run.
        sized: the standings of these sizes, for each contestant.
        asides: the tasks of these further sizes, and of the trial.
        trial: the winner beyond the top rung, where that was tried.
    """

    of: str
    metric: str
    higher_is_better: bool
    baseline: str
    margin: float
    steps: list[Step]
    missing: int
    scores: Scores
    stops: list[Stop] = field(default_factory=list)
    gains: list[Gain] = field(default_factory=list)
    rates: list[Rates] = field(default_factory=list)
    laws: list[ComputeLaw] = field(default_factory=list)
    valleys: list[Valley] = field(default_factory=list)
    sized: list[list[Standing]] = field(default_factory=list)
    asides: set[str] = field(default_factory=set)
    trial: Trial | None = None

    @property
    def right(self) -> int | None:
        """The smallest rung from which on every rung chooses within the margin of the best; none if none does."""
        return first_right(self.stops, self.margin)

    @cached_property
    def both(self) -> list[Fitted]:
        """The law of parameters and tokens of each contestant, where several sizes were run at each rung.

        Its refits take seconds, so that only the page asks for it.
        """
        return [fitted for standings in self.sized for fitted in fits(standings, REFITS)]

    @property
    def best(self) -> str:
        """The contestant that is best on the top rung."""
        return max(self.scores, key=lambda name: median(self.scores[name][-1]))

    def unit(self) -> str:
        """The metric in words."""
        return self.metric.replace("_", " ")

    def backtest(self) -> Iterator[str]:
        """The backtest in sentences."""
        if not self.stops:
            return
        top, told = self.steps[-1], self.stops[-1]
        sign = 1 if self.higher_is_better else -1
        largest = "largest finished rung" if self.missing else "largest rung"
        yield (
            f"On {self.of}, {self.best} is best at the {largest}, {quantity(top.parameters)} parameters, with "
            f"{sign * median(self.scores[self.best][-1]):.4g} {self.unit()} of {many(top.seeds, 'run')}; "
            f"{told.told} of {many(told.pairs, 'pair')} differ there by more than their noise."
        )
        for stop in self.stops:
            step = self.steps[stop.rung]
            cost = (
                f"{stop.chosen}, which is best there too"
                if not stop.regret
                else f"{stop.chosen}, which loses {stop.regret:.3g} {self.unit()} there"
            )
            sure = f"; of the {stop.told} that it tells apart beyond its noise, {stop.sure}" if stop.told else ""
            yield (
                f"Had you stopped after {_seconds(step.seconds)} a run ({quantity(step.parameters)} parameters), you "
                f"would have ordered {stop.agreed} of {many(stop.pairs, 'pair')} as the top rung does{sure} (for "
                f"contestants like these {100 * stop.low:.0f} to {100 * stop.high:.0f} %), and chosen {cost}."
            )
        if self.right is None:
            yield f"No smaller rung chose within {self.margin:.3g} of the best: small runs mislead here."
        else:
            step = self.steps[self.right]
            yield (
                f"The smallest rung from which on all choose within {self.margin:.3g} of the best has "
                f"{quantity(step.parameters)} parameters and takes {_seconds(step.seconds)} a run."
            )

    def trends(self) -> Iterator[str]:
        """The gains over scale in sentences."""
        if not self.gains:
            return
        if len(self.steps) < LEAST_RUNGS:
            yield f"{many(len(self.steps), 'rung')} are too few for a slope; {LEAST_RUNGS} would do."
            return
        for gain in self.gains:
            if gain.unlearned:
                yield (
                    f"The gain of {gain.contestant} over {self.baseline} is unknown: at {gain.unlearned} of "
                    f"{many(len(self.steps), 'rung')} neither of them is better than a rule that needs no learning."
                )
                continue
            if gain.slope is None:
                yield f"The gain of {gain.contestant} is unknown: a run failed, or no rung has two seeds."
                continue
            crossed = ""
            if gain.crossing:
                where = "it is predicted to change sign" if gain.crossing.predicted else "it changes sign"
                crossed = (
                    f"; {where} at {quantity(gain.crossing.compute)} FLOPs ({quantity(gain.crossing.low)} to "
                    f"{quantity(gain.crossing.high)})"
                )
            yield (
                f"The gain of {gain.contestant} over {self.baseline} goes from {gain.gains[0]:+.3f} to "
                f"{gain.gains[-1]:+.3f}, by {gain.slope:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}) per tenfold "
                f"compute: {said(gain)}{crossed}."
            )
        held, of = coverage(self.gains)
        if of:
            yield (
                f"Forecasts of the top rung, made without it, contained the measured value in {held} of {of}. Nothing "
                f"is predicted beyond one further rung, {quantity(_further(self.steps))} FLOPs."
            )

    def learning_rates(self) -> Iterator[str]:
        """What the predicted learning rates were worth."""
        checked = [each for each in self.rates if each.cost is not None]
        if not checked:
            return
        right = [each for each in checked if each.cost is not None and each.cost <= self.margin]
        lost = max((each.cost for each in checked if each.cost is not None and math.isfinite(each.cost)), default=0.0)
        failed = [each.contestant for each in checked if each.cost == math.inf]
        yield (
            f"The learning rate that small rungs predict was checked once, at {quantity(checked[0].size)} parameters: "
            f"for {len(right)} of {many(len(checked), 'contestant')} half or twice of it is no better by more than "
            f"{self.margin:.3g}; the most that it lost is {lost:.3g}."
            + (f" The run with the predicted rate failed for {joined(failed)}." if failed else "")
        )
        guessed = [f"{each.contestant} ({each.law.doubt})" for each in self.rates if each.law.doubt]
        if guessed:
            yield f"No law of the rate was fitted for {joined(guessed)}; they keep the best of the largest tuned rung."

    def stability(self) -> Iterator[str]:
        """Whether the winner diverged beyond the top rung, and where it lies beside the forecast, in sentences."""
        if self.trial is None:
            return
        each = self.trial
        where = (
            f"Trained once at {quantity(each.parameters)} parameters and {quantity(each.flops)} FLOPs, beyond the "
            f"rungs, at the predicted learning rate, {each.contestant}"
        )
        if each.score is None:
            yield f"{where} failed: {each.failure}."
            return
        told = ""
        if each.told is not None:
            value, low, high = each.told
            told = (
                f", {each.beside()} the forecast of {value:.4g} ({low:.4g} to {high:.4g} by fits that leave out one "
                f"rung), which reaches farther than any that the report relies on"
            )
        yield f"{where} did not diverge: {each.score:.4g} {self.unit()}{told}."

    def optima(self) -> Iterator[str]:
        """The best sizes over compute in sentences."""
        for each in self.valleys:
            if each.parameters is None or each.tokens is None:
                known = sum(not optimum.doubt for optimum in each.optima)
                why = joined(sorted({optimum.doubt for optimum in each.optima if optimum.doubt}))
                yield (
                    f"How the best size of {each.contestant} grows is unknown: {many(known, 'rung')} of "
                    f"{len(each.optima)} found one ({why})."
                )
                continue
            size, tokens = each.parameters, each.tokens
            at, *told = size.next
            yield (
                f"The best size of {each.contestant} grows with compute to the power of {size.exponent:.2f} "
                f"({size.low:.2f} to {size.high:.2f}) and its tokens to that of {tokens.exponent:.2f}, from "
                f"{quantity(size.compute[0])} to {quantity(size.compute[1])} FLOPs; one further rung, {quantity(at)} "
                f"FLOPs, would ask for {quantity(told[0])} parameters ({quantity(told[1])} to {quantity(told[2])})."
            )


def _seconds(value: float) -> str:
    return f"{value:.2g} s" if value < 100 else f"{value / 60:.3g} min" if value < 6000 else f"{value / 3600:.3g} h"


def _further(steps: Sequence[Step]) -> float:
    return steps[-1].flops ** 2 / steps[-2].flops


def ladders(rungs: Sequence[RungFile], standings: Sequence[Standing], baseline: str) -> list[Ladder]:
    """The ladder of each task, over the rungs that every contestant has finished.

    Args:
        rungs: of the comparison.
        standings: of the comparison; the control is no contestant.
        baseline: with whom gains are compared.
    """
    ladders_of_tasks = []
    for of in dict.fromkeys(rung["of"] for rung in rungs):
        every = [rung for rung in rungs if rung["of"] == of]
        sides, trials = ([rung for rung in every if rung.get("role") == role] for role in ("side", "trial"))
        climbed = (rung for rung in every if rung.get("role", "rung") == "rung")
        mine = sorted(climbed, key=lambda rung: rung["parameters"])
        by_rung = [[s for s in standings if s.of == rung["task"] and not s.control] for rung in mine]
        whole = 0
        while whole < len(mine) and by_rung[whole] and all(s.complete() for s in by_rung[whole]):
            whole += 1
        if whole >= 2 and any(s.rows for s in by_rung[0]):
            ladder = _ladder(of, mine[:whole], by_rung[:whole], len(mine) - whole, baseline)
            if sides:
                ladder = replace(ladder, **_valleys(ladder, mine[:whole], sides, standings))
            asides = {rung["task"] for rung in (*sides, *trials)}
            ladders_of_tasks.append(replace(ladder, asides=asides, trial=_trial(ladder, trials, standings)))
    return ladders_of_tasks


def _valleys(
    ladder: Ladder, rungs: Sequence[RungFile], sides: Sequence[RungFile], standings: Sequence[Standing]
) -> dict[str, Any]:
    """The valleys of each contestant, and the standings of their sizes."""
    at = {(s.contestant, s.of): s for s in standings if not s.control}
    sign, noise = 1 if ladder.higher_is_better else -1, deviations(ladder.scores)
    # a rung's own runs are in its valley where they too have a predicted rate
    tasks = [
        [
            *([rung["task"]] if rung["stage"] == "predicted" else []),
            *(s["task"] for s in sides if s["flops"] == rung["flops"]),
        ]
        for rung in rungs
    ]
    valleys, sized = [], []
    size_of = {rung["task"]: rung["parameters"] for rung in [*rungs, *sides]}
    for name in ladder.scores:
        mine = [[at[name, task] for task in each if at[name, task].scores()] for each in tasks]
        points = [[_point(s, sign, size_of[s.of]) for s in each] for each in mine]
        compute = [step.flops for step in ladder.steps]
        if each := valley(name, compute, points, noise):
            valleys.append(each)
            sized.append([s for standings in mine for s in standings])
    return {"valleys": valleys, "sized": sized}


def _trial(ladder: Ladder, trials: Sequence[RungFile], standings: Sequence[Standing]) -> Trial | None:
    """The run of the winner beyond the top rung, if it was made."""
    tasks = {rung["task"] for rung in trials}
    made = [s for s in standings if s.of in tasks and not s.control and s.scores()]
    if not made:
        return None
    (rung,), standing = trials, made[0]
    sign = 1 if ladder.higher_is_better else -1
    row = (standing.rows or standing.failed)[0]
    flops = float(row.get("training_flops") or rung["flops"])
    law = None
    if standing.contestant in ladder.scores:
        compute = [step.flops for step in ladder.steps]
        law = compute_law(standing.contestant, compute, ladder.scores[standing.contestant], sign, at=flops)
    at = row.get("diverged_at")
    failure = "" if standing.rows else f"it diverged at step {at}" if at is not None else str(row.get("error", ""))
    score = standing.scores()[0] if standing.rows else None
    told = law.next[1:] if law else None
    return Trial(standing.contestant, rung["parameters"], flops, score, failure, told)


def _point(standing: Standing, sign: int, size: float) -> Point:
    if not standing.rows:  # all of its runs failed, which leaves no best size
        return Point(size, math.nan, (-math.inf,))
    parameters, tokens = (median(float(row[key]) for row in standing.rows) for key in ("parameters", "tokens"))
    return Point(parameters, tokens, tuple(sign * score for score in standing.scores()))


def _ladder(
    of: str, rungs: Sequence[RungFile], standings: Sequence[Sequence[Standing]], missing: int, baseline: str
) -> Ladder:
    first = next(s for s in standings[0] if s.rows)
    sign = first.sign
    names = [s.contestant for s in standings[0]]
    at = [{s.contestant: s for s in each} for each in standings]
    scores = {name: [[sign * value for value in each[name].scores()] for each in at] for name in names}
    steps = [_step(rung, each) for rung, each in zip(rungs, standings, strict=True)]
    compute = [step.flops for step in steps]
    return Ladder(
        of, first.metric, first.higher_is_better, baseline, first.margin, steps, missing, scores, backtest(scores),
        list(_gains(scores, compute, baseline, first.margin, at)) if baseline in scores and len(scores) > 1 else [],
        [rates for name in names if (rates := _rates(name, rungs, [each[name] for each in at])) is not None],
        [law for name in names if (law := compute_law(name, compute, scores[name], sign)) is not None],
    )  # fmt: skip


def _gains(
    scores: Scores, compute: Sequence[float], baseline: str, margin: float, at: Sequence[Mapping[str, Standing]]
) -> Iterator[Gain]:
    """Gains over scale; without a trend where at a rung neither side is better than a rule that needs no learning."""
    for gain in gains(scores, compute, baseline, margin):
        unlearned = sum(not (each[gain.contestant].learned() or each[baseline].learned()) for each in at)
        yield gain.without_trend(unlearned) if unlearned else gain


def _step(rung: RungFile, standings: Sequence[Standing]) -> Step:
    rows = [row for s in standings for row in s.rows]
    flops, tokens, seconds = (
        median(float(row[key]) for row in rows) if rows else math.nan
        for key in ("training_flops", "tokens", "training_seconds")
    )
    fewest = min(len(s.scores()) for s in standings)
    return Step(
        rung["task"],
        rung["parameters"],
        rung["stage"],
        rung["flops"] if math.isnan(flops) else flops,
        tokens,
        seconds,
        fewest,
    )


def _rates(name: str, rungs: Sequence[RungFile], standings: Sequence[Standing]) -> Rates | None:
    """The law of the tuned rungs, and how its forecast did where it was checked; none where nothing was tuned."""
    points: dict[str, dict[float, list[tuple[float, float]]]] = {"tuned": {}, "checked": {}}
    for rung, standing in zip(rungs, standings, strict=True):
        if len(standing.tried) > 1 and rung["stage"] in points:
            points[rung["stage"]][rung["parameters"]] = _tried(standing)
    tuned = {size: tried for size, tried in points["tuned"].items() if tried}
    if not tuned:
        return None
    law = fit_rates(tuned)
    every = tuned | {size: tried for size, tried in points["checked"].items() if tried}
    best = {size: max(tried, key=lambda point: point[1])[0] for size, tried in every.items()}
    if not points["checked"]:
        return Rates(name, best, law)
    ((size, tried),) = points["checked"].items()
    (predicted,) = rates_around(law, size, 1)
    scores = dict(tried)
    cost = max(scores.values()) - scores[predicted] if predicted in scores else math.inf  # its run failed
    return Rates(name, best, law, size, predicted, law.interval(size), cost)


def _tried(standing: Standing) -> list[tuple[float, float]]:
    """Rates and their mean validation scores, counted upwards, of those without a failed run."""
    tried = [trial for trial in standing.tried if RATE in trial["setting"]]
    return points_of([(float(trial["setting"][RATE]), trial["validation"]) for trial in tried], standing.sign)
