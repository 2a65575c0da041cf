"""What it costs to use a model: reading a context and writing the next token, against the length of the context."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median
from typing import Any

import torch
from torch import nn

from zoo.base.errors import ZooError
from zoo.config.compose import compose
from zoo.measure.memory import Peak
from zoo.nn import state_bytes
from zoo.registry.factory import build
from zoo.training.build import facts_of, make_task, user_error

PEAKS = 4
"""How often a peak of memory is measured at most."""
DECODED = 8
"""Tokens written after each context, whose mean is the time of one."""


@dataclass
class Point:
    """One model at one length: seconds of each round, to read the context and to write a token; its state; the most
    memory that both held at once above the weights, where the system tells."""

    length: int
    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    state_bytes: int = 0
    peak_bytes: int | None = None


@dataclass
class Curve:
    """A contestant over all lengths, and the fits of its medians."""

    contestant: str
    parameters: int
    points: list[Point]

    def medians(self, what: str) -> list[float]:
        """By length: seconds of ``prefill`` or ``decode``."""
        return [median(getattr(point, what)) for point in self.points]

    def fit(self, what: str) -> tuple[float, float, float]:
        """``a + b n + c n^2`` with no negative part, by relative least squares over the lengths n."""
        from scipy.optimize import nnls

        lengths, seconds = [point.length for point in self.points], self.medians(what)
        rows = [[1 / t, n / t, n * n / t] for n, t in zip(lengths, seconds, strict=True)]
        a, b, c = nnls(rows, [1.0] * len(rows))[0]
        return float(a), float(b), float(c)

    def exponent(self, what: str) -> float | None:
        """The slope of the last three lengths on logarithmic axes: 1 is linear, 0 does not depend on the length."""
        from math import log

        if len(self.points) < 3:
            return None
        x = [log(point.length) for point in self.points[-3:]]
        y = [log(seconds) for seconds in self.medians(what)[-3:]]
        mean_x, mean_y = sum(x) / 3, sum(y) / 3
        over = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
        return over / sum((a - mean_x) ** 2 for a in x)

    def exponent_interval(self, what: str) -> tuple[float, float] | None:
        """95 % of the exponents that rounds drawn anew give."""
        source = random.Random(0)
        drawn = [_redrawn(self, what, source).exponent(what) for _ in range(REDRAWS)]
        return _middle([each for each in drawn if each is not None]) if None not in drawn else None

    def exponent_said(self, what: str) -> str:
        """The exponent with its interval, as ``0.98 (0.91 to 1.04)``; empty where there are too few lengths."""
        value, interval = self.exponent(what), self.exponent_interval(what)
        return "" if value is None or interval is None else f"{value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"


def decoder(words: Sequence[str], longest: int) -> nn.Module:
    """A model that decodes, untrained, told that a sequence may have ``longest`` tokens.

    Raises:
        ZooError: it does not decode.
    """
    config = compose(*words)
    facts = facts_of(config, make_task(config)) | {"max_len": longest}
    torch.manual_seed(0)
    model: Any = user_error(build, config["objective"], **facts)
    if not hasattr(model, "step") or hasattr(model, "read"):
        raise ZooError(f"{' '.join(words)}: this model does not write one token after another")
    return model.eval()  # type: ignore[no-any-return]


def measure(
    contestants: dict[str, nn.Module],
    lengths: Sequence[int],
    rounds: int,
    vocab_size: int,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Curve]:
    """Time every contestant at every length in turn, in an order drawn anew each round, after one that is not counted.

    Peaks of memory are measured after that one, in a round of their own (:func:`_measure_peaks`).

    On a processor its own time is taken, with one thread, for other work on the machine inflates long calls more than
    short ones; on CUDA the time until the device is done.
    """
    curves = {
        name: Curve(name, sum(p.numel() for p in model.parameters()), [Point(length) for length in lengths])
        for name, model in contestants.items()
    }
    turns = [(name, index) for name in contestants for index in range(len(lengths))]
    order, done = random.Random(0), 0
    for count in range(rounds + 1):
        order.shuffle(turns)
        for name, index in turns:
            point = curves[name].points[index]
            prefill, decode = _once(contestants[name], point, vocab_size, device)
            if count:
                point.prefill.append(prefill)
                point.decode.append(decode)
            done += 1
            progress(done, (rounds + 1) * len(turns))
        if not count:
            for name, curve in curves.items():
                _measure_peaks(contestants[name], curve, vocab_size, device)
    return list(curves.values())


def _measure_peaks(model: Any, curve: Curve, vocab_size: int, device: torch.device) -> None:
    """The peak of memory at each length, measured again where a longer context took less.

    What a library sets up once, or another thread holds just then, is only ever added to a peak. So the least of
    several measurements is the nearest, and a peak above that of a longer context is measured again, a few times.
    """
    wanted = curve.points
    for _ in range(PEAKS):
        for point in wanted:
            peak = Peak(device.type)
            _once(model, point, vocab_size, device)
            peak_bytes = peak.read()
            point.peak_bytes = (
                peak_bytes if point.peak_bytes is None or peak_bytes is None else min(point.peak_bytes, peak_bytes)
            )
        known = [(point, point.peak_bytes) for point in curve.points if point.peak_bytes is not None]
        wanted = [
            point for index, (point, held) in enumerate(known) if any(held > later for _, later in known[index + 1 :])
        ]


@torch.inference_mode()
def _once(model: Any, point: Point, vocab_size: int, device: torch.device) -> tuple[float, float]:
    source = torch.Generator(device).manual_seed(point.length)
    context_1L = torch.randint(0, vocab_size, (1, point.length), device=device, generator=source)
    token_11 = context_1L[:, -1:]
    dtype = next(model.parameters()).dtype
    point.state_bytes = state_bytes(model.init_state(1, point.length, device, dtype))
    state = model.init_state(1, point.length + DECODED, device, dtype)
    start = _now(device)
    state = model.step(context_1L, state)[1]
    read = _now(device)
    for _ in range(DECODED):
        state = model.step(token_11, state)[1]
    written = _now(device)
    return read - start, (written - read) / DECODED


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


@dataclass(frozen=True)
class Crossing:
    """Where one of two contestants overtakes the other, by their fits.

    Attributes:
        what: ``prefill`` or ``decode``.
        first, second: the contestants; where nobody is named, the one whose median is larger first.
        length: the length at which the fits meet; none where they do not within what was measured, or nobody is named.
        ahead: who is faster at the longest length; empty where rounds drawn anew do not agree on it.
        interval: 95 % of the lengths that rounds drawn anew give.
        ratio: the median seconds of the slower over those of the faster, at the longest length.
        ratio_interval: 95 % of these that rounds drawn anew give; where it holds 1, nobody is named.
        apart_from: the measured length from which on the interval at each measured one says the same.
    """

    what: str
    first: str
    second: str
    length: float | None
    ahead: str
    interval: tuple[float, float] | None = None
    ratio: float = 1.0
    ratio_interval: tuple[float, float] = (1.0, 1.0)
    apart_from: int | None = None


REDRAWS = 200
SURE = 0.975
"""The share of redraws that must agree on who is faster, for one to be named."""


def crossings(curves: Sequence[Curve], what: str) -> list[Crossing]:
    """For each pair, who is faster at the longest length and by how much, and where their fits meet.

    The rounds of each length are drawn anew with replacement, 200 times. One of a pair is named where at least 97.5 %
    of the draws agree: of the medians at the longest length, and of the fits there.
    """
    source = random.Random(0)
    drawn = {id(curve): [_redrawn(curve, what, source) for _ in range(REDRAWS)] for curve in curves}
    fits = {key: [each.fit(what) for each in again] for key, again in drawn.items()}
    medians = {key: [each.medians(what) for each in again] for key, again in drawn.items()}
    all_crossings = []
    for one, other in combinations(curves, 2):
        low, high = one.points[0].length, one.points[-1].length
        root, first = _meet(one.fit(what), other.fit(what), low, high)
        swap = one.medians(what)[-1] > other.medians(what)[-1]
        slower, faster = (one, other) if swap else (other, one)
        ratios = [
            [b / a for b, a in zip(them, us, strict=True)]
            for them, us in zip(medians[id(slower)], medians[id(faster)], strict=True)
        ]
        bounds = [_middle([draw[index] for draw in ratios]) for index in range(len(one.points))]
        ratio = slower.medians(what)[-1] / faster.medians(what)[-1]
        draws = [_meet(a, b, low, high) for a, b in zip(fits[id(one)], fits[id(other)], strict=True)]
        agreed = sum(ahead == first for _, ahead in draws) / len(draws)
        if agreed < SURE or bounds[-1][0] <= 1 or (faster is one) != first:  # a fit may miss what it was fitted to
            none = Crossing(what, slower.contestant, faster.contestant, None, "", None, ratio, bounds[-1])
            all_crossings.append(none)
            continue
        roots = [each or low for each, ahead in draws if ahead == first]
        apart = None
        for point, bound in zip(reversed(one.points), reversed(bounds), strict=True):
            if bound[0] <= 1:
                break
            apart = point.length
        interval = _middle(roots) if root else None
        all_crossings.append(
            Crossing(
                what, one.contestant, other.contestant, root, faster.contestant, interval, ratio, bounds[-1], apart
            )
        )
    return all_crossings


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of values."""
    ranked = sorted(values)
    return ranked[int((1 - SURE) * len(ranked))], ranked[min(len(ranked) - 1, int(SURE * len(ranked)))]


