"""Prints hedges of Cao, Chen, Hull & Poulos (2021), tables 1 and 2, one-month options, beside the published rows.

    .venv/bin/python scripts/reproduce_cao2021.py                    # a few minutes
    .venv/bin/python scripts/reproduce_cao2021.py --n-paths 20000 --iterations 100
    .venv/bin/python scripts/reproduce_cao2021.py --iterations 0     # without deep hedging
    .venv/bin/python scripts/reproduce_cao2021.py --ppo-lstm 250 --sac 800    # and these in the daily case: 15 minutes

A call on 1 share is sold: S = K = 100, mu = 5 %, r = q = 0, sigma = 20 %, 20 days of 1/250; stock costs 1 % of what is
traded, the first purchase and the final liquidation among them. The cost of hedging, -P&L, is in % of the premium;
Y = mean + 1.5 sd. Bands are tuned, and networks trained, on paths of other seeds than they are measured on. The dynamic
programmes are optimal for the entropic objective at their aversion, not for Y, which deep hedging is trained on.
Below, the entropic objective of each hedge is held against the floor that no policy can pass: those within .2 %, the
floors' own error, are at it.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from hedgerl.agents.deep_hedging import DeepHedging
from hedgerl.baselines import (
    Baseline,
    Delta,
    DynamicProgramming,
    GammaScaled,
    Lazy,
    Leland,
    NoHedge,
    TunedBand,
    WhalleyWilmott,
)
from hedgerl.baselines.tuned_band import rollout_pnl
from hedgerl.envs import Action, Execution, Reward, ShortOption
from hedgerl.evaluation.rollouts import roll_out
from hedgerl.execution import Proportional
from hedgerl.risk import entropic_risk
from hedgerl.sim import BlackScholes
from hedgerl.training import learners
from hedgerl.training.fixed_paths import Acting
from hedgerl.training.settings import PPOLSTMConfig, SACConfig

REFERENCE = {  # mean, sd, Y in % of the premium: published, and recomputed by programs that share nothing with hedgerl
    "weekly": {
        "reference: delta": (69.07, 49.44, 143.2),
        "Cao et al.: reinforcement learning": (60.17, 53.56, 140.5),
        "reference: dynamic programme": (57.20, 51.37, 134.3),
    },
    "daily": {
        "reference: delta": (107.82, 37.70, 164.4),
        "Cao et al.: reinforcement learning": (73.97, 42.29, 137.4),
        "reference: dynamic programme": (65.91, 35.24, 118.8),
    },
}
FLOORS = {0.2: 3.486, 0.45: 3.756, 1.0: 4.030, 2.2: 4.384}  # daily; premium not received
C = 1.5
AVERSIONS = (0.2, 0.45, 0.7, 1.0, 1.5, 2.2)  # of the dynamic programmes
INPUTS = ("time_left", "liability_moneyness", "liability_delta", "liability_gamma")  # of the networks


def cao_task(n_steps: int) -> ShortOption:
    """The task: 20 days of 1/250 in so many steps, 4 for weekly and 20 for daily hedging."""
    return ShortOption(
        market=BlackScholes(volatility=0.2, drift=0.05),
        n_steps=n_steps,
        maturity=20 / 250,
        execution=Execution(costs=(Proportional(rate=0.01, applies_to="underlying"),), unwind=True),
    )


def summary(cost: np.ndarray) -> tuple[float, float, float, float, float, float]:
    """Mean, sd and Y of a sample with their standard errors, these from the influence of each outcome."""
    mean, sd = cost.mean(), cost.std(ddof=1)
    of_sd = ((cost - mean) ** 2 - sd**2) / (2 * sd)
    root = cost.size**0.5
    return mean, sd, mean + C * sd, sd / root, of_sd.std() / root, (cost + C * of_sd).std() / root


def hedges(task: ShortOption, n_train: int, seed: int) -> dict[str, Baseline]:
    """The hedges to be compared, bands tuned on paths of `seed`."""
    fitted = {
        f"tuned band, {shape}": TunedBand.fit(task, objective="mean_std", n_paths=n_train, seed=seed, shape=shape)
        for shape in ("constant", "whalley_wilmott")
    }
    return {
        "none": NoHedge(),
        "delta": Delta(),
        "gamma scaled, 1 move": GammaScaled(moves=1.0),
        "gamma scaled, 2 moves": GammaScaled(moves=2.0),
        "lazy, limit .1": Lazy(limit=0.1),
        "lazy, limit .2, to the limit": Lazy(limit=0.2, back_to="limit"),
        "Leland": Leland(),
        "Whalley-Wilmott, aversion 1": WhalleyWilmott(aversion=1.0),
        "Whalley-Wilmott, aversion .2": WhalleyWilmott(aversion=0.2),
        **fitted,
    }


def deep_hedge(
    task: ShortOption, iterations: int, seed: int, objective: str = "mean_std", parameter: float = C
) -> DeepHedging:
    """A network of two layers of 32 trained on the task, with the time it took in the log."""
    began = time.time()
    learner = DeepHedging(task, {"inputs": INPUTS}, objective, parameter=parameter, seed=seed).learn(iterations)
    took = time.time() - began
    print(f"  trained on {objective} {parameter:g}: {iterations} iterations in {took:.0f} s")
    return learner


def learned_hedge(task: ShortOption, config: PPOLSTMConfig | SACConfig, seed: int) -> Acting:
    """A policy of PPO-LSTM or SAC, trained on mean + C sd with the settings of conf/agent and the band action."""
    began = time.time()
    setting = learners.Setting(
        task=task,
        whole=task,
        observation=None,
        action=Action("band"),
        reward=Reward(loss="mean_std", w=1.0, lam=0.0, risk_aversion=C),
        objective=("mean_std", C),
        seed=seed,
        stage=0,
        iterations=config.iterations,
        device="cpu",
    )
    learner = learners.make(config, setting)
    for iteration in range(config.iterations):
        learner.iterate(iteration)
    print(f"  trained {config.name}: {config.iterations} iterations in {time.time() - began:.0f} s")
    return Acting(learner.module(), learner.interface)


def main() -> None:
    """Prints both tables and the floors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-paths", type=int, default=200_000)
    parser.add_argument("--n-train", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=400, help="of deep hedging; 0: none")
    parser.add_argument("--ppo-lstm", type=int, default=0, help="iterations of PPO-LSTM, daily; 0: none")
    parser.add_argument("--sac", type=int, default=0, help="iterations of SAC, daily; 0: none")
    options = parser.parse_args()
    torch.set_num_threads(1)  # small matrices: more threads only wait for each other
    header = f"{'':34s}{'mean':>8s} {'(s.e.)':>7s}{'sd':>8s} {'(s.e.)':>7s}{'Y':>8s} {'(s.e.)':>7s}"
    for name, n_steps in (("weekly", 4), ("daily", 20)):
        task = cao_task(n_steps)
        scenario = task.scenario(options.n_paths, options.seed)
        premium = float(scenario.premium[0, 0])
        print(f"\n{name}: one month, premium {premium:.4f}, {options.n_paths:,} paths, in % of the premium")
        pnls: dict[str, np.ndarray] = {}
        policies = hedges(task, options.n_train, options.seed + 1)
        for aversion in AVERSIONS:
            policies[f"dynamic programme, entropic {aversion:g}"] = DynamicProgramming.solve(task, aversion)
        if name == "daily":
            for aversion in FLOORS:
                policies[f"tuned band, entropic {aversion:g}"] = TunedBand.fit(
                    task, objective="entropic", parameter=aversion, n_paths=options.n_train, seed=options.seed + 1
                )
        for label, policy in policies.items():
            pnls[label] = rollout_pnl(policy, task, scenario)
        if options.iterations:
            goals = [("mean_std", C)] + ([("entropic", a) for a in FLOORS] if name == "daily" else [])
            for objective, parameter in goals:
                learner = deep_hedge(task, options.iterations, options.seed + 2, objective, parameter)
                label = f"deep hedging, {objective} {parameter:g}"
                pnls[label] = roll_out(learner.policy, task, scenario).pnl
        agents: list[PPOLSTMConfig | SACConfig] = []
        if name == "daily" and options.ppo_lstm:
            agents.append(PPOLSTMConfig(iterations=options.ppo_lstm))
        if name == "daily" and options.sac:
            agents.append(SACConfig(iterations=options.sac))
        for config in agents:
            pnls[config.name] = roll_out(learned_hedge(task, config, options.seed + 3), task, scenario).pnl
        print(header)
        for label, pnl in pnls.items():
            policy = policies.get(label)
            mean, sd, y, *errors = summary(-100 / premium * pnl)
            note = f"   scale {policy.scale:.3f}, width {policy.width:.4f}" if isinstance(policy, TunedBand) else ""
            row = "".join(
                f"{value:8.2f} {f'({error:.2f})':>7s}" for value, error in zip((mean, sd, y), errors, strict=True)
            )
            print(f"{label:34s}{row}{note}")
        for label, (mean, sd, y) in REFERENCE[name].items():
            print(f"{label:34s}{mean:8.2f} {'':7s}{sd:8.2f} {'':7s}{y:8.1f}")
    print("\nentropic objective, daily: (1 / a) log E exp(a cost), premium not received; least by any hedge above")
    for aversion, floor in FLOORS.items():
        values = {label: float(entropic_risk(pnl, aversion)) + premium for label, pnl in pnls.items()}
        best = min(values, key=lambda label: values[label])
        verdict = "above the floor" if values[best] > floor * 1.002 else "at the floor, within its error"
        own = f"deep hedging, entropic {aversion:g}"
        trained = f"; deep hedging {values[own]:.3f}" if own in values else ""
        each = np.exp(-aversion * pnls[best])
        error = each.std() / each.mean() / aversion / each.size**0.5
        if values[best] + 3 * error < floor * 0.998:
            raise SystemExit(
                f"a = {aversion:g}: {best} is below the floor {floor}: {values[best]:.4f}. There is a bug."
            )
        print(f"a = {aversion:4g}: floor {floor:.3f}   least {values[best]:.3f} ({best}): {verdict}{trained}")


if __name__ == "__main__":
    main()
