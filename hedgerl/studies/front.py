"""Fronts of risk against cost: which policies no other beats, how much they command, and how surely."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from hedgerl.evaluation.bootstrap import resamples
from hedgerl.pricing._checks import finite, in_interval, nearest, whole_number
from hedgerl.risk.tail import tail_mass
from hedgerl.sim.backend import single_threaded_blas

MOST = 5  # objectives of a front
STD_WEIGHT = 1.5  # of mean_std, as in Cao, Chen, Hull & Poulos (2021)


def non_dominated(values: Any) -> np.ndarray:
    """Which points no other beats, (n, m) -> (n,) bool; every axis is minimised.

    A point is beaten by one that is no worse on any axis and better on one, so that of equal points all are kept.
    Points with a NaN are never in it and beat nobody. O(n log n) for m up to 3 (Kung, Luccio & Preparata 1975), n times
    the size of the front above.

    >>> non_dominated([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0], [2.0, 2.0]]).tolist()
    [True, True, False, True]

    Raises ValueError unless there are 1 to 5 axes.
    """
    points = _points("values", values)
    out = np.zeros(len(points), dtype=bool)
    known = np.flatnonzero(~np.isnan(points).any(axis=1))
    if known.size:
        order = known[np.lexsort(points[known].T[::-1])]
        ordered = points[order]
        new = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
        kept = (_sweep, _sweep, _staircases, _archive, _archive)[points.shape[1] - 1](ordered[new])
        out[order] = kept[np.cumsum(new) - 1]
    return out


def _sweep(points: np.ndarray) -> np.ndarray:
    """The non-dominated of distinct points of one or two axes, sorted lexicographically."""
    if points.shape[1] == 1:
        return np.arange(len(points)) == 0
    y = points[:, 1]
    before = np.concatenate([[np.inf], np.minimum.accumulate(y)[:-1]])
    return (y < before) | (np.arange(len(points)) == 0)


def _staircases(points: np.ndarray) -> np.ndarray:
    """The non-dominated of distinct points of three axes, sorted: a staircase in the last two is kept up to date."""
    kept = np.zeros(len(points), dtype=bool)
    ys: list[float] = []
    zs: list[float] = []  # falling as ys rise
    for i, (_, y, z) in enumerate(points.tolist()):
        at = bisect.bisect_right(ys, y)
        if at and zs[at - 1] <= z:
            continue
        kept[i] = True
        first = bisect.bisect_left(ys, y)
        last = first
        while last < len(zs) and zs[last] >= z:
            last += 1
        ys[first:last] = [y]
        zs[first:last] = [z]
    return kept


def _archive(points: np.ndarray) -> np.ndarray:
    """The non-dominated of distinct points: the one of the least ranks is kept, what it beats is dropped, and again."""
    ranks = np.stack([np.unique(column, return_inverse=True)[1].reshape(-1) for column in points.T], axis=1)
    left = np.argsort(ranks.sum(axis=1), kind="stable")
    kept = np.zeros(len(points), dtype=bool)
    while left.size:
        best, left = left[0], left[1:]
        kept[best] = True
        left = left[(ranks[left] < ranks[best]).any(axis=1)]
    return kept


def attainment(values: Any, reference: Sequence[float] | None = None) -> np.ndarray:
    """The staircase of the front of points (n, 2), as a line through (k, 2): points by rising first axis, with corners.

    Everything above and to the right of it is beaten by the front. With a reference it begins at the reference's
    second coordinate and ends at its first (points that are not strictly better than it are left out).

    >>> attainment([[1.0, 3.0], [2.0, 1.0]], reference=(4.0, 5.0)).tolist()
    [[1.0, 5.0], [1.0, 3.0], [2.0, 3.0], [2.0, 1.0], [4.0, 1.0]]
    """
    points = _points("values", values)
    if points.shape[1] != 2:
        raise ValueError(f"values must have two axes, got {points.shape[1]}")
    points = points[np.isfinite(points).all(axis=1)]
    corner = None if reference is None else _reference(reference, 2)
    if corner is not None:
        points = points[(points < corner).all(axis=1)]
    front = np.unique(points[non_dominated(points)], axis=0)
    if not len(front):
        return np.zeros((0, 2))
    x, y = front.T
    line = np.column_stack([np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]])
    if corner is None:
        return line
    return np.vstack([[x[0], corner[1]], line, [corner[0], y[-1]]])


def hypervolume(values: Any, reference: Sequence[float]) -> float:
    """The volume that points (n, m) command below a reference (m,), every axis minimised; exact, m = 1 to 5.

    It is the measure of what is beaten by a point and beats the reference. Points that are not strictly better than
    the reference on all axes add nothing, nor do points with a NaN.

    Two axes: a sweep. Three: a sweep along the third over a staircase in the first two that is kept up to date
    (Fonseca, Paquete & Lopez-Ibanez 2006, section III), O(n log n) searches. Above: exclusive volumes by limiting the
    other points to the box of each (While, Bradstreet & Barone 2012, "WFG", eqs. 3-5), sorted so that every limited
    set is flat in the last axis and one axis falls away.

    >>> hypervolume([[1.0, 2.0], [2.0, 1.0], [2.5, 2.5]], (3.0, 3.0))
    3.0

    Raises ValueError for a reference that is not finite or of another length, and for points at minus infinity.
    """
    points = _points("values", values)
    corner = _reference(reference, points.shape[1])
    if np.isneginf(points).any():
        raise ValueError("values must be above minus infinity")
    points = points[(points < corner).all(axis=1)]
    if points.shape[1] > 2:
        points = points[non_dominated(points)]
    return _volume(points, corner) if len(points) else 0.0


def _volume(points: np.ndarray, corner: np.ndarray) -> float:
    """The hypervolume of points that are strictly better than the corner; of more than two axes, non-dominated ones."""
    m = points.shape[1]
    if len(points) == 1:
        return float(np.prod(corner - points[0]))
    if m == 1:
        return float(corner[0] - points.min())
    if m == 2:
        x, y = points[np.argsort(points[:, 0])].T
        return float((np.diff(x, append=corner[0]) * (corner[1] - np.minimum.accumulate(y))).sum())
    if m == 3:
        return _swept_volume(points, corner)
    points = points[np.argsort(-points[:, -1], kind="stable")]
    flat, below = points[:, :-1], corner[:-1]
    total = 0.0
    for i, point in enumerate(flat):
        alone = float(np.prod(below - point))
        if i + 1 < len(flat):
            limited = np.maximum(flat[i + 1 :], point)
            alone -= _volume(limited[non_dominated(limited)], below)
        total += alone * float(corner[-1] - points[i, -1])
    return total


def _swept_volume(points: np.ndarray, corner: np.ndarray) -> float:
    """The volume of points of three axes: areas of the staircases between consecutive third coordinates."""
    cx, cy, cz = corner.tolist()
    xs, ys = [-math.inf, cx], [cy, -math.inf]  # ys fall as xs rise; sentinels at both ends
    area, volume, before = 0.0, 0.0, 0.0
    for x, y, z in points[np.lexsort(points.T)].tolist():
        volume += area * (z - before)
        before = z
        at = bisect.bisect_right(xs, x)
        if ys[at - 1] <= y:
            continue
        first = bisect.bisect_left(xs, x)
        last, left, roof = first, x, ys[first - 1]
        while ys[last] >= y:
            area += (xs[last] - left) * (roof - y)
            left, roof = xs[last], ys[last]
            last += 1
        area += (xs[last] - left) * (roof - y)
        xs[first:last] = [x]
        ys[first:last] = [y]
    return volume + area * (cz - before)


def _points(name: str, values: Any) -> np.ndarray:
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 2 or not 1 <= points.shape[1] <= MOST:
        raise ValueError(f"{name} must be (points, axes) with 1 to {MOST} axes, got shape {points.shape}")
    return points


def _reference(reference: Sequence[float], m: int) -> np.ndarray:
    if len(reference) != m:
        raise ValueError(f"reference must have a number for each of the {m} axes, got {list(reference)!r}")
    return np.array([finite("reference", float(each)) for each in reference])


class Episodes:
    """P&L and cost of policies on the same episodes, made ready to be measured under many resamplings at once.

    pnl, cost: (p, n), of an episode, P&L after costs. unhedged: (n,), P&L of no hedge. All in one unit of money, which
    cancels. A policy with a P&L or a cost that is not finite is NaN in every measure.

    Raises ValueError for shapes that do not agree, fewer than two episodes, or an unhedged P&L that is not finite or
    does not vary: its deviation is the unit of every measure.
    """

    def __init__(self, pnl: Any, cost: Any, unhedged: Any) -> None:
        pnl, cost, base = (np.asarray(each, dtype=np.float64) for each in (pnl, cost, unhedged))
        if base.ndim != 1 or base.size < 2:
            raise ValueError(f"unhedged must be the P&L of at least two episodes, (n,), got shape {base.shape}")
        for name, each in (("pnl", pnl), ("cost", cost)):
            if each.ndim != 2 or each.shape[1] != base.size or not len(each):
                raise ValueError(f"{name} must be (policies, {base.size} episodes), got shape {each.shape}")
        if pnl.shape != cost.shape:
            raise ValueError(f"pnl and cost must be of the same policies, got shapes {pnl.shape} and {cost.shape}")
        if not np.isfinite(base).all():
            raise ValueError("unhedged must be finite, got NaN or infinite values")
        self.n_policies, self.n = pnl.shape
        self.known = np.isfinite(pnl).all(axis=1) & np.isfinite(cost).all(axis=1)  # (p,)
        self.pnl = np.where(self.known[:, None], pnl, 0.0)
        cost = np.where(self.known[:, None], cost, 0.0)
        self.center = self.pnl.mean(axis=1)  # (p,)
        u, x = base - base.mean(), self.pnl - self.center[:, None]
        self.least_variance = 1e-12 * float((u * u).mean())  # what is below is rounding
        if not self.least_variance > 1e-40 * float(base.mean()) ** 2:
            raise ValueError(
                "unhedged must vary: its standard deviation is the unit of every objective, got 0; "
                f"every episode made {base[0]:g}"
            )
        # Equal columns are summed once: the sums of a matrix product may differ in the last digit from column to
        # column, and of two policies that are the same one would then beat the other.
        rows = [u, u * u, *x, *(x * x), *cost]
        numbers: dict[bytes, int] = {}
        self._where = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in rows])
        _, first = np.unique(self._where, return_index=True)
        self._columns = np.column_stack([rows[i] for i in first])

    @cached_property
    def order(self) -> np.ndarray:
        """(p, n), episodes from the worst on."""
        return np.argsort(self.pnl, axis=1, kind="stable")

    def measure(self, objectives: Sequence[str], counts: np.ndarray | None = None) -> np.ndarray:
        """Objectives of every policy under every resampling, (b, p, m).

        counts: (b, n), how often each episode is drawn, n in all; None: each once. NaN where in a resample the
        unhedged P&L does not vary.
        """
        names = check_objectives(objectives)
        counts = np.ones((1, self.n)) if counts is None else np.asarray(counts, dtype=np.float64)
        with single_threaded_blas():
            means = (counts @ self._columns)[:, self._where] / self.n
        x, xx, cost = np.split(means[:, 2:], 3, axis=1)
        unhedged_variance = means[:, 1] - means[:, 0] ** 2
        unit = np.where(unhedged_variance > self.least_variance, unhedged_variance, np.nan)
        inflation = self.n / (self.n - 1)
        sd = np.sqrt(np.maximum(xx - x * x, 0.0) * inflation)
        drawn = _Drawn(self, counts, np.sqrt(unit * inflation), self.center + x, sd, cost)
        out = np.stack([OBJECTIVES[name].of(drawn) for name in names], axis=-1) / drawn.unit[:, None, None]
        out[:, ~self.known] = np.nan
        return out


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Episodes under resamplings, with what most measures need."""

    episodes: Episodes
    counts: np.ndarray  # (b, n)
    unit: np.ndarray  # (b,), deviation of the unhedged P&L
    mean: np.ndarray  # (b, p)
    sd: np.ndarray  # (b, p)
    cost: np.ndarray  # (b, p)

    def semi_deviation(self) -> np.ndarray:
        out = np.empty_like(self.mean)
        for i, pnl in enumerate(self.episodes.pnl):
            short = np.minimum(pnl - self.mean[:, i, None], 0.0)
            out[:, i] = np.einsum("bn,bn,bn->b", self.counts, short, short)
        return np.sqrt(out / self.episodes.n)

    def cvar(self, level: float) -> np.ndarray:
        """As `hedgerl.risk.cvar` defines it, from outcomes sorted once: only the worst are looked at."""
        of, n = self.episodes, self.episodes.n
        mass = tail_mass(n, level)
        out = np.empty_like(self.mean)
        for i, (pnl, order) in enumerate(zip(of.pnl, of.order, strict=True)):
            reach = min(n, int(mass + 12.0 * math.sqrt(mass)) + 32)  # beyond any resampling's tail ...
            while True:
                worst = order[:reach]
                drawn = self.counts[:, worst]
                reached = np.cumsum(drawn, axis=1)
                if reach == n or reached[:, -1].min() > mass:
                    break
                reach = n  # ... but for one in 1e30
            weights = np.clip(mass - (reached - drawn), 0.0, drawn)
            out[:, i] = -np.einsum("bn,n->b", weights, pnl[worst]) / mass
        return out

    def entropic(self) -> np.ndarray:
        with np.errstate(divide="ignore"):
            log_counts = np.log(self.counts)
        out = np.empty_like(self.mean)
        scratch = np.empty(self.episodes.n)
        for b, (row, unit) in enumerate(zip(log_counts, self.unit, strict=True)):
            for i, pnl in enumerate(self.episodes.pnl):  # row by row: in the core's cache
                exponent = np.subtract(row, np.divide(pnl, unit, out=scratch), out=scratch)
                peak = exponent.max()  # of the episodes that are drawn: no sum underflows
                exponent -= peak
                out[b, i] = math.log(np.exp(exponent, out=exponent).sum()) + peak
        return (out - math.log(self.episodes.n)) * self.unit[:, None]


