"""Measures studies: what the study itself costs beside its trials, and what more workers than cores do to it.

    python scripts/bench_sweeps.py --append docs/benchmarks.md

The tuned band of a short option under rough Bergomi on 5,000 validation paths; the same trials each time.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from hedgerl import sweep
from hedgerl.studies import search, storage
from hedgerl.studies.workers import Job, LocalPool, run_all
from hedgerl.sweep import SweepConfig

BAR = 0.05  # of the trials' own time


@dataclass(frozen=True)
class Measured:
    """One study."""

    workers: int
    seconds: float  # from the first trial to the last, workers started and paths simulated before
    trials: int
    in_trials: float  # seconds, added up over trials
    busy: float  # seconds for asking, telling and keeping

    @property
    def overhead(self) -> float:
        """Time for the study itself, as a share of the trials' own."""
        return self.busy / self.in_trials


def configured(n_paths: int) -> SweepConfig:
    """The study that is measured."""
    with initialize_config_module("hedgerl.conf", version_base="1.3"):
        keys = [f"validation.n_paths={n_paths}", "threads=1", "startup=10"]
        typed = OmegaConf.to_object(compose("sweep", overrides=keys))
    assert isinstance(typed, SweepConfig)
    return typed


def measure(config: SweepConfig, workers: int, n_trials: int) -> Measured:
    """A study by so many workers, each of which has met the paths already."""
    planned = sweep.plan(config)
    with tempfile.TemporaryDirectory() as folder, LocalPool(workers, threads=1) as pool:
        where = Path(folder)
        warm = planned.job(where)(search.Asked(0, 0, {"baseline.scale": 1.0, "baseline.width": 0.1}), [])
        run_all(pool, [Job(number, warm.work, warm.arguments) for number in range(workers)])
        with storage.exclusive(where):
            began = time.perf_counter()
            done = search.conduct(planned, where, "bench", pool, n_trials)
            seconds = time.perf_counter() - began
        outcomes = [trial.user_attrs["outcome"]["seconds"] for trial in done.study.trials]
    return Measured(workers, seconds, n_trials, sum(outcomes), done.busy)


def report(rows: Sequence[Measured], n_paths: int) -> str:
    """The table, as Markdown."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = [
        "## Studies: trials an hour, and what the study costs (scripts/bench_sweeps.py)",
        "",
        f"{platform.machine()}, {cores} cores, load average {os.getloadavg()[0]:.1f} at the end.",
        f"`hedgerl sweep search=tuned_band` on {n_paths:,} validation paths, {rows[0].trials} trials, the same ones "
        "each time; workers are started and the paths simulated before. The study itself: asking the sampler, telling "
        "it, and keeping the journal, all in the coordinator; as a share of the time of all trials.",
        "",
        "| workers | trials an hour | against 1 worker | a trial, s | the study itself, a trial, ms | share | bar |",
        "|---|---|---|---|---|---|---|",
    ]
    one = rows[0]
    for row in rows:
        rate, base = row.trials / row.seconds, one.trials / one.seconds
        met = "met" if row.overhead < BAR else "missed"
        lines.append(
            f"| {row.workers} | {3600 * rate:,.0f} | {rate / base:.2f} | {row.in_trials / row.trials:.2f} | "
            f"{1000 * row.busy / row.trials:.1f} | {100 * row.overhead:.1f} % | {100 * BAR:.0f} % ({met}) |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures with 1, 2 and 4 workers, prints and appends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--append", type=Path, help="Markdown file to which the table is added")
    parser.add_argument("--n-trials", type=int, default=40)
    parser.add_argument("--n-paths", type=int, default=5000)
    given = parser.parse_args()
    config = configured(given.n_paths)
    rows = [measure(config, workers, given.n_trials) for workers in (1, 2, 4)]
    text = report(rows, given.n_paths)
    print(text)
    if given.append:
        with open(given.append, "a", encoding="utf-8") as file:
            file.write("\n" + text)


if __name__ == "__main__":
    main()
