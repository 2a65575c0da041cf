"""Scaling laws: how the loss falls with parameters and tokens, fitted to runs of several sizes and lengths."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from zoo.base.kept import installed, remembered, stamp

Floats = NDArray[np.float64]
DELTA = 1e-3
"""Where Huber's loss of logarithms turns from square to linear."""
LEAST_POINTS, LEAST_RANGE, MOST_SPREAD, WORST_FORECAST = 6, 8.0, 3.0, 0.05
"""Fewer points, a smaller range of parameters or tokens, ends of an exponent's interval that differ by a larger factor,
or a larger error on each size's longest run, predicted from the others: nothing may be extrapolated."""
NO_FLOOR = -12.0
"""The logarithm at which a floor counts as none."""


@dataclass(frozen=True)
class Law:
    """``L(N, D) = E + A / N^alpha + B / D^beta`` (Hoffmann et al. 2022, arXiv:2203.15556, equation 2), in nats or bits.

    Each interval is of the 2.5th to the 97.5th percentile of refits to sizes and lengths drawn with replacement.
    """

    floor: float
    parameters_factor: float
    parameters_exponent: float
    tokens_factor: float
    tokens_exponent: float
    intervals: dict[str, tuple[float, float]]
    points: int
    worst: float
    """The largest relative error of the fit on its own points."""
    forecast: float | None
    """The largest relative error on each size's longest run, predicted from the others; none where that is too few."""
    doubts: tuple[str, ...]
    """Why it must not be extrapolated; empty where nothing speaks against it."""
    refits: tuple[tuple[float, float, float, float, float], ...] = ()
    """A, alpha, B, beta and E of the refits."""

    def again(self) -> list[Law]:
        """The law of each refit."""
        return [
            replace(
                self, floor=e, parameters_factor=a, parameters_exponent=alpha, tokens_factor=b, tokens_exponent=beta,
                refits=(),
            )
            for a, alpha, b, beta, e in self.refits
        ]  # fmt: skip

    def loss(self, parameters: float, tokens: float) -> float:
        """What the law says."""
        first = self.parameters_factor * parameters**-self.parameters_exponent
        return float(self.floor + first + self.tokens_factor * tokens**-self.tokens_exponent)

    @property
    def size_exponent(self) -> float:
        """How the best size grows with compute, ``b / (a + b)`` (Hoffmann et al. 2022, equation 4)."""
        whole = self.parameters_exponent + self.tokens_exponent
        return self.tokens_exponent / whole if whole > 0 else math.nan

    def best_size(self, product: float) -> float:
        """The parameters at which the loss is lowest, given their product with the tokens."""
        a, b = self.parameters_exponent, self.tokens_exponent
        falling, rising = a * self.parameters_factor, b * self.tokens_factor
        if falling <= 0:
            return 0.0
        return math.inf if rising <= 0 else float((falling / rising * product**b) ** (1 / (a + b)))


@dataclass(frozen=True)
class Single:
    """``L = E + A / x^a`` of parameters or of tokens alone, the other being the largest that was run.

    ``interval`` holds the exponents of refits that leave out one of the points.
    """

    of: str
    at: float
    floor: float
    exponent: float
    interval: tuple[float, float]
    points: int