class Measure(NamedTuple):
    """An objective: less is better, and the unit is the standard deviation of the unhedged P&L."""

    label: str
    meaning: str
    of: Callable[[_Drawn], np.ndarray]  # in money, (b, p)


OBJECTIVES: dict[str, Measure] = {
    "risk": Measure("Risk", "standard deviation of P&L after costs, with n - 1", lambda x: x.sd),
    "semi_deviation": Measure(
        "Semi-deviation", "root mean square of what falls short of the mean P&L", _Drawn.semi_deviation
    ),
    "tail": Measure("CVaR 95 %", "mean loss in the worst 5 % of episodes", lambda x: x.cvar(0.95)),
    "cvar_99": Measure("CVaR 99 %", "mean loss in the worst 1 % of episodes", lambda x: x.cvar(0.99)),
    "entropic": Measure(
        "Entropic risk", "log E exp(-P&L / s), s the deviation of the unhedged P&L: aversion 1 / s", _Drawn.entropic
    ),
    "mean_loss": Measure("Mean loss", "minus the mean P&L after costs", lambda x: -x.mean),
    "mean_std": Measure(
        "Mean loss + 1.5 sd", "mean loss plus 1.5 standard deviations", lambda x: STD_WEIGHT * x.sd - x.mean
    ),
    "cost": Measure("Cost", "mean trading cost of an episode", lambda x: x.cost),
}


