"""Robust least squares in volatility, with the errors of what it finds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.optimize import least_squares

from hedgerl.calibration.chain import Slice

FLOOR = 1e-3  # least half spread of a volatility: what a model cannot mean to fit
LOSS = 3.0  # half spreads from which on an error counts linearly
_SETTLED = 1e-4  # of every parameter in the search's coordinates
_CLUSTERS = 3  # expiries from which on they are left out one at a time


class Parameter(NamedTuple):
    """A number that is sought: within its bounds, in its own scale ("log", "linear")."""

    name: str
    low: float
    high: float
    scale: str = "log"

    def to_search(self, value: float) -> float:
        """Where the search has it."""
        return math.log(value) if self.scale == "log" else value

    def from_search(self, value: float) -> float:
        """Its value from where the search has it."""
        return math.exp(value) if self.scale == "log" else value

    def slope(self, value: float) -> float:
        """Of the value by where the search has it."""
        return value if self.scale == "log" else 1.0


class Pricer(Protocol):
    """A model's smiles at the strikes of a chain."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What is sought; those of the curve last."""
        ...

    @property
    def n_curve(self) -> int:
        """How many of them are levels of a curve, each told by its own expiry alone."""
        ...

    @property
    def tolerance(self) -> float:
        """Relative change of the loss with which a search is content."""
        ...

    def starts(self) -> list[np.ndarray]:
        """Points to search from, (p,) each."""
        ...

    def __call__(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Volatilities (n,) of all quotes, expiry after expiry, and their derivatives (n, p)."""
        ...


@dataclass(frozen=True, eq=False)
class Fit:
    """Where a search ended. Errors are standard errors; NaN for what was held or lies at a bound."""

    pricer: Pricer
    slices: Sequence[Slice]
    point: np.ndarray  # (p,)
    error: np.ndarray  # (p,) the larger of the two below
    error_quotes: np.ndarray  # (p,) were the errors of quotes independent
    error_expiries: np.ndarray  # (p,) with whole expiries left out; NaN for levels of the curve, and below 3 expiries
    correlation: np.ndarray  # (p, p) of what is free, NaN elsewhere: by quotes
    held: frozenset[str]
    at_bound: frozenset[str]
    loss: float  # sum over quotes of the robust loss, of which profiles are differences
    volatility: np.ndarray  # (n,) of the model
    evaluations: int
    losses: tuple[float, ...]  # at the end of each start

    @property
    def values(self) -> dict[str, float]:
        """Parameters by name."""
        return {each.name: float(value) for each, value in zip(self.pricer.parameters, self.point, strict=True)}

    @property
    def errors(self) -> dict[str, float]:
        """Standard errors by name."""
        return {each.name: float(value) for each, value in zip(self.pricer.parameters, self.error, strict=True)}

    def by_expiry(self) -> list[dict[str, Any]]:
        """Of each expiry, in volatility a year: root mean square, mean and largest error, and the share within bid and
        ask (where there is a bid)."""
        rows, first = [], 0
        for each in self.slices:
            model = self.volatility[first : first + each.k.size]
            first += each.k.size
            away = model - each.mid
            inside = (model <= each.ask) & (model >= np.where(np.isfinite(each.bid), each.bid, 0.0))
            rows.append(
                {
                    "expiry": str(each.date),
                    "root": each.root,
                    "days": each.years * 365.0,
                    "quotes": int(each.k.size),
                    "rmse": float(np.sqrt((away**2).mean())),
                    "mean": float(away.mean()),
                    "largest": float(away[np.abs(away).argmax()]),
                    "half_spread": float(np.median(each.half_spread)),
                    "inside": float(inside.mean()),
                }
            )
        return rows

    @property
    def rmse(self) -> float:
        """Root mean square error in volatility, every expiry alike."""
        return float(np.sqrt(np.mean([row["rmse"] ** 2 for row in self.by_expiry()])))

    @property
    def inside(self) -> float:
        """Share of quotes within bid and ask, every expiry alike."""
        return float(np.mean([row["inside"] for row in self.by_expiry()]))


def solve(
    pricer: Pricer,
    slices: Sequence[Slice],
    *,
    hold: Mapping[str, float] | None = None,
    starts: Sequence[np.ndarray] | None = None,
    steps: int = 60,
) -> Fit:
    """The least robust distance (soft L1 from 3 half spreads on) between model and middle of bid and ask.

    Each quote's error is in half spreads of its volatility, at least FLOOR, over the root of the number of quotes of
    its expiry, so that expiries count alike. As errors are in volatility they are those of prices over vega.

    hold: parameters that are not sought. starts: points; None: the pricer's own. steps: evaluations from each.
    Raises ValueError for a parameter that the model does not have or a value beyond its bounds.
    """
    problem = _Problem(pricer, slices, dict(hold or {}))
    ends = [problem.search(start, steps) for start in (pricer.starts() if starts is None else starts)]
    best = min(ends, key=lambda end: float(end.cost))
    return problem.finished(best, tuple(float(end.cost) for end in ends), sum(int(end.nfev) for end in ends))


class Profile(NamedTuple):
    """The loss along one parameter with all others sought again."""

    name: str
    values: np.ndarray  # (m,)
    rmse: np.ndarray  # (m,) in volatility
    loss: np.ndarray  # (m,)
    points: np.ndarray  # (m, p)


def profile(of: Fit, name: str, values: np.ndarray, steps: int = 6) -> Profile:
    """The fit again with one parameter held at each of the values, from the one found."""
    held = {each: of.values[each] for each in of.held}
    fits: list[Fit] = []
    centre = int(np.abs(values - of.values[name]).argmin())
    done: dict[int, Fit] = {}
    for order in (range(centre, values.size), range(centre, -1, -1)):
        point = of.point
        for place in order:
            if place not in done:
                done[place] = solve(
                    of.pricer, of.slices, hold=held | {name: float(values[place])}, starts=[point], steps=steps
                )
            point = done[place].point
    fits = [done[place] for place in range(values.size)]
    return Profile(
        name,
        values,
        np.array([each.rmse for each in fits]),
        np.array([each.loss for each in fits]),
        np.stack([each.point for each in fits]),
    )


class _Problem:
    """Residuals and derivatives over the parameters that are free."""

    def __init__(self, pricer: Pricer, slices: Sequence[Slice], hold: dict[str, float]) -> None:
        self.pricer, self.slices, self.hold = pricer, slices, hold
        names = [each.name for each in pricer.parameters]
        for name, value in hold.items():
            if name not in names:
                raise ValueError(f"hold must name a parameter of the model ({', '.join(names)}), got {name}")
            bounds = pricer.parameters[names.index(name)]
            if not bounds.low <= value <= bounds.high:
                raise ValueError(f"{name} must lie in [{bounds.low:g}, {bounds.high:g}], got {value:g}")
        self.free = np.array([name not in hold for name in names])
        self.sought = [each for each in pricer.parameters if each.name not in hold]
        self.target = np.concatenate([each.mid for each in slices])
        self.half = np.concatenate([np.maximum(each.half_spread, FLOOR) for each in slices])
        sizes = np.array([each.k.size for each in slices])
        self.expiry = np.repeat(np.arange(len(slices)), sizes)
        self.weight = np.sqrt(sizes.mean() / sizes)[self.expiry] / self.half
        self._last: tuple[bytes, np.ndarray, np.ndarray] | None = None

    def at(self, search: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Volatilities (n,) and their derivatives (n, free) by the search's coordinates."""
        key = search.tobytes()
        if self._last is None or self._last[0] != key:
            point = self.point(search)
            volatility, slope = self.pricer(point)
            by_search = np.array([each.slope(value) for each, value in zip(self.sought, point[self.free], strict=True)])
            self._last = key, volatility, slope[:, self.free] * by_search
        return self._last[1], self._last[2]

    def point(self, search: np.ndarray) -> np.ndarray:
        """All parameters (p,)."""
        point = np.empty(self.free.size)
        point[self.free] = [each.from_search(value) for each, value in zip(self.sought, search.tolist(), strict=True)]
        names = [each.name for each in self.pricer.parameters]
        for name, value in self.hold.items():
            point[names.index(name)] = value
        return point

    def search(self, start: np.ndarray, steps: int) -> Any:
        """Least squares from a starting point (p,)."""
        low, high = (
            np.array([each.to_search(getattr(each, side)) for each in self.sought]) for side in ("low", "high")
        )
        begin = np.array([each.to_search(value) for each, value in zip(self.sought, start[self.free], strict=True)])
        return least_squares(
            lambda x: (self.at(x)[0] - self.target) * self.weight,
            np.clip(begin, low + 1e-6, high - 1e-6),
            lambda x: self.at(x)[1] * self.weight[:, None],  # pyright: ignore[reportArgumentType]
            (low, high),
            x_scale="jac",
            loss="soft_l1",
            f_scale=LOSS,
            ftol=self.pricer.tolerance,
            xtol=_SETTLED,
            gtol=1e-10,
            max_nfev=steps,
        )

    def finished(self, end: Any, losses: tuple[float, ...], evaluations: int) -> Fit:
        """The fit with its errors."""
        volatility, slope = self.at(end.x)
        point = self.point(end.x)
        inner = np.array(end.active_mask) == 0
        jacobian, residual = slope[:, inner] * self.weight[:, None], (volatility - self.target) * self.weight
        n_curve = sum(
            each.name not in self.hold for each in self.pricer.parameters[self.free.size - self.pricer.n_curve :]
        )
        curve = (
            np.arange(len(self.sought))[inner] >= len(self.sought) - n_curve if n_curve else np.zeros(inner.sum(), bool)
        )
        by_quotes, by_expiries = errors(jacobian, residual, self.expiry, curve)
        full = np.full((self.free.size, self.free.size), np.nan)
        places = np.flatnonzero(self.free)[inner]
        scale = np.array([each.slope(value) for each, value in zip(self.sought, point[self.free], strict=True)])[inner]
        deviation = np.sqrt(np.diag(by_quotes))
        full[np.ix_(places, places)] = by_quotes / np.outer(deviation, deviation)
        spread = [np.full(self.free.size, np.nan) for _ in range(2)]
        spread[0][places] = deviation * scale
        spread[1][places] = by_expiries * scale
        names = [each.name for each in self.pricer.parameters]
        return Fit(
            pricer=self.pricer,
            slices=self.slices,
            point=point,
            error=np.fmax(*spread),
            error_quotes=spread[0],
            error_expiries=spread[1],
            correlation=full,
            held=frozenset(self.hold),
            at_bound=frozenset(names[place] for place in np.flatnonzero(self.free)[~inner]),
            loss=float(end.cost),
            volatility=volatility,
            evaluations=evaluations,
            losses=losses,
        )


def errors(
    jacobian: np.ndarray, residual: np.ndarray, cluster: np.ndarray, curve: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Covariance (p, p) were the residuals independent, and standard errors (p,) with clusters left out one at a time.

    For the estimator of sum rho(r) with psi = rho', A = sum psi' J J': the first is
    A^-1 (sum psi^2 / (1 - h)^2 J J') A^-1, h the leverage of a quote (Huber 1967; MacKinnon & White 1985, HC3). The
    second is the jackknife over clusters in one Newton step, (G - 1) / G sum_g d_g d_g', d_g = (A - A_g)^-1 sum_g psi J
    (MacKinnon, Nielsen & Webb 2023, CV3), which does not shrink as the usual sandwich does where clusters are few.
    Columns of `curve` (p,) are told by their own cluster and cannot do without it: they are projected out of the others
    first and have NaN themselves. NaN below three clusters.
    """
    p = jacobian.shape[1]
    far = np.sqrt(1.0 + (residual / LOSS) ** 2)
    psi, bend = residual / far, 1.0 / far**3
    normal = (jacobian * bend[:, None]).T @ jacobian
    inverse = np.linalg.pinv(normal, rcond=1e-13, hermitian=True)
    leverage = bend * np.einsum("ij,jk,ik->i", jacobian, inverse, jacobian)
    meat = (jacobian * ((psi / np.maximum(1.0 - leverage, 0.1)) ** 2)[:, None]).T @ jacobian
    covariance = inverse @ meat @ inverse
    result = np.full(p, np.nan)
    groups = np.unique(cluster)
    if groups.size < _CLUSTERS or curve.all():
        return covariance, result
    own = jacobian[:, ~curve]
    if curve.any():
        shape = jacobian[:, curve]
        weighted = shape * bend[:, None]
        own = own - shape @ (np.linalg.pinv(weighted.T @ shape, rcond=1e-13, hermitian=True) @ (weighted.T @ own))
    whole = (own * bend[:, None]).T @ own
    total = np.zeros_like(whole)
    for group in groups:
        here = cluster == group
        rest = whole - (own[here] * bend[here, None]).T @ own[here]
        moved = np.linalg.pinv(rest, rcond=1e-13, hermitian=True) @ (own[here].T @ psi[here])
        total += np.outer(moved, moved)
    result[~curve] = np.sqrt(np.diag(total) * (groups.size - 1) / groups.size)
    return covariance, result


def moved_by_noise(of: Fit, pricers: Sequence[Pricer], steps: int = 8) -> list[Fit]:
    """The fit again under other noise of a Monte Carlo, from the one found."""
    hold = {name: of.values[name] for name in of.held}
    return [solve(each, of.slices, hold=hold, starts=[of.point], steps=steps) for each in pricers]