def fit(parameters: Sequence[float], tokens: Sequence[float], losses: Sequence[float], draws: int = 200) -> Law:
    """The joint law, by Huber's loss of the logarithm from many starts (Hoffmann et al. 2022, section 3.3).

    Raises:
        ValueError: there are fewer points than it has numbers.
    """
    if len(losses) < 5:
        raise ValueError(f"{len(losses)} points: a law of five numbers needs at least as many")
    n, d, y = (np.log(np.asarray(values, dtype=np.float64)) for values in (parameters, tokens, losses))
    lowest = float(y.min())
    grid = itertools.product((0.0, 7.0, 15.0), (0.2, 0.5, 1.0), (0.0, 7.0, 15.0), (0.2, 0.5, 1.0), (-1.5, -0.5, -0.1))
    starts = [np.array([a, alpha, b, beta, lowest + e]) for a, alpha, b, beta, e in grid]
    best = _descend(starts, n, d, y)
    source = np.random.default_rng(0)
    refits = []
    cells = np.unique(np.stack([n, d], 1), axis=0, return_inverse=True)[1].ravel()
    members = [np.flatnonzero(cells == cell) for cell in range(cells.max() + 1)]
    # a floor of nothing has no slope to leave it by, so refits also start from floors that show
    again = [best, *(np.array([*best[:4], lowest + e]) for e in (-1.0, -0.2))]
    for _ in range(draws):  # seeds of one size and length are drawn together, for they say one thing
        chosen = np.concatenate([members[i] for i in source.integers(0, len(members), len(members))])
        refits.append(_descend(again, n[chosen], d[chosen], y[chosen]))
    names = ("parameters_factor", "parameters_exponent", "tokens_factor", "tokens_exponent", "floor")
    values = np.array([_plain(theta) for theta in refits])
    low, high = np.percentile(values, [2.5, 97.5], axis=0)
    intervals = {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}
    error = np.abs(np.exp(_predict(best, n, d) - y) - 1).max()
    numbers = dict(zip(names, map(float, _plain(best)), strict=True))
    forecast = _forecast(best, n, d, y)
    doubts = _doubts(n, d, intervals, forecast)
    if not numbers["floor"]:
        doubts = ("no floor shows, so the loss would fall to zero", *doubts)
    return Law(
        **numbers,
        intervals=intervals,
        points=len(y),
        worst=float(error),
        forecast=forecast,
        doubts=doubts,
        refits=tuple(map(tuple, values.tolist())),
    )


def _forecast(best: Floats, n: Floats, d: Floats, y: Floats) -> float | None:
    longest = np.array([d[i] == d[n == n[i]].max() for i in range(len(n))])
    if (~longest).sum() < 5:
        return None
    theta = _descend([best], n[~longest], d[~longest], y[~longest])
    return float(np.abs(np.exp(_predict(theta, n[longest], d[longest]) - y[longest]) - 1).max())


def fit_single(of: str, at: float, values: Sequence[float], losses: Sequence[float]) -> Single:
    """The law of one quantity, from at least five points, so that a refit without one has more than it has numbers."""
    x, y = np.log(np.asarray(values, dtype=np.float64)), np.log(np.asarray(losses, dtype=np.float64))
    nothing = np.zeros_like(x)
    grid = itertools.product((0.0, 7.0, 15.0), (0.2, 0.5, 1.0), (-1.5, -0.5, -0.1))
    starts = [np.array([a, alpha, OFF, 0.0, float(y.min()) + e]) for a, alpha, e in grid]

    def exponents(kept: Any) -> Floats:
        return _plain(_descend(starts, x[kept], nothing[kept], y[kept], single=True))

    whole = exponents(np.arange(len(x)))
    others = [exponents(np.delete(np.arange(len(x)), i))[1] for i in range(len(x))]
    return Single(of, at, float(whole[4]), float(whole[1]), (float(min(others)), float(max(others))), len(x))


def _doubts(n: Floats, d: Floats, intervals: dict[str, tuple[float, float]], forecast: float | None) -> tuple[str, ...]:
    doubts = []
    if forecast is not None and forecast > WORST_FORECAST:
        doubts.append(f"a fit to the shorter runs misses the longest by {forecast:.1%}")
    if len(n) < LEAST_POINTS:
        doubts.append(f"only {len(n)} points")
    for name, values in (("parameters", n), ("tokens", d)):
        span = math.exp(float(values.max() - values.min()))
        if span < LEAST_RANGE:
            doubts.append(f"{name} span a factor of {span:.3g} alone")
        low, high = intervals[f"{name}_exponent"]
        if low <= 0 or high / low > MOST_SPREAD:
            doubts.append(f"the exponent of {name} is between {low:.2g} and {high:.2g}")
    return tuple(doubts)


def _plain(theta: Floats) -> Floats:
    """A, alpha, B, beta and E of the logarithms that are fitted."""
    return np.array(
        [math.exp(min(theta[0], 700)), theta[1], math.exp(min(theta[2], 700)), theta[3],
         math.exp(theta[4]) if theta[4] > NO_FLOOR + 0.01 else 0.0]
    )  # fmt: skip


