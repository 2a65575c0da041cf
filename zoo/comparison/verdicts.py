"""The verdicts of a report: one family of comparisons, whose error rate is kept."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations

from zoo.base.errors import many
from zoo.comparison.result import UNLEARNED, Standing, Verdict
from zoo.comparison.statistics import (
    COUNTS_SHARE,
    SIGNIFICANCE,
    boschloo,
    difference,
    fewest_solved,
    holm,
    luck,
    smallest_shift,
    spread_of,
)

Pair = tuple[Standing, Standing]


def judge(pairs: Sequence[Pair], level: float = SIGNIFICANCE, rivals: bool = True) -> list[Verdict]:
    """What each pair of standings says of the first, all pairs being one family.

    P-values of :func:`zoo.comparison.statistics.difference` are adjusted by Holm's method. A pair is told apart
    where the adjusted value is at most the level. It is then ``better`` or ``worse``, unless the medians differ by less
    than the margin, or lie in the other order than what was found to differ: the means, the counts of solved or failed
    runs, or the ranks. Where the one ahead did not learn the task either, they differ in how they fail, and neither is
    called better: its median run is no better than a rule that needs no learning, and how many of its runs are better
    than that is not told apart from how many of the other's are, by Boschloo's test at 0.05.

    Args:
        pairs: contestants on one task each, both with at least one finished or failed run.
        level: the chance that any verdict of the family is false.
        rivals: whether these are rivals. Of one contestant twice, such as before and after a change, what falls below a
            rule has become worse all the same.
    """
    standings = {id(standing): standing for pair in pairs for standing in pair}  # each is in many pairs
    sides = {key: _Side(standing) for key, standing in standings.items()}
    known = [(sides[id(ours)], sides[id(theirs)]) for ours, theirs in pairs]
    tested = [_difference(*pair) for pair in known]
    adjusted = holm([p for p, _ in tested])
    return [
        _verdict(*pair, p, direction, level, rivals)
        for pair, p, (_, direction) in zip(known, adjusted, tested, strict=True)
    ]


class _Side:
    """What is tested of a standing, worked out once."""

    def __init__(self, standing: Standing) -> None:
        self.standing, self.scores, self.bar = standing, tuple(standing.scores()), standing.bar
        self.middle, self.solved, self.failed = standing.middle(), standing.solved_count(), len(standing.failed)
        self.higher_is_better, self.sign = standing.higher_is_better, standing.sign
        self.mean = sum(self.scores) / len(self.scores) if self.scores else math.nan


def judge_twice(pairs: Sequence[Pair], first: Sequence[int]) -> list[Verdict]:
    """The verdicts of two looks: with the first seeds, and with all of them for those whom these leave undecided.

    Each look is a family of its own at half of the level, so that both together are wrong at most as often as one
    look at the whole level, whatever decides who gets more seeds (Bonferroni).

    Args:
        pairs: contestants on one task each.
        first: the seeds of the first look.
    """
    early = judge([(_only(a, first), _only(b, first)) for a, b in pairs], SIGNIFICANCE / 2)
    late = judge(pairs, SIGNIFICANCE / 2)
    return [one if one.apart or one.word == UNLEARNED else other for one, other in zip(early, late, strict=True)]


def _only(standing: Standing, seeds: Sequence[int]) -> Standing:
    rows, failed = ([row for row in part if row["seed"] in seeds] for part in (standing.rows, standing.failed))
    return replace(standing, rows=rows, failed=failed)


def _difference(ours: _Side, theirs: _Side) -> tuple[float, float]:
    return difference(ours.scores, theirs.scores, ours.bar, ours.higher_is_better)


def _verdict(ours: _Side, theirs: _Side, p: float, direction: float, level: float, rivals: bool) -> Verdict:
    """The word for a pair whose adjusted p-value and direction are known."""
    if min(len(ours.scores), len(theirs.scores)) < 2:
        return Verdict("unknown", p)
    medians = _medians_apart(ours, theirs)
    # a test of counts or of failures may say the opposite of the medians: then nothing is said
    if p > level or not direction or direction * medians < 0:
        return Verdict("not separated", p)
    # where counts decide, medians may be alike: what the runs differ by on average, in the same direction, then says
    # whether it matters
    size = abs(medians)
    if _counts_decide(ours, theirs):
        size = max(size, _means_apart(ours, theirs, direction))
    if size < ours.standing.margin:
        return Verdict("no difference that matters", p)
    if rivals and not _learned(*((ours, theirs) if direction > 0 else (theirs, ours))):
        return Verdict(UNLEARNED, p)
    return Verdict("better" if direction > 0 else "worse", p)


def _medians_apart(ours: _Side, theirs: _Side) -> float:
    """Ours minus theirs, counted upwards for what is better; a failed run is the worst there is."""
    return 0.0 if ours.middle == theirs.middle else ours.sign * (ours.middle - theirs.middle)


def _means_apart(ours: _Side, theirs: _Side, direction: float) -> float:
    """The difference of the means in this direction; infinite where runs of both sides failed."""
    if math.isinf(ours.mean) and math.isinf(theirs.mean):
        return math.inf
    return math.copysign(1, direction) * ours.sign * (ours.mean - theirs.mean)


def _learned(ahead: _Side, behind: _Side) -> bool:
    """Whether the one ahead learned the task: its median run did, or more of its runs than of the other's."""
    if ahead.standing.learned():
        return True
    counts = [(side.standing.runs_above(), len(side.scores)) for side in (ahead, behind)]
    (ours, n), (theirs, m) = counts
    return ours * m > theirs * n and boschloo(ours, n, theirs, m) <= SIGNIFICANCE