def check_objectives(names: Sequence[str], *, least: int = 1) -> tuple[str, ...]:
    """The names of objectives; ValueError unless they are of `OBJECTIVES`, distinct, and `least` to 5 of them."""
    given = (names,) if isinstance(names, str) else tuple(names)
    for name in given:
        if name not in OBJECTIVES:
            raise ValueError(
                f"objectives must be among {', '.join(OBJECTIVES)}, got {name!r}; the nearest is "
                f"{nearest(name, OBJECTIVES)!r}"
            )
    if not least <= len(given) <= MOST or len(set(given)) < len(given):
        raise ValueError(f"objectives must be {least} to {MOST} different ones, got {', '.join(given) or 'none'}")
    return given


def measure(pnl: Any, cost: Any, unhedged: Any, objectives: Sequence[str] = ("risk", "cost")) -> np.ndarray:
    """Objectives of policies, (p, m), from P&L after costs and cost (p, n), and the P&L of no hedge (n,).

    Each over the standard deviation of the unhedged P&L on the same episodes; see `OBJECTIVES` and `Episodes`.

    >>> measure([[1.0, -1.0, 0.5, -0.5]], [[0.1] * 4], [2.0, -2.0, 1.0, -1.0]).round(3).tolist()
    [[0.5, 0.055]]
    """
    return Episodes(pnl, cost, unhedged).measure(objectives)[0]


