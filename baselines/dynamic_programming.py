"""The optimal hedge for exponential utility under proportional costs and Black-Scholes, by backward induction."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from array_api_compat import array_namespace, device
from numpy.lib.stride_tricks import sliding_window_view

from hedgerl.baselines.base import Baseline, Observation
from hedgerl.envs.task import ShortOption, Task
from hedgerl.execution import Commission, HalfSpread, Proportional
from hedgerl.execution.costs import Quotes, linear_cost
from hedgerl.pricing import black_scholes
from hedgerl.pricing._checks import finite, positive, whole_number
from hedgerl.sim import BlackScholes

Array = Any

_REACH = 6.0  # deviations of the spot at each step, and of a step, that the grid and the quadrature go out to
_FINE = 16  # nodes of the last step's quadrature for each one elsewhere: the payoff has a kink
_CELLS = 1 << 22  # numbers in one array


@dataclass(frozen=True, eq=False)
class Solution:
    """The bands on the grid, and what the programme is worth."""

    steps: int
    spot: np.ndarray  # (n_steps, m), of each step's grid
    lower: np.ndarray  # (n_steps, m), edges of the band in shares
    upper: np.ndarray
    value: float  # entropic risk of the P&L, premium included, in currency


@dataclass(frozen=True)
class DynamicProgramming(Baseline):
    """The hedge of a short option that has the least entropic risk log(E[exp(-a P&L)]) / a: no other gets below it.

    Under Black-Scholes dynamics with a drift, with costs proportional to the number of shares traded. `solve` finds it
    on a grid of (time, spot, position). With exponential utility wealth factors out, and with h shares after the trade
    at t and k(S) the cost of a share, in money of the maturity,

        J_T(S, h)  = payoff(S) + k(S) |h|                                                    (the unwinding)
        G_t(S, h)  = log(E[exp(a (J_t+1(S', h) - h (S' - S)))]) / a                          (the market moves)
        J_t(S, h)  = min over h' of G_t(S, h') + k(S) |h' - h|                               (the trade)

    G is convex in h, so that the best trade goes to the nearer edge of a band [lower, upper] and there is none inside
    (Hodges & Neuberger 1989; Davis, Panas & Zariphopoulou 1993). The spot moves on a grid in its logarithm that drifts
    with it; expectations are sums over a normal density on that grid, finer at the last step, where the payoff has a
    kink. Between nodes bands are interpolated.

    As a policy it reads the spot, the holdings and the step, and belongs to the task it was solved for. Its `solution`
    has the bands and the value.

    aversion: a, per unit of currency of the whole book's P&L.

    >>> from hedgerl.envs import Execution, ShortOption
    >>> from hedgerl.execution import Proportional
    >>> from hedgerl.sim import BlackScholes
    >>> costs = (Proportional(rate=0.01, applies_to="underlying"),)
    >>> market, execution = BlackScholes(volatility=0.2), Execution(costs=costs)
    >>> task = ShortOption(market=market, n_steps=4, maturity=0.08, execution=execution)
    >>> hedge = DynamicProgramming.solve(task, aversion=1.0, positions=101)
    >>> round(hedge.value, 2)
    2.0
    """

    aversion: float = 1.0
    solution: Solution | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        positive("aversion", self.aversion)

    @property
    def observation(self) -> tuple[str, ...]:
        """See `Baseline.observation`."""
        return ("spot", "holdings", "step")

    @property
    def value(self) -> float:
        """The least entropic risk of the P&L, in currency; the premium received counts as a gain."""
        return self._solved().value

    def target(self, observation: Observation) -> Array:
        """See `Baseline.target`. Raises ValueError where it has not been solved."""
        solved = self._solved()
        spot, held = observation["spot"], observation["holdings"]
        if held.shape[-1] != 1:
            raise ValueError(f"dynamic_programming trades the underlying alone, got {held.shape[-1]} instruments")
        step = int(observation["step"][0])
        if step >= solved.steps:
            raise ValueError(f"dynamic_programming was solved for {solved.steps} steps, got step {step}")
        xp = array_namespace(spot)
        grid = solved.spot[step]
        width = math.log(grid[1] / grid[0])
        place = xp.clip((xp.log(spot) - math.log(grid[0])) / width, 0.0, grid.size - 1.000001)
        left = xp.astype(xp.floor(place), xp.int64)
        part = place - left
        edges = []
        for values in (solved.lower[step], solved.upper[step]):
            known = xp.asarray(values, dtype=spot.dtype, device=device(spot))
            edges.append((1.0 - part) * xp.take(known, left, axis=0) + part * xp.take(known, left + 1, axis=0))
        return xp.minimum(xp.maximum(held, edges[0][:, None]), edges[1][:, None])

    def _solved(self) -> Solution:
        if self.solution is None:
            raise ValueError(
                "dynamic_programming must be solved for its task first: DynamicProgramming.solve(task, ...)"
            )
        return self.solution

    @classmethod
    def solve(
        cls,
        task: Task,
        aversion: float = 1.0,
        *,
        bounds: tuple[float, float] | None = None,
        positions: int = 401,
        nodes: int = 6,
    ) -> Self:
        """The optimal hedge of a `ShortOption` under `BlackScholes`.

        Parameters
        ----------
        aversion : per unit of currency of the P&L.
        bounds : least and most shares held, over the option's quantity; None: [0, 1] for a call, [-1, 0] for a put.
            With a drift and little aversion the optimum may lie outside of them.
        positions : nodes of the grid from one bound to the other.
        nodes : of the spot's grid in one deviation of a step.

        Raises ValueError for another task or market, perturbed parameters, hedge options, limits, costs that are not
        linear, and loans or short shares that cost more than the rate.
        """
        a = positive("aversion", aversion)
        market = _solvable(task)
        assert isinstance(task, ShortOption)
        whole_number("positions", positions, minimum=3)
        whole_number("nodes", nodes, minimum=2)
        low, high = ((0.0, 1.0) if task.is_call else (-1.0, 0.0)) if bounds is None else bounds
        if not finite("bounds", low) <= 0.0 <= finite("bounds", high) or low == high:
            raise ValueError(f"bounds must be two different numbers around 0, got {bounds!r}")
        funding = task.execution.funding
        rate = market.rate if funding.rate is None else funding.rate
        drift = (market.rate if market.drift is None else market.drift) - market.dividend
        n_steps, dt = task.n_steps, task.maturity / task.n_steps
        grow = [math.exp(rate * dt * (n_steps - step)) for step in range(n_steps + 1)]  # to money of the maturity
        paid = math.expm1(market.dividend * dt)  # of a share, at the end of a step

        deviation = market.volatility * dt**0.5
        width = deviation / nodes
        most = math.ceil(_REACH * nodes * max(n_steps, 2) ** 0.5)
        window = math.ceil(_REACH * nodes)
        log_move = (drift - 0.5 * market.volatility**2) * dt
        log_spot = math.log(market.spot) + width * np.arange(-most, most + 1)
        held = task.quantity * np.linspace(low, high, positions)
        weight = _normal_weights(window, nodes)

        def cost(spot: np.ndarray) -> np.ndarray:
            quotes = Quotes(
                spot, market.volatility + 0.0 * spot, spot[:, None], 0.0 * spot[:, None], np.zeros(1), np.ones(1)
            )
            return np.asarray(linear_cost(task.execution.costs, quotes)[:, 0])

        strike = task.moneyness * market.spot
        left = max((task.maturity if task.expiry is None else task.expiry) - task.maturity, 0.0)

        def terminal(spot: np.ndarray) -> np.ndarray:
            if left < 1e-9:
                owed = np.maximum(spot - strike if task.is_call else strike - spot, 0.0)
            else:
                owed = _price(market, spot, strike, left, task.is_call)
            unwound = cost(spot)[:, None] * abs(held) if task.execution.unwind else 0.0
            return np.asarray(task.quantity * owed[:, None] + unwound)

        def moved(owed: np.ndarray, before: np.ndarray, after: np.ndarray, step: int, each: np.ndarray) -> np.ndarray:
            """G of the spots `before` (m,), where J at `after` (m, w) is `owed` (m, w, h)."""
            gain = after * ((1.0 + paid) * grow[step + 1]) - before[:, None] * grow[step]
            exponent = a * (owed - gain[:, :, None] * held)
            top = exponent.max(axis=1, keepdims=True)
            np.exp(exponent - top, out=exponent)
            risk = np.log(np.einsum("mwh,w->mh", exponent, each)) + top[:, 0]
            return np.asarray(risk / a)

        spots, lowers, uppers = [], [], []
        value: np.ndarray = np.empty(0)
        for step in reversed(range(n_steps)):
            spot = np.exp(log_spot + step * log_move)
            if step == n_steps - 1:
                fine = _normal_weights(window * _FINE, nodes * _FINE)
                jump = np.exp(log_move + width / _FINE * np.arange(-window * _FINE, window * _FINE + 1))
                ahead = np.empty((spot.size, held.size))
                chunk = max(1, _CELLS // (jump.size * held.size))
                for first in range(0, spot.size, chunk):
                    some = spot[first : first + chunk]
                    after = some[:, None] * jump
                    owed = terminal(after.ravel()).reshape(*after.shape, held.size)
                    ahead[first : first + chunk] = moved(owed, some, after, step, fine)
            else:
                # beyond the grid's ends J goes on as it last did: those spots are out of reach
                padded = np.pad(value, ((window, window), (0, 0)), mode="reflect", reflect_type="odd")
                beyond = np.exp(width * np.arange(-most - window, most + window + 1) + (step + 1) * log_move)
                rows = sliding_window_view(padded, 2 * window + 1, axis=0)  # (m, h, w)
                spots_after = sliding_window_view(beyond * market.spot, 2 * window + 1)
                ahead = np.empty((spot.size, held.size))
                chunk = max(1, _CELLS // ((2 * window + 1) * held.size))
                for first in range(0, spot.size, chunk):
                    piece = slice(first, first + chunk)
                    owed = np.ascontiguousarray(rows[piece].transpose(0, 2, 1))
                    ahead[piece] = moved(owed, spot[piece], spots_after[piece], step, weight)
            value, lower, upper = _traded(ahead, cost(spot) * grow[step], held)
            spots.append(spot)
            lowers.append(lower)
            uppers.append(upper)

        risk = float(np.interp(0.0, held, value[most]))
        opening = task.quantity * _price(market, np.array([market.spot]), strike, task.maturity + left, task.is_call)[0]
        received = opening * grow[0] + task.execution.initial_cash * (grow[0] - 1.0)
        solution = Solution(
            n_steps, np.stack(spots[::-1]), np.stack(lowers[::-1]), np.stack(uppers[::-1]), risk - float(received)
        )
        return cls(aversion=a, solution=solution)


def _normal_weights(window: int, nodes: int) -> np.ndarray:
    each = np.exp(-0.5 * (np.arange(-window, window + 1) / nodes) ** 2)
    return np.asarray(each / each.sum())


def _price(market: BlackScholes, spot: np.ndarray, strike: float, years: float, is_call: bool) -> np.ndarray:
    return np.asarray(
        black_scholes(
            spot, strike, years, market.volatility, rate=market.rate, dividend=market.dividend, is_call=is_call
        ).price
    )


def _traded(ahead: np.ndarray, cost: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """min over h' of G(h') + k |h' - h| at all h, (m, h), and the edges of the band, (m,).

    Going up from h the best is a running minimum of G + k h from the right, going down one of G - k h from the left.
    The edges are the minima of these two curves, between nodes by the parabola through the three lowest.
    """
    linear = cost[:, None] * held
    up, down = ahead + linear, ahead - linear
    bought = np.minimum.accumulate(up[:, ::-1], axis=1)[:, ::-1] - linear
    sold = np.minimum.accumulate(down, axis=1) + linear
    lower, upper = _lowest(up, held), _lowest(down, held)
    return np.minimum(bought, sold), np.minimum(lower, upper), np.maximum(lower, upper)


def _lowest(curve: np.ndarray, held: np.ndarray) -> np.ndarray:
    best = curve.argmin(axis=1)
    inner = np.clip(best, 1, held.size - 2)
    rows = np.arange(best.size)
    before, here, after = (curve[rows, inner + shift] for shift in (-1, 0, 1))
    bend = before - 2.0 * here + after
    shift = np.where(bend > 1e-14, 0.5 * (before - after) / np.where(bend > 1e-14, bend, 1.0), 0.0)
    found = held[inner] + np.clip(shift, -1.0, 1.0) * (held[1] - held[0])
    return np.where(best == inner, found, held[best])


def _solvable(task: Task) -> BlackScholes:
    """The market of a task that can be solved."""
    what = "dynamic_programming solves short options under Black-Scholes, hedged with the underlying at linear costs"
    if not isinstance(task, ShortOption):
        raise ValueError(f"{what}; task must be a ShortOption, got {type(task).__name__}")
    market = task.market
    if not isinstance(market, BlackScholes):
        raise ValueError(f"{what}; market must be BlackScholes, got {type(market).__name__}")
    if task.perturb:
        raise ValueError(f"{what}; perturb must be empty, got {task.perturb!r}")
    if task.hedge_options:
        raise ValueError(f"{what}; hedge_options must be empty, got {len(task.hedge_options)} of them")
    execution = task.execution
    limits = execution.limits
    if limits.trade is not None or limits.holding is not None or limits.whole:
        raise ValueError(f"{what}; limits must be none, got {limits!r}")
    for part in execution.costs:
        if part.applies_to != "options" and not isinstance(part, Commission | Proportional | HalfSpread):
            raise ValueError(f"{what}; costs must be linear, got {type(part).__name__}")
    if execution.funding.margin_spread or execution.funding.borrow_cost:
        raise ValueError(f"{what}; funding must have no margin_spread and no borrow_cost, got {execution.funding!r}")
    return market
