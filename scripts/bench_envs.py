"""Measures how fast the environments step and prints a table; `make bench` runs it.

NumPy on the CPU, everything on: new episodes simulated, marked and observed, rewards and infos made. The first fit of
smiles is warm-up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from hedgerl.envs import Listing, Position, make_vec
from hedgerl.sim.backend import usable_threads

DAY = 1 / 252
BARS = {  # environment steps a second
    "ShortOption, gymnasium.make": 15_000,
    "ShortOption, 1,024 at once": 1_000_000,
    "OptionBook, 2 hedge options, 5 given options, 1,024 at once": 300_000,
    "OptionBook, 2 hedge options, Poisson clients, 1,024 at once": 300_000,
}
PORTFOLIO = tuple(
    Position(quantity=quantity, option=Listing(moneyness=moneyness, tenor=30 * DAY))
    for quantity, moneyness in ((-100.0, 1.0), (50.0, 0.95), (-50.0, 1.05), (100.0, 0.9), (-80.0, 1.1))
)


def hedges(count: int) -> tuple[Listing, ...]:
    """So many hedge options, of one month and two in turn, at strikes around the money."""
    return tuple(
        Listing(
            name=f"option {number}",
            moneyness=1.0 + 0.02 * (number // 2) * (-1) ** (number // 2),
            tenor=(30 + 30 * (number % 2)) * DAY,
            roll_every=30 * DAY,
        )
        for number in range(count)
    )


def best(work: Callable[[], int], runs: int) -> float:
    """Steps a second in the best of several runs of what returns its steps."""
    rates = []
    for _ in range(runs):
        start = time.perf_counter()
        steps = work()
        rates.append(steps / (time.perf_counter() - start))
    return max(rates)


def single(name: str, steps: int, runs: int, **changes: Any) -> float:
    """Steps a second of one environment as `gymnasium.make` wraps it."""
    env = gymnasium.make(name, backend="numpy", **changes)
    env.reset(seed=1)
    action = env.action_space.sample()

    def work() -> int:
        for _ in range(steps):
            if env.step(action)[2]:
                env.reset()
        return steps

    return best(work, runs)


def vector(name: str, num_envs: int, steps: int, runs: int, **changes: Any) -> float:
    """Environment steps a second of the vectorised environment, over whole blocks of episodes."""
    venv = make_vec(name, num_envs, backend="numpy", **changes)
    venv.seed(1)
    venv.reset()
    actions = np.stack([venv.action_space.sample() for _ in range(num_envs)])
    supply = venv._supply
    block = venv.environment.task.n_steps * (supply.block // num_envs)
    whole = -(-steps // block) * block  # a part of a block would count its drawing in full, or not at all

    def work() -> int:
        for _ in range(whole):
            venv.step(actions)
        return whole * num_envs

    return best(work, runs)


def measure(quick: bool) -> list[dict[str, Any]]:
    """All rows: what, environment steps a second, and the bar where there is one."""
    runs, many = (2, 100) if quick else (5, 400)
    book = "hedgerl/OptionBook-v0"
    given = {"arrivals": 0.0, "portfolio": PORTFOLIO}
    rates = {
        "ShortOption, gymnasium.make": single("hedgerl/ShortOption-v0", 50 * many, runs),
        "SpyOverlay, gymnasium.make": single("hedgerl/SpyOverlay-v0", 50 * many, runs),
        "ShortOption, 1,024 at once": vector("hedgerl/ShortOption-v0", 1024, many, runs),
        "ShortOption, 64 at once": vector("hedgerl/ShortOption-v0", 64, many, runs),
        "SpyOverlay, 1,024 at once": vector("hedgerl/SpyOverlay-v0", 1024, many, runs),
        "OptionBook, 2 hedge options, 5 given options, 1,024 at once": vector(
            book, 1024, many, runs, hedge_options=hedges(2), **given
        ),
        "OptionBook, 2 hedge options, Poisson clients, 1,024 at once": vector(
            book, 1024, many, runs, hedge_options=hedges(2)
        ),
    }
    for instruments in (1, 2, 4, 8):
        rates[f"OptionBook, 5 given options, {instruments} instruments, 1,024 at once"] = vector(
            book, 1024, many, runs, hedge_options=hedges(instruments - 1), **given
        )
    return [{"what": what, "steps_per_second": rate, "bar": BARS.get(what)} for what, rate in rates.items()]


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows in Markdown."""
    lines = ["| environment | env-steps/s | bar |", "|---|---|---|"]
    for row in rows:
        rate, bar = row["steps_per_second"], row["bar"]
        verdict = "" if bar is None else f"{bar:,} ({'met' if rate >= bar else 'missed'})"
        lines.append(f"| {row['what']} | {rate:,.0f} | {verdict} |")
    return lines


def main() -> None:
    """Measures, prints and, where asked to, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    parser.add_argument("--append", type=Path, help="a Markdown file for the table, under a heading of its own")
    parser.add_argument("--quick", action="store_true", help="fewer steps and runs")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    rows = measure(options.quick)
    machine = f"{platform.machine()}, {usable_threads()} cores, NumPy {np.__version__}, load average {load:.1f}"
    lines = [f"{machine} at the start; best of several runs, new episodes included.", "", *table(rows)]
    print("\n".join(lines))
    if options.append:
        before = options.append.read_text().split("\n## Environments")[0].rstrip()
        heading = "## Environments: steps a second, all cores (scripts/bench_envs.py)"
        options.append.write_text("\n".join([before, "", heading, "", *lines, ""]))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