def _parts(theta: Floats, n: Floats, d: Floats) -> Floats:
    return np.stack([theta[0] - theta[1] * n, theta[2] - theta[3] * d, np.full_like(n, theta[4])])


def _predict(theta: Floats, n: Floats, d: Floats) -> Floats:
    from scipy.special import logsumexp

    result: Floats = logsumexp(_parts(theta, n, d), axis=0)
    return result


OFF = -1000.0
"""The logarithm of the factor of a term that is left out."""


def _descend(starts: Sequence[Floats], n: Floats, d: Floats, y: Floats, single: bool = False) -> Floats:
    """The best end of L-BFGS from these starts; of a ``single`` law without the term of ``d``."""
    from scipy.optimize import minimize

    # the logarithms of the three terms are linear in the five numbers: one product each way
    one, none = np.ones_like(n), np.zeros_like(n)
    terms = np.stack(
        [
            np.concatenate([one, none, none]),
            np.concatenate([-n, none, none]),
            np.concatenate([none, one, none]),
            np.concatenate([none, -d, none]),
            np.concatenate([none, none, one]),
        ],
        1,
    )

    def objective(theta: Floats) -> tuple[float, Floats]:
        parts = (terms @ theta).reshape(3, -1)
        top = parts.max(0)
        whole = np.exp(parts - top)
        total = whole.sum(0)
        error = top + np.log(total) - y
        slope = np.minimum(np.maximum(error, -DELTA), DELTA) / DELTA**2  # of Huber's loss, over its square
        loss = float(slope @ (error - slope * (DELTA**2 / 2)))
        return loss, (slope * whole / total).ravel() @ terms

    second: list[tuple[float, float]] = [(OFF, OFF), (0, 0)] if single else [(-20, 60), (0, 3)]
    bounds = [(-20, 60), (0, 3), *second, (NO_FLOOR, float(y.min()))]
    options = {"maxiter": 5000, "ftol": 1e-14, "gtol": 1e-9}
    ends = [minimize(objective, s, jac=True, method="L-BFGS-B", bounds=bounds, options=options) for s in starts]
    result: Floats = min(ends, key=lambda end: end.fun).x
    return result


@dataclass(frozen=True)
class Fitted:
    """A contestant's law, the FLOPs that a parameter and token cost it, and the range that was run."""

    contestant: str
    law: Law | None
    each: float
    compute: tuple[float, float]
    sizes: tuple[float, float]
    lengths: tuple[float, float]
    rows: int
    singles: list[Single]

    def best(self, compute: float) -> float | None:
        """The lowest loss of this compute by the law, of a size and a length within those that were run."""
        return self._best(self.law, compute)

    def _best(self, law: Law | None, compute: float) -> float | None:
        product = compute / self.each
        low, high = max(self.sizes[0], product / self.lengths[1]), min(self.sizes[1], product / self.lengths[0])
        if law is None or low > high:
            return None
        parameters = min(max(law.best_size(product), low), high)
        return law.loss(parameters, product / parameters)

    def refitted(self) -> list[Fitted]:
        """This contestant with the law of each refit."""
        return [replace(self, law=law) for law in (self.law.again() if self.law else [])]


def fits(standings: Sequence[Any], draws: int = 200) -> list[Fitted]:
    """A law for each contestant, over the runs of all its tasks, which differ in size and length alone.

    Args:
        standings: of the comparison.
        draws: refits of each law, for intervals.
    """
    fitted_laws = []
    for name in dict.fromkeys(standing.contestant for standing in standings):
        rows = [row for s in standings if s.contestant == name for row in s.rows]
        rows = [row for row in rows if not row["higher_is_better"] and row["tokens"] > 0 and row["active_parameters"]]
        rows = [row for row in rows if row["test"][row["metric"]] > 0]  # of all three there must be logarithms
        if not rows:
            continue
        # of a mixture those parameters count that a token meets
        n, d = [row["active_parameters"] for row in rows], [row["tokens"] for row in rows]
        compute = [row["training_flops"] for row in rows]
        each = float(np.median([c / (a * b) for a, b, c in zip(n, d, compute, strict=True)]))
        losses = [row["test"][row["metric"]] for row in rows]
        law = _kept(Law, fit, n, d, losses, draws) if len(rows) >= 5 else None
        spans = [(float(min(values)), float(max(values))) for values in (compute, n, d)]
        fitted_laws.append(Fitted(name, law, each, spans[0], spans[1], spans[2], len(rows), _singles(n, d, losses)))
    return fitted_laws


