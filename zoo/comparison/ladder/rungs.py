"""The rungs of a ladder: sizes, their compute, what is tuned where, and how many fit into a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from zoo.base.errors import ZooError, many
from zoo.comparison.words import quantity

LEAST_RUNGS = 4
"""Fewer rungs have no trend."""
MOST_RUNGS = 12
CHECKED = 3
"""Rates that are tried where the law of the learning rate is checked: what it predicts, half of it and twice it."""
SMALLEST, LARGEST_FIRST = 16_000, 64_000
"""Parameters of a first rung that is chosen by time: below, an embedding of bytes is most of a model."""
STARTING_SECONDS = 2.0
"""What a run takes besides its steps: building it, and its evaluations."""

Stage = Literal["tuned", "checked", "predicted"]
Role = Literal["rung", "side", "trial"]
VALLEY = 2.0
"""The sizes of a valley reach from that of the rung divided by this to that times this."""
MOST_SIZES = 9
TRIAL = 4
"""By how much the size at which the winner's stability is tried is larger than the top rung's."""


@dataclass(frozen=True)
class Rung:
    """One size of one task.

    Attributes:
        of: the task as the comparison lists it.
        task: its name at this rung.
        parameters: of every contestant.
        flops: of training, the same for every contestant.
        stage: ``tuned`` where the whole grid of learning rates is tried, ``checked`` where the rate that smaller rungs
            predict is tried beside half and twice of it, ``predicted`` where it is taken.
        top: whether it is the largest, with one seed.
        role: ``rung``, or ``side``: a size of the rung's valley, of as many FLOPs, with a predicted rate and one seed;
            or ``trial``: beyond the top one, where the winner alone is trained once.
    """

    of: str
    task: str
    parameters: int
    flops: float
    stage: Stage
    top: bool
    role: Role = "rung"


def training_flops(parameters: float, tokens_per_parameter: float) -> float:
    """``6 N D`` with ``D`` tokens in proportion to ``N`` (Hoffmann et al. 2022, arXiv:2203.15556)."""
    return 6 * parameters * tokens_per_parameter * parameters


def rungs_of(rules: Mapping[str, Any], tasks: Sequence[str]) -> list[Rung]:
    """The rungs that ``compare.ladder`` asks for, of each task; none where it asks for no ladder.

    Without sizes they are those of a ladder that begins with :data:`SMALLEST` parameters.

    Args:
        rules: of ``compare.ladder``.
        tasks: as the comparison lists them.

    Raises:
        ZooError: a number cannot be meant.
    """
    if rules["minutes"] is None and not rules["sizes"]:
        return []
    _check(rules)
    sizes = rules["sizes"] or geometric(SMALLEST, rules["factor"], LEAST_RUNGS)
    rungs = [
        Rung(
            task,
            f"{task}, {quantity(size)} parameters",
            size,
            training_flops(size, rules["tokens_per_parameter"]),
            "tuned" if i < rules["tuned"] else "checked" if i == rules["tuned"] else "predicted",
            i == len(sizes) - 1,
        )
        for task in tasks
        for i, size in enumerate(sizes)
    ]
    climbed = [each for rung in rungs for each in (rung, *_sides(rung, rules["valleys"]))]
    return climbed + [_trial(rung, rules) for rung in rungs if rung.top and rules["stability"]]


def _trial(top: Rung, rules: Mapping[str, Any]) -> Rung:
    """Where the winner is trained once more, by the same rule of tokens and with a predicted learning rate."""
    size = TRIAL * top.parameters
    flops = training_flops(size, rules["tokens_per_parameter"])
    return Rung(top.of, f"{top.of}, stability at {quantity(size)} parameters", size, flops, "predicted", False, "trial")


def _sides(rung: Rung, valleys: int) -> list[Rung]:
    """The further runs of a rung's valley, of as many FLOPs; their learning rates are predicted.

    Where the rung's own rate is tuned or checked, its size is run once more at the predicted rate: a best rate in the
    middle beside predicted ones at the sides would pull every best size to the middle.
    """
    flops = quantity(rung.flops)
    return [
        replace(
            rung,
            task=f"{rung.of}, {quantity(size)} parameters at {flops} FLOPs",
            parameters=size,
            stage="predicted",
            role="side",
        )
        for size in valley_sizes(rung.parameters, valleys, middle=rung.stage != "predicted")
    ]


def valley_sizes(size: int, valleys: int, middle: bool) -> list[int]:
    """The further sizes of a valley, in equal ratios from half to twice of the rung's own.

    Args:
        size: of the rung, in parameters.
        valleys: sizes in all; 1 means no valley.
        middle: whether the rung's own size is one of them, because its runs have another rate than these.
    """
    half = valleys // 2
    sides = {i: int(float(f"{size * VALLEY ** (i / half):.2g}")) for i in range(-half, half + 1) if i}
    return [sides.get(i, size) for i in range(-half, half + 1) if i or (half and middle)]


def _check(rules: Mapping[str, Any]) -> None:
    sizes = rules["sizes"]
    if sizes and (len(sizes) < LEAST_RUNGS or sizes != sorted(set(sizes)) or sizes[0] < 1):
        raise ZooError(f"compare.ladder.sizes={sizes}: expected at least {LEAST_RUNGS} numbers of parameters, rising")
    if len({quantity(size) for size in sizes}) < len(sizes):
        raise ZooError(f"compare.ladder.sizes={sizes}: expected sizes that differ in their first three digits")
    if rules["minutes"] is not None and not 0 < rules["minutes"] < 1e7:
        raise ZooError(f"compare.ladder.minutes={rules['minutes']}: expected more than 0")
    if not 0 < rules["tokens_per_parameter"] < 1e6:
        raise ZooError(f"compare.ladder.tokens_per_parameter={rules['tokens_per_parameter']}: expected more than 0")
    if not 1.1 <= rules["factor"] <= 100:
        raise ZooError(f"compare.ladder.factor={rules['factor']}: expected from 1.1 to 100")
    if rules["valleys"] != 1 and (rules["valleys"] % 2 == 0 or not 3 <= rules["valleys"] <= MOST_SIZES):
        raise ZooError(
            f"compare.ladder.valleys={rules['valleys']}: expected 1, or an odd number from 3 to {MOST_SIZES}"
        )
    if not 2 <= rules["tuned"] <= (len(sizes) or LEAST_RUNGS):
        raise ZooError(f"compare.ladder.tuned={rules['tuned']}: expected from 2 rungs to all of them")


def geometric(first: float, factor: float, count: int) -> list[int]:
    """So many sizes, each the factor times the one before, with two digits."""
    return [int(float(f"{first * factor**i:.2g}")) for i in range(count)]


@dataclass(frozen=True)
class Timing:
    """What an optimizer step of a contestant takes at one size."""

    parameters: float
    seconds: float
    flops: float


@dataclass(frozen=True)
class Costs:
    """What a ladder takes: the timings of each contestant on each task, at two sizes or more, and who shares the work.

    Attributes:
        timings: of each contestant on each task.
        workers: runs at once.
        tuning: runs of the whole grid.
        seeds: reported runs at a rung that is not the largest.
        tuned: rungs that are tuned.
        tokens_per_parameter: the rule of the ladder.
        valleys: sizes at each rung.
        stability: whether the winner is trained once beyond the top rung.
    """

    timings: Sequence[Sequence[Timing]]
    workers: int
    tuning: int
    seeds: int
    tuned: int
    tokens_per_parameter: float
    valleys: int = 1
    stability: bool = False

    def run(self, timings: Sequence[Timing], size: float, rung: float | None = None) -> float:
        """Seconds of a run: both a step's seconds and its FLOPs are taken as linear in the size.

        Args:
            timings: of the contestant.
            size: of the run.
            rung: the size of its rung, whose FLOPs it has; by default its own.
        """
        flops = training_flops(size if rung is None else rung, self.tokens_per_parameter)
        steps = flops / _linear([(t.parameters, t.flops) for t in timings], size)
        return STARTING_SECONDS + steps * _linear([(t.parameters, t.seconds) for t in timings], size)

    def runs(self, rung: int, rungs: int) -> int:
        """How many runs of a contestant a rung has."""
        tuning = self.tuning if rung < self.tuned else min(self.tuning, CHECKED) if rung == self.tuned else 0
        return tuning + (1 if rung == rungs - 1 else self.seeds)

    def rung(self, size: float) -> float:
        """Seconds of a run at a size, the mean over contestants and tasks."""
        return sum(self.run(each, size) for each in self.timings) / len(self.timings)

    def minutes(self, sizes: Sequence[int]) -> float:
        """The whole ladder, on all workers; what remains when others are done already is left out."""
        each = (self.runs(i, len(sizes)) * self.run(t, size) for t in self.timings for i, size in enumerate(sizes))
        sides = [
            (t, side, size)
            for t in self.timings
            for i, size in enumerate(sizes)
            for side in valley_sizes(size, self.valleys, middle=i <= self.tuned)
        ]
        trial = self.rung(TRIAL * sizes[-1]) if self.stability else 0.0  # one run, whoever wins
        return ((sum(each) + sum(self.run(*side) for side in sides)) / self.workers + trial) / 60


def described(sizes: Sequence[int], minutes: float, costs: Costs) -> list[str]:
    """What a ladder will run, a line for each rung, and what it takes."""
    lines = []
    for index, size in enumerate(sizes):
        tokens = quantity(size * costs.tokens_per_parameter)
        flops = quantity(training_flops(size, costs.tokens_per_parameter))
        lines.append(
            f"rung {index + 1}: {quantity(size)} parameters, {tokens} tokens, {flops} FLOPs, "
            f"{many(costs.runs(index, len(sizes)), 'run')} of each contestant, about {costs.rung(size):.2g} s each"
        )
    if costs.valleys > 1:
        most = many(costs.valleys, "run")
        lines.append(f"besides, {costs.valleys - 1} or {most} of each contestant at each rung, for its valley of sizes")
    if costs.stability:
        size = TRIAL * sizes[-1]
        lines.append(f"then the best one once at {quantity(size)} parameters, about {costs.rung(size):.2g} s")
    whole = costs.minutes(sizes)
    return [*lines, f"about {whole:.2g} minutes with {many(costs.workers, 'worker')}, of {minutes:g}"]


def _linear(points: Sequence[tuple[float, float]], at: float) -> float:
    """The line through the first and the last point, which does not fall."""
    (x, y), (end, value) = points[0], points[-1]
    slope = max(0.0, (value - y) / (end - x)) if end > x else 0.0
    return max(min(y, value) / 2, y + slope * (at - x))


def fitting(minutes: float, factor: float, costs: Costs, before: Sequence[int] = ()) -> list[int]:
    """The sizes of the ladder with the largest top rung that fits into a time, and of these of the one with most rungs.

    The first rung has from :data:`SMALLEST` to :data:`LARGEST_FIRST` parameters.

    Args:
        minutes: of the whole ladder.
        factor: from one size to the next.
        costs: what runs take.
        before: sizes of a ladder that was begun; they stay, and further ones are added.

    Raises:
        ZooError: not even the smallest ladder fits; the message says what that takes.
    """
    if before:
        sizes = list(before)
        while len(sizes) < MOST_RUNGS:
            further = [*sizes, geometric(sizes[-1], factor, 2)[1]]
            if costs.minutes(further) > minutes:
                break
            sizes = further
        return sizes
    firsts = [SMALLEST * 2 ** (i / 4) for i in range(round(4 * math.log2(LARGEST_FIRST / SMALLEST)) + 1)]
    tried = [geometric(first, factor, count) for first in firsts for count in range(LEAST_RUNGS, MOST_RUNGS + 1)]
    fits = [sizes for sizes in tried if costs.minutes(sizes) <= minutes]
    ladder = max(fits, key=lambda sizes: (sizes[-1], len(sizes)), default=None)
    if ladder is None:
        least = geometric(SMALLEST, factor, LEAST_RUNGS)
        raise ZooError(
            f"compare.ladder.minutes={minutes:g}: the smallest ladder, of {', '.join(map(quantity, least))} "
            f"parameters, takes about {costs.minutes(least):.2g} minutes here; give as many, or leave contestants out "
            f"with compare.archs=[...]"
        )
    return ladder