class Estimate(NamedTuple):
    """A number with its percentile interval (Efron 1979)."""

    value: float
    low: float
    high: float
    bias: float  # mean over resamples less the value

    @classmethod
    def of(cls, value: float, drawn: np.ndarray, tail: float) -> Estimate:
        """NaN for all but the value where a resample is not defined."""
        value = float(value)
        if not (math.isfinite(value) and np.isfinite(drawn).all()):
            return cls(value, math.nan, math.nan, math.nan)
        low, high = np.quantile(drawn, [tail, 1.0 - tail])
        return cls(value, float(low), float(high), float(drawn.mean()) - value)


Verdict = Literal["dominated", "on", "ahead", "undefined"]


class Standing(NamedTuple):
    """Where a policy stands against the first group's front."""

    verdict: Verdict  # of the sample: "ahead" beats a policy of that front, "on" neither beats nor is beaten
    dominated: float  # share of resamples in which some policy of the first group is no worse on any axis
    ahead: float  # share of resamples in which it beats some policy of the first group's front


@dataclass(frozen=True, eq=False)
class FrontComparison:
    """Fronts of groups of policies on the same episodes; axes are `objectives`, dimensionless and minimised."""

    objectives: tuple[str, ...]
    reference: tuple[float, ...]
    groups: dict[str, tuple[int, ...]]  # the first is compared with each other one
    values: np.ndarray  # (p, m)
    low: np.ndarray  # (p, m), of the percentile intervals
    high: np.ndarray  # (p, m)
    on_front: np.ndarray  # (p,) bool, of all policies together
    hypervolume: dict[str, Estimate]  # group -> what its front commands
    difference: dict[str, Estimate]  # other group -> the first's hypervolume less its own
    standing: dict[int, Standing]  # policy outside the first group -> against the first group's front
    n_episodes: int
    n_resamples: int
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and mappings, for JSON (NaN stays NaN)."""
        return {
            "objectives": list(self.objectives),
            "reference": list(self.reference),
            "groups": {name: list(members) for name, members in self.groups.items()},
            "values": self.values.tolist(),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "on_front": self.on_front.tolist(),
            "hypervolume": {name: each._asdict() for name, each in self.hypervolume.items()},
            "difference": {name: each._asdict() for name, each in self.difference.items()},
            "standing": {str(policy): each._asdict() for policy, each in self.standing.items()},
            "n_episodes": self.n_episodes,
            "n_resamples": self.n_resamples,
            "confidence": self.confidence,
        }


def compare_fronts(
    pnl: Any,
    cost: Any,
    unhedged: Any,
    groups: Mapping[str, Sequence[int]],
    objectives: Sequence[str] = ("risk", "cost"),
    *,
    reference: Sequence[float],
    n_resamples: int = 1000,
    confidence: float = 0.95,
    block: int = 1,
    seed: int | None = 0,
) -> FrontComparison:
    """The hypervolumes of groups of policies with bootstrap intervals, paired, and where each policy stands.

    pnl, cost: (p, n), unhedged: (n,), as in `Episodes`. groups: name -> rows of these arrays; the first group is set
    against each other one, and every policy outside it against its front. reference: in units of the unhedged
    deviation, one number for each objective. block: episodes drawn together (circular, for overlapping windows).

    Each resample draws the same episodes for all policies and for the unhedged P&L, and determines every front anew.
    The best of many estimates looks better than it is: the hypervolume of a group of many like policies is biased
    upwards, in the resamples once more than in the sample. `Estimate.bias` says by how much the resamples lie above
    the sample; where it is not small beside the interval, more episodes are needed.

    Raises ValueError for unknown objectives, a reference that does not fit, and groups that are empty or name
    policies that there are not.
    """
    names = check_objectives(objectives)
    corner = _reference(reference, len(names))
    whole_number("n_resamples", n_resamples, minimum=2)
    tail = 0.5 * (1.0 - in_interval("confidence", confidence, 0.0, 1.0))
    episodes = Episodes(pnl, cost, unhedged)
    members = _groups(groups, episodes.n_policies)
    first, *others = members

    values = episodes.measure(names)[0]
    length = max(1, min(whole_number("block", block), episodes.n // 2))
    drawn = np.concatenate(
        [episodes.measure(names, counts) for _, counts in resamples(episodes.n, n_resamples, seed, length)]
    )  # (b, p, m)
    low, high = np.quantile(drawn, [tail, 1.0 - tail], axis=0)  # NaN where a resample is

    def volumes(points: np.ndarray) -> list[float]:
        if np.isnan(points[episodes.known]).any():  # a resample in which the unhedged P&L does not vary
            return [math.nan] * len(members)
        return [hypervolume(points[list(rows)], corner.tolist()) for rows in members.values()]

    volume = dict(zip(members, volumes(values), strict=True))
    resampled = dict(zip(members, np.array([volumes(each) for each in drawn]).T, strict=True))
    outside = [policy for policy in range(episodes.n_policies) if policy not in members[first]]
    return FrontComparison(
        objectives=names,
        reference=tuple(corner.tolist()),
        groups=members,
        values=values,
        low=low,
        high=high,
        on_front=non_dominated(values),
        hypervolume={name: Estimate.of(volume[name], resampled[name], tail) for name in members},
        difference={
            name: Estimate.of(volume[first] - volume[name], resampled[first] - resampled[name], tail) for name in others
        },
        standing=_standing(values, drawn, members[first], outside),
        n_episodes=episodes.n,
        n_resamples=n_resamples,
        confidence=confidence,
    )


def _groups(groups: Mapping[str, Sequence[int]], n_policies: int) -> dict[str, tuple[int, ...]]:
    if not groups:
        raise ValueError("groups must name at least one group of policies, got none")
    members = {str(name): tuple(int(each) for each in rows) for name, rows in groups.items()}
    for name, rows in members.items():
        if not rows or min(rows) < 0 or max(rows) >= n_policies:
            raise ValueError(f"groups must have policies from 0 to {n_policies - 1}, got {list(rows)!r} for {name!r}")
    return members


def _standing(
    values: np.ndarray, drawn: np.ndarray, group: tuple[int, ...], outside: Sequence[int]
) -> dict[int, Standing]:
    """Each outside policy against the group's front, in the sample (p, m) and in the resamples (b, p, m)."""
    beaten, _, ahead = (each[0] for each in _against(values[None], group, outside))
    _, reached, ahead_too = _against(drawn, group, outside)
    someone = bool(np.isfinite(values[list(group)]).all(axis=1).any())
    out = {}
    for i, policy in enumerate(outside):
        if not (someone and np.isfinite(values[policy]).all()):
            out[policy] = Standing("undefined", math.nan, math.nan)
            continue
        verdict: Verdict = "dominated" if beaten[i] else "ahead" if ahead[i] else "on"
        defined = bool(np.isfinite(drawn[:, policy]).all())
        shares = (float(each[:, i].mean()) if defined else math.nan for each in (reached, ahead_too))
        out[policy] = Standing(verdict, *shares)
    return out


def _against(
    drawn: np.ndarray, group: tuple[int, ...], outside: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each (b, q) bool: a policy of the group's front beats it; one is nowhere worse than it; it beats one."""
    out = np.zeros((3, len(drawn), len(outside)), dtype=bool)
    for b, points in enumerate(drawn):
        members, others = points[list(group)], points[list(outside)]
        front = members[non_dominated(members)][:, None]
        no_worse, no_better = (front <= others).all(axis=-1), (others <= front).all(axis=-1)
        out[:, b] = (no_worse & ~no_better).any(0), no_worse.any(0), (no_better & ~no_worse).any(0)
    return out[0], out[1], out[2]
