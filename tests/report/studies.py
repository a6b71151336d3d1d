"""Studies made by hand: numbers like those of a backtest, and real records of one episode."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from hedgerl.envs.scenario import Listing
from hedgerl.envs.task import ShortOption
from hedgerl.envs.transition import Execution, Record, Rollout
from hedgerl.evaluation.comparison import Study, cut_regimes
from hedgerl.evaluation.metrics import METRICS, measure
from hedgerl.evaluation.result import Kind, Result
from hedgerl.execution import Commission, HalfSpread
from hedgerl.sim import BlackScholes

NAMES = (
    *("none", "delta", "minimum-variance delta", "delta gamma", "delta gamma vega", "minimum variance"),
    *("gamma scaled", "lazy", "leland", "whalley wilmott", "tuned band"),
    *("ppo lstm", "sac", "deep hedging", "no-transaction band"),
)
STEPS = 21


@functools.cache
def record(share: float) -> Record:
    """One episode of a short call, hedged with a share of the delta and a few options."""
    costs = (HalfSpread(bps=2.0, applies_to="underlying"), Commission(per_contract=0.65))
    listing = Listing(name="two-month call", tenor=42 / 252)
    task = ShortOption(
        market=BlackScholes(volatility=0.2), quantity=100.0, hedge_options=(listing,), execution=Execution(costs=costs)
    )
    scenario = task.scenario(1, seed=5)
    rollout = Rollout(scenario, task.execution, record=True)
    while not rollout.done:
        target = np.zeros((1, 2))
        target[:, 0] = -share * scenario.liability_delta[rollout.step]
        target[:, 1] = 20.0 * (share > 1.0)
        rollout.act(target)
    return rollout.result()


def result(policy: str, index: int, kind: Kind, n: int, *, market: str, overlap: bool = False, seed: int = 3) -> Result:
    """P&L that shrinks towards a skewed residual as the index grows, costs that grow with it."""
    rng = np.random.Generator(np.random.PCG64(seed))
    shock = rng.standard_t(4, n)
    own = np.random.Generator(np.random.PCG64(seed + 100 + index)).standard_normal(n)
    unhedged = 2.3 - 2.2 * np.abs(shock)
    cost = np.zeros(n) if policy == "none" else 0.02 + 0.012 * index + 0.01 * rng.random(n)
    width = 0.35 + 0.5 / (1 + index)
    pnl = unhedged if policy == "none" else width * (0.5 * shock + 0.4 * own - 0.1 * shock**2) + 0.1 - cost
    terms = {
        "delta": 0.02 * own,
        "gamma": -1.3 - 0.2 * np.abs(shock),
        "vega": 0.1 * own,
        "theta": np.full(n, 1.4),
        "vanna": 0.01 * own,
        "volga": -0.01 * np.abs(own),
        "carry": np.full(n, 0.02),
        "cost": -cost,
    }
    terms["residual"] = pnl - sum(terms.values())
    columns: dict[str, Any] = {
        "pnl": pnl,
        "unhedged": unhedged,
        "premium": np.full(n, 2.3),
        "cost": cost,
        "cost_commission": 0.2 * cost,
        "cost_proportional": 0.0 * cost,
        "cost_spread": 0.7 * cost,
        "cost_impact": 0.1 * cost,
        "turnover": cost / 0.0002 * 1e-2,
        "trades": np.full(n, 21.0 * (policy != "none")),
        "win_days": np.clip(0.5 + 0.05 * own, 0, 1),
        "max_drawdown": np.abs(pnl) + 0.3,
        "ulcer": np.abs(pnl) / 3,
        "pain": np.abs(pnl) / 4,
        "hedging_error_mean": 0.01 * own,
        "hedging_error_square": 1e-4 * own**2,
        "reference_cost": np.full(n, 0.04),
        **{f"attribution_{term}": values for term, values in terms.items()},
    }
    steps = None
    if kind == "history":
        days = pd.bdate_range("1999-02-01", periods=STEPS * (n + 2))
        first = np.arange(n) * (5 if overlap else STEPS)
        columns |= {"start": days[first], "end": days[first + STEPS]}
        noise = own[None] * 0.1 * np.sin(np.arange(STEPS))[:, None]
        steps = pnl / STEPS + noise - noise.mean(axis=0)
    made = Result(
        policy=policy,
        task="ShortOption",
        market=market,
        kind=kind,
        metrics={},
        episodes=pd.DataFrame(columns),
        step_pnl=steps,
        every=(5 if overlap else STEPS) if kind == "history" else None,
        block=12 if overlap else 1,
        years=STEPS / 252,
    )
    return replace(made, metrics=measure(made))


def study(
    n_policies: int = 3,
    kind: Kind = "simulated",
    *,
    n: int = 200,
    market: str = "simulated Heston",
    overlap: bool = False,
    names: tuple[str, ...] = NAMES,
) -> Study:
    """A whole study; regimes on history."""
    names = names[:n_policies]
    results = {name: result(name, i, kind, n, market=market, overlap=overlap) for i, name in enumerate(names)}
    reference = "delta" if "delta" in names else names[0]
    rows = []
    for name, each in results.items():
        for metric in METRICS if name != reference else ():
            value, base = each.metrics[metric], results[reference].metrics[metric]
            se = 0.2 * abs(value - base) + 0.01
            low, high = value - base - 2 * se, value - base + 3 * se
            rows.append((name, metric, value, base, value - base, se, low, high))
    columns = ["policy", "metric", "value", "reference", "difference", "se", "low", "high"]
    periods = {
        "2000 fall": ("2000-01-01", "2001-12-31"),
        "2003 quiet": ("2003-01-01", "2003-12-31"),
        "1987 crash": ("1987-09-01", "1987-12-31"),
    }
    return Study(
        market=market,
        task="ShortOption",
        kind=kind,
        results=results,
        reference=reference,
        differences=pd.DataFrame(rows, columns=columns),
        example={name: record(round(0.6 + 0.05 * i, 2) * (name != "none")) for i, name in enumerate(names)},
        notes=("Marks: Black-Scholes at 21-day realised volatility.",) if kind == "history" else (),
        regimes=cut_regimes(results, periods) if kind == "history" else {},
    )
