"""Measures rough-Bergomi marks against nested conditional Monte Carlo, and prints the table of docs/research_notes.md.

    .venv/bin/python scripts/measure_marks.py                 # some three minutes on two cores
    .venv/bin/python scripts/measure_marks.py --n-nested 20000 --n-paths 20

Nested: from the state of a path (variance now, past increments of the driver) the discretised dynamics restart with
fresh noise, and priced by the mixing estimator with two control variates, for each path on noise of its own.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.special import ndtr

from hedgerl.pricing import Option, implied_volatility
from hedgerl.sim import Paths, RoughBergomi
from hedgerl.sim.volterra import hybrid_weights

DAY = 1 / 252
MONEYNESS = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)  # log(K / F) over the expected deviation to expiry
CASES = ((21, (1, 10, 18)), (126, (5, 60, 105, 121)))  # days to expiry at the start, steps at which to mark


def nested(paths: Paths, step: int, path: int, n_nested: int, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """The deviation s of one path's state, and out-of-the-money prices at MONEYNESS * s, forward 1."""
    model = paths.model
    assert isinstance(model, RoughBergomi)
    n, left = paths.n_steps, paths.n_steps - step
    weights = hybrid_weights(model.hurst, paths.times)
    half = rng.standard_normal((2, left, n_nested // 2))
    noise, own = np.concatenate([half, -half], axis=2)
    shocks = noise * DAY**0.5
    past, ahead = slice(0, step), slice(step, n - 1)
    known = weights.average[ahead, past] @ paths.state["driver"][past, path]
    fresh = weights.average[ahead, ahead] @ shocks[:-1] + weights.residual[ahead, None] * own[:-1]
    log_variance = model.eta * (known[:, None] + fresh) - 0.5 * model.eta**2 * weights.variance[ahead, None]
    forward_variance = model.initial_curve(paths.times[step + 1 : n])
    variance = np.vstack(
        [np.full(n_nested, float(paths.variance[step, path])), forward_variance[:, None] * np.exp(log_variance)]
    )
    explained = weights.average[ahead, past] ** 2 @ np.full(step, DAY)
    curve = forward_variance * np.exp(model.eta * known - 0.5 * model.eta**2 * explained)
    expected = DAY * (float(paths.variance[step, path]) + curve.sum())
    integral = variance.sum(axis=0) * DAY
    forward = np.exp(model.rho * (np.sqrt(variance) * shocks).sum(axis=0) - 0.5 * model.rho**2 * integral)
    deviation = np.sqrt((1 - model.rho**2) * integral)
    controls = np.stack([forward - 1, integral / expected - 1])
    prices = []
    for x in MONEYNESS:
        log_strike, sign = x * expected**0.5, 1.0 if x > 0 else -1.0
        d1 = (np.log(forward) - log_strike) / deviation + deviation / 2
        values = sign * (forward * ndtr(sign * d1) - np.exp(log_strike) * ndtr(sign * (d1 - deviation)))
        slopes = np.linalg.solve(np.cov(controls), [np.cov(values, control)[0, 1] for control in controls])
        prices.append(float((values - slopes @ controls).mean()))
    return expected**0.5, np.array(prices)


def main() -> None:
    """Prints one row for each case and step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-paths", type=int, default=40)
    parser.add_argument("--n-nested", type=int, default=100_000)
    parser.add_argument("--hurst", type=float, default=0.07)
    parser.add_argument("--eta", type=float, default=1.9)
    parser.add_argument("--rho", type=float, default=-0.9)
    options = parser.parse_args()
    model = RoughBergomi(options.hurst, options.eta, options.rho, forward_variance=0.235**2)
    print(f"{model}, {options.n_paths} paths, {options.n_nested} nested samples each; absolute error in vol points:")
    print("median (95 %) of the marks, then the median of Black-Scholes at the root of the mean forward variance\n")
    print("| expiry, step | " + " | ".join(f"x = {x:g}" for x in MONEYNESS) + " | nested, s a mark |")
    print("|" + "---|" * (len(MONEYNESS) + 2))
    for days, steps in CASES:
        paths = model.simulate(options.n_paths, days, days * DAY, seed=77, backend="numpy", dtype="float64")
        market = model.market(paths)
        for step in steps:
            rng = np.random.default_rng([days, step])
            start = time.perf_counter()
            found = [nested(paths, step, path, options.n_nested, rng) for path in range(options.n_paths)]
            seconds = (time.perf_counter() - start) / options.n_paths / len(MONEYNESS)
            s, prices = np.array([item[0] for item in found]), np.array([item[1] for item in found])
            left = (days - step) * DAY
            cells = []
            for place, x in enumerate(MONEYNESS):
                strike, is_call = np.exp(x * s), x > 0

                def volatility(price: np.ndarray, strike: np.ndarray = strike, is_call: bool = is_call) -> np.ndarray:
                    return 100 * implied_volatility(price, 1.0, strike, left, is_call=is_call)  # noqa: B023

                option = Option(paths.spot[step] * strike, days * DAY, is_call)
                truth = volatility(prices[:, place])
                error = np.abs(volatility(market.mark(option, step).price / paths.spot[step]) - truth)
                flat = np.abs(100 * s / left**0.5 - truth)
                cells.append(f"{np.median(error):.3f} ({np.quantile(error, 0.95):.2f}), {np.median(flat):.1f}")
            print(f"| {days} days, {step} | " + " | ".join(cells) + f" | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
