"""Prints hedging errors, costs and bands of the literature's formulas beside what the hedges here do.

    .venv/bin/python scripts/reproduce_hedging_error.py              # some ten seconds on two cores

Black-Scholes, S = K = 100, r = 0. Derman & Kamal (1999): the standard deviation of the error of delta hedging n times
is about sqrt(pi / 4) vega sigma / sqrt(n). Leland (1985): volatility and price of an option sold with its costs.
Whalley & Wilmott (1997): the band. Rebalancing costs about k sqrt(2 n / pi) K phi(d2), the first purchase and the final
sale apart: the formula counts n trades, where a hedge of n steps has n - 1 of them.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from hedgerl.baselines import Delta
from hedgerl.baselines.leland import leland_volatility
from hedgerl.baselines.tuned_band import rollout_pnl
from hedgerl.baselines.whalley_wilmott import half_width
from hedgerl.envs import Raw, Rollout, ShortOption
from hedgerl.envs.transition import Execution
from hedgerl.execution import Proportional
from hedgerl.pricing import black_scholes
from hedgerl.pricing.normal import pdf
from hedgerl.sim import BlackScholes


def error_deviation(n_steps: int, n_paths: int, seed: int) -> tuple[float, float]:
    """The standard deviation of the P&L of a year's delta hedge at 20 %, and its standard error."""
    task = ShortOption(market=BlackScholes(volatility=0.2), n_steps=n_steps, maturity=1.0)
    squares = []
    done = 0
    while done < n_paths:
        count = min(20_000, n_paths - done)
        squares.append(rollout_pnl(Delta(), task, task.scenario(count, seed + done)))
        done += count
    pnl = np.concatenate(squares)
    deviation = pnl.std()
    of_deviation = ((pnl - pnl.mean()) ** 2 - deviation**2) / (2 * deviation)
    return float(deviation), float(of_deviation.std() / pnl.size**0.5)


def rebalancing_cost(n_steps: int, n_paths: int, seed: int) -> tuple[float, float]:
    """Mean cost, with its standard error, of delta hedging at 1 % and 20 % for n_steps days of 1/250: of all trades
    between the first purchase and the end, n_steps - 1 of them."""
    execution = Execution(costs=(Proportional(rate=0.01, applies_to="underlying"),), unwind=False)
    task = ShortOption(
        market=BlackScholes(volatility=0.2), n_steps=n_steps, maturity=n_steps / 250, execution=execution
    )
    scenario = task.scenario(n_paths, seed)
    prepared = Raw(Delta().observation).prepare(scenario, task)
    rollout = Rollout(scenario, execution)
    while not rollout.done:
        rollout.act(Delta().target(prepared.at(rollout)))
    cost = rollout.total_cost - 0.01 * scenario.spot[0] * abs(scenario.liability_delta[0])
    return float(cost.mean()), float(cost.std() / n_paths**0.5)


def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-paths", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    print(f"{'':52s}{'formula':>10s}{'measured':>10s} {'(s.e.)':>9s}{'reference':>11s}")
    vega = float(black_scholes(100.0, 100.0, 1.0, 0.2).vega)
    for n, reference in ((50, 0.9682), (252, 0.4393)):
        deviation, error = error_deviation(n, options.n_paths, options.seed)
        formula = math.sqrt(math.pi / 4 / n) * vega * 0.2
        print(
            f"{f'sd of the delta hedge error, 1 year, n = {n}':52s}{formula:10.4f}{deviation:10.4f} "
            f"{f'({error:.4f})':>9s}{reference:11.4f}"
        )
    cost, error = rebalancing_cost(20, options.n_paths, options.seed)
    d2 = -0.5 * 0.2 * math.sqrt(0.08)
    formula = 0.01 * math.sqrt(2 * 20 / math.pi) * 100 * float(pdf(d2))
    label = "cost of rebalancing, 1 %, T = .08, n = 20"
    print(f"{label:52s}{formula:10.4f}{cost:10.4f} {f'({error:.4f})':>9s}{1.3819:11.4f}")

    volatility = float(leland_volatility(0.2, 0.01, 1 / 250))
    price = float(black_scholes(100.0, 100.0, 0.08, volatility).price)
    width = float(half_width(1.0, black_scholes(100.0, 100.0, 0.25, 0.2).gamma, aversion=1.0))
    print(f"{'Leland volatility, k = 1 %, daily, 20 %':52s}{volatility:10.6f}{'':20s}{0.300770:11.6f}")
    print(f"{'Leland price, T = .08':52s}{price:10.5f}{'':20s}{3.39280:11.5f}")
    print(f"{'Whalley-Wilmott half width, T = .25, aversion 1':52s}{width:10.6f}{'':20s}{0.133539:11.6f}")


if __name__ == "__main__":
    main()
