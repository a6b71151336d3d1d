"""Marks: no policy may earn from them.

The heart is `martingale_z`: for fixed contracts the discounted mark's increment, times any function of the state before
it, has mean zero. It is tried raw, as a buyer of the option meets it, and with the stock hedge of the mark's own delta
taken off, which has mean zero too and several times less noise, so that a mispricing shows several times sooner.
Beside it: nested simulation written here from the definition of each model, parity, expiry, finite differences.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import hedgerl.pricing
from hedgerl.pricing import Option, black_scholes, implied_volatility
from hedgerl.sim import GARCH, SABR, BlackScholes, Heston, Model, Paths, RoughBergomi

DAY = 1 / 252
MODELS: dict[str, Model] = {
    "gbm": BlackScholes(volatility=0.2, rate=0.05, dividend=0.02),
    "heston": Heston(kappa=2.0, theta=0.05, sigma=0.9, rho=-0.7, v0=0.04),
    "heston rates": Heston(kappa=1.5, theta=0.04, sigma=0.4, rho=-0.6, v0=0.06, rate=0.06, dividend=0.02),
    "rbergomi": RoughBergomi(hurst=0.07, eta=1.9, rho=-0.9, forward_variance=0.235**2, rate=0.04, dividend=0.01),
    "sabr": SABR(volatility=0.25, volvol=1.1, rho=-0.6, rate=0.03),
    "garch": GARCH(omega=2e-6, alpha=0.02, gamma=0.14, beta=0.89, rate=0.03, dividend=0.01),
}
every_model = pytest.mark.parametrize("name", MODELS)
CONTRACTS = [(0.9, False), (1.0, True), (1.0, False), (1.1, True)]  # strike over spot, call


@lru_cache(maxsize=2)
def simulated(name: str, n_steps: int = 21, n_paths: int = 50_000, seed: int = 101) -> Paths:
    return MODELS[name].simulate(n_paths, n_steps, n_steps * DAY, seed, backend="numpy", threads=1)


def mark(paths: Paths, option: Option, step: int) -> SimpleNamespace:
    """A mark with every field in float64."""
    greeks = paths.model.market(paths).mark(option, step)
    return SimpleNamespace(
        **{name: np.asarray(getattr(greeks, name), np.float64) for name in ("price", "delta", "gamma", "vega", "theta")}
    )


def state_functions(paths: Paths, step: int) -> np.ndarray:
    """Functions of the state at a step, (f, n_paths): 1, x, x^2, y, xy, y^2 and nine bins of x and y.

    x is the standardised log spot (log-moneyness of a fixed strike up to a constant), y the standardised log variance.
    At the start all paths share one state and only the constant is left.
    """
    constant = np.ones((1, paths.n_paths))
    if step == 0:
        return constant

    def standardised(values: Any) -> np.ndarray:
        logs = np.log(np.maximum(np.asarray(values, np.float64), 1e-6))
        spread = logs.std()
        return (logs - logs.mean()) / spread if spread > 1e-9 else np.zeros_like(logs)

    x, y = standardised(paths.spot[step]), standardised(paths.variance[step])
    third_x, third_y = (np.digitize(values, np.quantile(values, [1 / 3, 2 / 3])) for values in (x, y))
    bins = [(third_x == i) & (third_y == j) for i in range(3) for j in range(3)]
    smooth = [x, x**2] + ([y, x * y, y**2] if y.any() else [])
    full = [cell for cell in bins if cell.sum() > 100]
    return np.concatenate([constant, smooth, full])


def increments(paths: Paths, strike: float, is_call: bool, expiry: float, steps: range) -> Any:
    """(step, discounted raw increment, its hedge's) for each step and the next."""
    model = paths.model
    option = Option(strike=strike * model.spot, expiry_years=expiry, is_call=is_call)
    times = paths.times
    now = mark(paths, option, steps[0])
    for step in steps:
        later = mark(paths, option, step + 1)
        discount = np.exp(-model.rate * times[step : step + 2])
        grown = np.exp(-(model.rate - model.dividend) * (times[step + 1] - times[step]))
        raw = discount[1] * later.price - discount[0] * now.price
        spot, next_spot = (np.asarray(paths.spot[i], np.float64) for i in (step, step + 1))
        yield step, raw, discount[0] * now.delta * (grown * next_spot - spot)
        now = later


def expected_events(functions: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """How many paths, weighted by a function, are expected to end on the unlikely side of the strike, (f,).

    min(|delta|, 1 - |delta|) is near that probability for a path. A mean over few such events is far from normal, and one
    over none has a standard error next to nothing: with less than MIN_EVENTS, z-scores say nothing, even of an exact mark.
    Known before the step, so that leaving such cells out does not choose among results.
    """
    odds = np.clip(np.minimum(np.abs(delta), 1 - np.abs(delta)), 1e-12, None)
    squares = functions**2
    return (squares @ odds) ** 2 / (squares**2 @ odds)


MIN_EVENTS = 150


def martingale_z(paths: Paths, strike: float, is_call: bool, expiry: float, steps: range) -> tuple[Any, Any, Any]:
    """z-scores of E[increment f(state)] = 0 at every step: raw, hedged; and the hedged mean gain a step in basis points
    of volatility (over the option's mean vega), which says how much there would be to earn.

    Cells of one call share paths, so neighbouring ones move together; some 300 of them stay below 4 s.e. in all but one
    of a few hundred reseedings, and bias shows in many at once.
    """
    raw_scores, hedged_scores, gains = [], [], []
    option = Option(strike=strike * paths.model.spot, expiry_years=expiry, is_call=is_call)
    for step, raw, hedge in increments(paths, strike, is_call, expiry, steps):
        now = mark(paths, option, step)
        functions = state_functions(paths, step)
        functions = functions[expected_events(functions, now.delta) >= MIN_EVENTS]
        hedged = raw - hedge
        for scores, values in ((raw_scores, raw), (hedged_scores, hedged)):
            products = functions * values
            scores.append(products.mean(axis=1) / products.std(axis=1) * np.sqrt(paths.n_paths))
        gains.append(1e4 * hedged.mean() / now.vega.mean())
    return np.concatenate(raw_scores), np.concatenate(hedged_scores), np.array(gains)
