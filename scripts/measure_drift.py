"""Measures how far rough-Bergomi marks are from martingales, without sampling noise, and prints a table.

    .venv/bin/python scripts/measure_drift.py        # some three minutes on a core

From a state of a path the next step has three normals (driver, its residual, spot). The expected mark after the step is
a sum over Gauss-Hermite nodes of them, simulated as paths are, so that the drift E[mark(t + 1)] - mark(t) of a state is
known to a few per cent of itself, and only the states are drawn. What a test of the mean gain over n paths would show
besides its noise of one standard error is mean drift / (sd of the gain / sqrt(n)): the numbers below, for n = 50,000,
over all states of a step and over each fifth of them by variance and by spot.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.polynomial.hermite_e import hermegauss

from hedgerl.pricing import Option
from hedgerl.sim import RoughBergomi

DAY = 1 / 252
N_PATHS = 50_000  # of the test whose outcome is foretold
NODES = (18, 12, 14)  # driver, residual, spot
FIFTHS = 5


class Drift(NamedTuple):
    """Of one option at one step, each (n_states,): what the next step brings, in currency."""

    price: np.ndarray
    drift: np.ndarray
    square: np.ndarray  # expected square of the gain
    variance: np.ndarray
    spot: np.ndarray

    def z(self, n_paths: int = N_PATHS) -> float:
        """Standard errors by which the mean gain of `n_paths` paths is off 0, in the mean."""
        return float(self.drift.mean() / np.sqrt(max(self.square.mean(), 1e-300) / n_paths))

    def cells(self) -> list[tuple[str, Drift]]:
        """The fifths of the states by variance and by spot."""
        found = []
        for name, by in (("variance", self.variance), ("spot", self.spot)):
            place = np.argsort(np.argsort(by, kind="stable"), kind="stable") * FIFTHS // by.size
            found += [(f"{name} {cell + 1}/5", Drift(*(row[place == cell] for row in self))) for cell in range(FIFTHS)]
        return found


def drifts(
    model: RoughBergomi, days: int, strikes: Sequence[float], step: int, n_states: int = 100, seed: int = 1
) -> dict[float, Drift]:
    """The drift of each strike's out-of-the-money option, expiring after `days`, over the step from `step` on."""
    nodes, weights = zip(*(hermegauss(size) for size in NODES), strict=True)
    after = [grid.ravel() for grid in np.meshgrid(*nodes, indexing="ij")]
    weight = np.einsum("i,j,k->ijk", *(each / each.sum() for each in weights)).ravel()
    noise = np.repeat(np.random.default_rng([seed, step]).standard_normal((3, days, n_states)), weight.size, axis=2)
    for row, values in enumerate(after):
        noise[row, step] = np.tile(values, n_states)
    paths = model.simulate(n_states * weight.size, days, days * DAY, noise=noise, backend="numpy", dtype="float64")
    market = model.market(paths)
    first = np.arange(n_states) * weight.size
    found = {}
    for strike in strikes:
        option = Option(float(strike), days * DAY, bool(strike >= model.spot))
        price = np.asarray(market.mark(option, step).price)[first]
        gain = np.asarray(market.mark(option, step + 1).price).reshape(n_states, -1) - price[:, None]
        found[strike] = Drift(
            price, gain @ weight, gain**2 @ weight, paths.variance[step][first], paths.spot[step][first]
        )
    return found


def report(name: str, model: RoughBergomi, days: int, strikes: Sequence[float], steps: Sequence[int], n: int) -> None:
    """One row for each strike: the mean price at the first step, the worst step, the worst fifth."""
    start = time.perf_counter()
    by_step = {step: drifts(model, days, strikes, step, n) for step in steps}
    for strike in strikes:
        alone = {step: by_step[step][strike] for step in steps}
        whole = max(alone, key=lambda step: abs(alone[step].z()))
        cells = [(step, cell, part) for step in steps if step for cell, part in alone[step].cells()]
        zs = [part.z(N_PATHS // FIFTHS) for _, _, part in cells]
        worst = int(np.argmax(np.abs(zs)))
        step, cell, part = cells[worst]
        print(
            f"| {name}, {days} days | {strike:g} | {100 * alone[steps[0]].price.mean():.3g} "
            f"| {alone[whole].z():+.1f} (step {whole}) | {np.sqrt(np.mean(np.square(zs))):.2f} "
            f"| {zs[worst]:+.1f} (step {step}, {cell}, {100 * part.price.mean():.2g} cents) |",
            flush=True,
        )
    print(f"<!-- {time.perf_counter() - start:.0f} s -->", flush=True)


def event(times: np.ndarray) -> np.ndarray:
    """Forward variance with twenty times the rest on the tenth day."""
    return 0.235**2 * np.where(abs(np.asarray(times) - 10 * DAY) < 0.4 * DAY, 20.0, 1.0)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--states", type=int, default=100, help="of each step")
    options = parser.parse_args()

    def model(hurst: float, eta: float, rho: float, curve: float | Callable = 0.235**2) -> RoughBergomi:
        return RoughBergomi(hurst, eta, rho, forward_variance=curve)

    usual, wide = model(0.07, 1.9, -0.9), (70, 75, 80, 90, 100, 110, 115, 120, 125)
    print("| market | strike | cents at the first step | worst step | rms of fifths | worst fifth |")
    print("|" + "---|" * 6)
    report("H = .07, eta = 1.9, rho = -.9", usual, 21, wide, (0, 1, 2, 3, 5, 8, 12, 15, 18), options.states)
    report("the same", usual, 63, (70, 80, 90, 110, 120, 130), (0, 1, 2, 4, 8, 12, 20, 35, 50), options.states)
    report("the same", usual, 252, (70, 80, 90, 110, 120, 130, 140), (1, 2, 3, 5, 10, 40), options.states // 2)
    short = (75, 85, 90, 110, 115, 125)
    report("H = .05, eta = 2.5, rho = -.7", model(0.05, 2.5, -0.7), 21, short, (1, 3, 8, 15), options.states)
    report("H = .3, eta = 1.2, rho = -.5", model(0.3, 1.2, -0.5), 21, short, (1, 3, 8, 15), options.states)
    report("H = .1, eta = 1.5, rho = .3", model(0.1, 1.5, 0.3), 21, short, (1, 3, 8, 15), options.states)
    jump = model(0.07, 1.9, -0.9, event)
    report("20 x variance on day 10", jump, 21, (80, 90, 100, 110, 120), (0, 1, 2, 3, 5, 7, 9, 12), options.states)


if __name__ == "__main__":
    main()