def said(crossing: Crossing, lengths: Sequence[int]) -> str:
    """What a pair's times say, in a sentence with an interval for each figure."""
    low, high = crossing.ratio_interval
    at = f"at {lengths[-1]:,} tokens"
    if not crossing.ahead:
        return (
            f"{crossing.first} and {crossing.second} are not told apart {at}: {crossing.first} takes "
            f"{crossing.ratio:.3g} times ({low:.3g} to {high:.3g}) as long"
            + ("; the fit to all lengths disagrees, and more rounds may settle it" if low > 1 else "")
        )
    behind = crossing.second if crossing.ahead == crossing.first else crossing.first
    text = f"{crossing.ahead} is {crossing.ratio:.3g} times ({low:.3g} to {high:.3g}) as fast as {behind} {at}"
    if crossing.apart_from == lengths[0]:
        return f"{text}, and faster at every length that was measured"
    if crossing.apart_from is not None and crossing.apart_from < lengths[-1]:
        text += f", and told apart from {crossing.apart_from:,} tokens on"
    if crossing.length is not None and crossing.interval is not None:
        low, high = crossing.interval
        text += f"; their fits meet at about {crossing.length:,.0f} tokens ({low:,.0f} to {high:,.0f})"
    return text


def _redrawn(curve: Curve, what: str, source: random.Random) -> Curve:
    """A curve whose rounds are drawn anew with replacement."""
    points = []
    for point in curve.points:
        drawn = Point(point.length)
        setattr(drawn, what, source.choices(getattr(point, what), k=len(getattr(point, what))))
        points.append(drawn)
    return Curve(curve.contestant, curve.parameters, points)


def _meet(
    one: tuple[float, float, float], other: tuple[float, float, float], low: float, high: float
) -> tuple[float | None, bool]:
    """The last length at which two fits are equal within these, and whether the first is faster at the longest."""
    a, b, c = (x - y for x, y in zip(one, other, strict=True))
    roots = [root for root in _roots(a, b, c) if low < root < high]
    return (max(roots) if roots else None), (a + b * high + c * high * high) < 0


def _roots(a: float, b: float, c: float) -> list[float]:
    """Real roots of ``a + b n + c n^2``."""
    if c == 0:
        return [] if b == 0 else [-a / b]
    inside = b * b - 4 * a * c
    if inside < 0:
        return []
    half = -(b + (inside**0.5 if b >= 0 else -(inside**0.5))) / 2  # no difference of near equals, where c is tiny
    return [half / c, a / half if half else 0.0]