def _kept(kind: Any, find: Callable[..., Any], *given: Any) -> Any:
    """What ``find`` returns, a data class of this kind, from the cache where it was found before: it takes a minute."""
    key = [kind.__name__, *(list(each) if isinstance(each, Sequence) else each for each in given), *installed("scipy")]
    # by way of JSON, which makes lists of tuples: only what it gives back as it was is kept
    plain = remembered("law", [*key, stamp(Path(__file__))], lambda: json.loads(json.dumps(asdict(find(*given)))))
    return msgspec.convert(plain, kind)


def _singles(n: Sequence[float], d: Sequence[float], losses: Sequence[float]) -> list[Single]:
    """The laws of parameters and of tokens, the other being the largest, where five values of each were run."""
    singles = []
    for of, varied, other in (("parameters", n, d), ("tokens", d, n)):
        # tokens come in whole batches, so equal lengths may differ by one
        chosen = [i for i, value in enumerate(other) if value > 0.97 * max(other)]
        if len({varied[i] for i in chosen}) >= 5:
            values, scores = [varied[i] for i in chosen], [losses[i] for i in chosen]
            singles.append(_kept(Single, fit_single, of, max(other), values, scores))
    return singles


SURE = 0.975
"""The share of refits that must agree on who is ahead, for one to be named: 95 % with either one ahead."""
LEAST_REFITS = 100


def overtakes(one: Fitted, other: Fitted) -> str:
    """Who is ahead at the largest compute that both ran, and from where on; named only where the refits agree.

    Each refit of one law is set beside a refit of the other. Where at least 97.5 % of these pairs have the same one
    ahead at the largest compute, it is named, with the compute from which it is ahead and the interval of that.
    """
    if one.law is None or other.law is None:
        return "too few runs"
    low, high = max(one.compute[0], other.compute[0]), min(one.compute[1], other.compute[1])
    if low >= high or not _ahead(one, other, np.array([low, high])):
        return "no compute in common"
    pairs = list(zip(one.refitted(), other.refitted(), strict=False))
    if len(pairs) < LEAST_REFITS:
        return "too few refits"
    grid = np.geomspace(low, high, 60)
    signs = [leads for a, b in pairs if (leads := _ahead(a, b, grid))]
    share = sum(leads[-1][1] for leads in signs) / len(signs)
    if max(share, 1 - share) < SURE:
        return f"not told apart at {high:.2g} FLOPs (in {max(share, 1 - share):.0%} of refits the same one is ahead)"
    first = share > 0.5
    last = one.contestant if first else other.contestant
    starts = sorted(_since(leads, first) for leads in signs if leads[-1][1] == first)
    start = _since(_ahead(one, other, np.geomspace(low, high, 200)), first)
    at, to = np.percentile(starts, [2.5, 97.5])
    if start <= low * 1.001 and to <= low * 1.001:
        return f"{last} is ahead throughout"
    if to <= low * 1.001 or start <= low * 1.001:
        return f"{last} is ahead at {high:.2g} FLOPs, from at most {max(to, start):.2g} on"
    return f"{last} is ahead from {start:.2g} FLOPs on ({at:.2g} to {to:.2g})"


def _ahead(one: Fitted, other: Fitted, computes: Floats) -> list[tuple[float, bool]]:
    """Each compute that both can spend, and whether the first is ahead there."""
    return [
        (float(c), a < b)
        for c in computes
        if (a := one.best(float(c))) is not None and (b := other.best(float(c))) is not None
    ]


def _since(ahead: Sequence[tuple[float, bool]], first: bool) -> float:
    """The compute from which on the same one is ahead."""
    start = ahead[-1][0]
    for compute, is_first in reversed(ahead):
        if is_first != first:
            break
        start = compute
    return start