def _counts_decide(ours: _Side, theirs: _Side) -> bool:
    """Whether some of their runs failed, or some solved the task and others did not."""
    if ours.failed or theirs.failed:
        return True
    first, second = ours.solved, theirs.solved
    return first is not None and second is not None and 0 < first + second < len(ours.scores) + len(theirs.scores)


def rank_ranges(standings: Sequence[Standing], level: float = SIGNIFICANCE) -> dict[str, tuple[int, int]]:
    """The ranks that each contestant may have on one task, all at once right 95 times in 100.

    Of k contestants all pairs are judged, corrected by Holm's method. Whoever is worse than a and better than b others
    has a rank from ``1 + a`` to ``k - b``. (Mogstad et al. 2024, doi:10.1093/restud/rdad006.)
    """
    entered = [standing for standing in standings if standing.scores()]
    pairs = list(combinations(entered, 2))
    better: Counter[int] = Counter()
    worse: Counter[int] = Counter()
    for (one, other), verdict in zip(pairs, judge(pairs, level), strict=True):
        if verdict.word in ("better", "worse"):
            ahead, behind = (one, other) if verdict.word == "better" else (other, one)
            better[id(ahead)] += 1
            worse[id(behind)] += 1
    return {s.contestant: (1 + worse[id(s)], len(entered) - better[id(s)]) for s in entered}


def all_pairs(groups: Iterable[Sequence[Standing]], level: float = SIGNIFICANCE) -> list[tuple[Pair, Verdict]]:
    """Every pair of contestants on every task, as one family of their own."""
    pairs = [pair for standings in groups for pair in combinations([s for s in standings if s.scores()], 2)]
    return list(zip(pairs, judge(pairs, level), strict=True))


def can_find(runs: int, comparisons: int, standings: Sequence[Standing] = ()) -> str:
    """What a comparison of so many runs a contestant can tell apart on a task, in words.

    Where some runs solve the task and others do not, scores are tested at a fifth of the level, as in
    :func:`zoo.comparison.statistics.difference`.

    Args:
        runs: reported runs of each contestant.
        comparisons: how many verdicts the report holds; twice as many where it looks twice.
        standings: those of the task, once they have scores; a shift is then given in the metric's unit, by the root of
            the mean variance of their runs.
    """
    scored = [s for s in standings if len(s.by_seed()) > 1]
    among = f"among {many(comparisons, 'verdict')}"
    counts = fewest_solved(runs, comparisons) if scored and scored[0].bar is not None else None
    solved = "" if counts is None else f"a task solved by {counts} of {runs} runs against none"
    tests = round(comparisons / (1 - COUNTS_SHARE)) if _some_solve(scored) else comparisons
    shift = smallest_shift(runs, tests)
    foreseen = "" if standings else _where_some_solve(runs, comparisons)
    if shift is None and solved:
        less = ", and no smaller difference" if comparisons < 2 else "; a smaller one only where others are found too"
        return f"{runs} runs each find {solved} {among}{less}"
    if shift is None:
        enough = next(n for n in range(runs + 1, 200) if smallest_shift(n, tests) is not None)
        return (
            f"{many(runs, 'run')} each tell{'s' * (runs == 1)} nobody apart {among}; that takes {enough} each{foreseen}"
        )
    spread = spread_of([list(s.by_seed().values()) for s in scored])
    size = f"{shift:.2g} standard deviations of a run"
    if spread:
        least = max(shift * spread, scored[0].margin)
        size = f"{least:.2g} in {scored[0].unit} ({size}, and no less than the margin)"
    half = next(n for n in range(runs + 1, 40 * runs) if (smallest_shift(n, tests) or shift) <= shift / 2)
    return (
        f"{runs} runs each find a difference of {size} 80 times in 100 {among}"
        f"{', or ' if solved else ''}{solved}; {half} runs each would halve it{foreseen}"
    )


def cannot_rank(runs: int, contestants: int, level: float = SIGNIFICANCE) -> str:
    """Why so many runs of each tell no two of so many contestants apart, all pairs being judged; empty where they may.

    Args:
        runs: reported runs of each contestant.
        contestants: on a task.
        level: of the family that the pairs of a task are.
    """
    pairs = contestants * (contestants - 1) // 2
    if contestants < 3 or luck(runs) <= level / pairs:  # of two, the verdict says it
        return ""
    enough = next(n for n in range(runs + 1, 200) if luck(n) <= level / pairs)
    who = f"{contestants} contestants ({pairs} pairs)"
    return f"{many(runs, 'run')} each are too few to rank {who}; that takes {enough} each"


def _where_some_solve(runs: int, comparisons: int) -> str:
    """What is said besides, before anything has run: by shifts of scores alone it would promise too much."""
    counts = fewest_solved(runs, comparisons)
    threshold = "nothing" if counts is None else f"{counts} of {runs} against none"
    return f"; where some runs solve a task and others do not, {threshold} is told apart"


def _some_solve(standings: Sequence[Standing]) -> bool:
    """Whether some runs of these reach the bar of their task, and others do not."""
    solved = sum(s.solved_count() or 0 for s in standings)
    return 0 < solved < sum(len(s.scores()) for s in standings)


def cannot_decide(standings: Sequence[Standing]) -> str:
    """Why a task tells nobody apart, whoever competes; empty where it may."""
    entered = [s for s in standings if s.scores()]
    if len(entered) < 2 or not any(s.rows for s in entered):
        return ""
    if all(s.state() == "solved" for s in entered):
        return "every run solved it, so it is too easy to tell these contestants apart"
    if not any(s.learned() for s in entered):
        return (
            "no median run is better than the best rule that needs no learning; it is too hard, or training was too "
            "short"
        )
    return ""
