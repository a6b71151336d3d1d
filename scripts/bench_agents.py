"""Measures how fast agents train and prints tables; `make bench` runs it.

    .venv/bin/python scripts/bench_agents.py --only ppo_lstm --append docs/benchmarks.md

One CPU thread. Each measurement is a function in `MEASUREMENTS` that returns its heading, notes and table, and has its
own section in the Markdown file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import RecurrentPPO

import hedgerl.model_files
from hedgerl.agents.agent import Agent
from hedgerl.agents.deep_hedging import DeepHedging
from hedgerl.agents.onnx_export import OnnxPolicy
from hedgerl.agents.ppo_lstm import PPOLSTM
from hedgerl.agents.recurrent import default_policy
from hedgerl.envs import Action, Execution, Reward, ShortOption, make_vec
from hedgerl.execution import Proportional
from hedgerl.sim import BlackScholes

BAR = 5.0  # times sb3-contrib's env-steps a second
PATHWISE_BAR = 1.5e6  # path-steps a second
KINDS: dict[str, type[RecurrentPPO]] = {"sb3-contrib": RecurrentPPO, "PPOLSTM": PPOLSTM}


@dataclass
class Measurement:
    """A section: its heading, what is to be known of it, the head of its table and the rows, as numbers and texts."""

    heading: str
    notes: str
    head: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The section in Markdown, without its heading."""
        made = [self.notes, "", f"| {' | '.join(self.head)} |", "|" + "---|" * len(self.head)]
        for row in self.rows:
            cells = (f"{cell:,.0f}" if isinstance(cell, float) else str(cell) for cell in row)
            made.append(f"| {' | '.join(cells)} |")
        return made


def _model(kind: str, num_envs: int, n_steps: int, batch: int, epochs: int, seed: int, **more: Any) -> RecurrentPPO:
    venv = make_vec(
        f"hedgerl/{ShortOption.name}-v0",
        num_envs,
        market=BlackScholes(volatility=0.2),
        n_steps=n_steps,
        backend="numpy",
        **more,
    )
    venv.seed(seed)
    return KINDS[kind](
        "MlpLstmPolicy",
        venv,
        n_steps=n_steps,
        batch_size=batch,
        n_epochs=epochs,
        gamma=1.0,
        policy_kwargs=default_policy(),
        seed=seed,
        device="cpu",
    )


def ppo_lstm(quick: bool) -> Measurement:
    """Env-steps a second of `learn`, rollouts and updates, of both implementations in turn."""
    cases = [(64, 16), (512, 16), (512, 128)]  # environments, episodes in a minibatch
    epochs, runs = (2, 1) if quick else (10, 2)
    result = Measurement(
        "Recurrent PPO: env-steps a second of training, one CPU thread (scripts/bench_agents.py)",
        f"ShortOption of 252 steps under Black-Scholes, FC(128) -> LSTM(64) -> FC(64) and an LSTM for the critic, "
        f"{epochs} epochs, `learn` from end to end: simulation, rollouts and updates; best of {runs}, after a warm-up, "
        "the two in turn in one process.",
        ("environments x steps", "minibatch", *KINDS, "ratio", "bar"),
    )
    for num_envs, episodes in cases:
        models = {kind: _model(kind, num_envs, 252, episodes * 252, 1, seed=1) for kind in KINDS}
        for model in models.values():
            model.learn(num_envs * 252)  # warm-up, one epoch
            model.n_epochs = epochs
        best = dict.fromkeys(KINDS, 0.0)
        for _ in range(runs):
            for kind, model in models.items():
                start = time.perf_counter()
                model.learn(num_envs * 252, reset_num_timesteps=True)
                best[kind] = max(best[kind], num_envs * 252 / (time.perf_counter() - start))
        ratio = best["PPOLSTM"] / best["sb3-contrib"]
        verdict = f"{BAR:g} ({'met' if ratio >= BAR else 'missed'})"
        result.rows.append((f"{num_envs} x 252", f"{episodes} x 252", *best.values(), f"{ratio:.1f}", verdict))
    return result


def learning_curves(quick: bool) -> Measurement:
    """Mean episode reward of both implementations after the same number of steps, over seeds."""
    seeds, marks = (2, (2, 4)) if quick else (5, (5, 10, 20, 40))
    result = Measurement(
        "Recurrent PPO: the same learning curve (scripts/bench_agents.py)",
        f"Mean reward of an episode with its standard error over {seeds} seeds: ShortOption of 21 steps under "
        "Black-Scholes, loss abs, action coverage, 64 environments, minibatches of 16 episodes, 10 epochs.",
        ("rollouts", *KINDS, "difference / its standard error"),
    )
    curves = {kind: np.zeros((seeds, len(marks))) for kind in KINDS}
    for kind, curve in curves.items():
        for seed in range(seeds):
            reward = Reward(w=1.0, scale=1.0)
            model = _model(kind, 64, 21, 16 * 21, 10, seed, reward=reward, action=Action("coverage"))
            done = 0
            for place, mark in enumerate(marks):
                model.learn(64 * 21 * (mark - done), reset_num_timesteps=False)
                done = mark
                assert model.ep_info_buffer is not None
                curve[seed, place] = np.mean([info["r"] for info in list(model.ep_info_buffer)[-64:]])
    means = {kind: curve.mean(axis=0) for kind, curve in curves.items()}
    errors = {kind: curve.std(axis=0, ddof=1) / seeds**0.5 for kind, curve in curves.items()}
    for place, mark in enumerate(marks):
        cells = [f"{means[kind][place]:.3f} ({errors[kind][place]:.3f})" for kind in KINDS]
        first, second = KINDS
        spread = float(np.hypot(errors[first][place], errors[second][place]))
        result.rows.append((mark, *cells, f"{(means[second][place] - means[first][place]) / spread:+.1f}"))
    return result


def deep_hedging(quick: bool) -> Measurement:
    """Path-steps a second of `DeepHedging.learn`, simulation and updates."""
    iterations, runs = (8, 1) if quick else (24, 3)
    result = Measurement(
        "Deep hedging: path-steps a second of training, one CPU thread (scripts/bench_agents.py)",
        "A short option under Black-Scholes with 1 % costs, mean + 1.5 sd; batches of 8,192 episodes; `learn` from end "
        f"to end: simulation, marks, forward, backward and update; best of {runs} runs of {iterations} updates, after "
        "a warm-up.",
        ("layers", "inputs", "steps", "path-steps/s", "bar"),
    )
    four = ("time_left", "liability_moneyness", "liability_delta", "liability_gamma")
    cases = (((16, 16), four, 20), ((32, 32), four, 20), ((32, 32), None, 20), ((32, 32), four, 252))
    for hidden, inputs, n_steps in cases:
        task = ShortOption(
            market=BlackScholes(volatility=0.2),
            n_steps=n_steps,
            backend="numpy",
            execution=Execution(costs=(Proportional(rate=0.01, applies_to="underlying"),)),
        )
        learner = DeepHedging(task, {"inputs": inputs, "hidden": hidden}, "mean_std", parameter=1.5, seed=1)
        learner.learn(8)
        best = 0.0
        for _ in range(runs):
            start = time.perf_counter()
            learner.learn(iterations)
            best = max(best, iterations * learner.batch_paths * n_steps / (time.perf_counter() - start))
        verdict = f"{PATHWISE_BAR:,.0f} ({'met' if best >= PATHWISE_BAR else 'missed'})"
        shown = str(len(inputs)) if inputs else f"{len(learner.network.config['inputs'])} (default)"
        result.rows.append((" + ".join(map(str, hidden)), shown, n_steps, best, verdict))
    return result


def latency(quick: bool) -> Measurement:
    """Time from one observation to an action, of every shipped policy."""
    calls = 500 if quick else 5000
    result = Measurement(
        "Saved policies: microseconds from one observation to its action, one CPU thread (scripts/bench_agents.py)",
        f"The median and the 99th percentile of {calls:,} calls of `Agent.predict` and, by ONNX Runtime, of "
        "`OnnxPolicy.predict`; loading a bundle with all its checks.",
        ("policy", "torch p50", "p99", "ONNX p50", "p99", "load, ms", "bars"),
    )

    def timed(work: Callable[[], Any], times: int = calls) -> np.ndarray:
        for _ in range(20):
            work()
        taken = np.empty(times)
        for call in range(times):
            start = time.perf_counter()
            work()
            taken[call] = 1e6 * (time.perf_counter() - start)
        return taken

    for name in hedgerl.model_files.names():
        agent = Agent.load(name)
        load = timed(lambda name=name: Agent.load(name), 20)
        seen = np.zeros(len(agent.card.observation.columns(agent.task)), dtype=np.float32)
        state: dict[str, Any] = {"torch": None, "onnx": None}
        with tempfile.TemporaryDirectory() as folder:
            runner = OnnxPolicy(agent.to_onnx(Path(folder) / "policy.onnx"))

        def by_torch(agent: Agent = agent, seen: np.ndarray = seen, state: dict[str, Any] = state) -> None:
            _, state["torch"] = agent.predict(seen, state["torch"])

        def by_onnx(runner: OnnxPolicy = runner, seen: np.ndarray = seen, state: dict[str, Any] = state) -> None:
            _, state["onnx"] = runner.predict(seen, state["onnx"])

        torch_times, onnx_times = timed(by_torch), timed(by_onnx)
        now, later = np.median(torch_times), np.median(onnx_times)
        met = "met" if now < 1000.0 and later < 100.0 else "missed"
        result.rows.append(
            (
                name,
                f"{now:.0f}",
                f"{np.quantile(torch_times, 0.99):.0f}",
                f"{later:.0f}",
                f"{np.quantile(onnx_times, 0.99):.0f}",
                f"{np.median(load) / 1e3:.1f}",
                f"1,000 and 100 ({met})",
            )
        )
    return result


MEASUREMENTS: dict[str, Callable[[bool], Measurement]] = {
    "ppo_lstm": ppo_lstm,
    "learning_curves": learning_curves,
    "deep_hedging": deep_hedging,
    "latency": latency,
}


def written(text: str, heading: str, lines: list[str]) -> str:
    """A Markdown text with the section of this heading, `## heading`, replaced, or added at the end."""
    parts = text.rstrip().split("\n## ")
    section = "\n".join([heading, "", *lines, ""])
    title = heading.split(":")[0] + ":" + heading.split(":", 1)[1].split(",")[0]  # what does not change between runs
    for place, part in enumerate(parts[1:], start=1):
        if part.startswith(title):
            parts[place] = section
            break
    else:
        parts.append(section)
    return "\n## ".join(part.rstrip() + "\n" for part in parts)


def main() -> None:
    """Measures, prints and, where asked to, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS), help="measurements")
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    parser.add_argument("--append", type=Path, help="a Markdown file for the tables, each under a heading of its own")
    parser.add_argument("--quick", action="store_true", help="fewer epochs, seeds and runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name in options.only:
        machine = (
            f"{platform.machine()}, torch {torch.__version__}, load average {os.getloadavg()[0]:.1f} at the start."
        )
        made = MEASUREMENTS[name](options.quick)
        lines = [machine, *made.lines()]
        print("\n".join([f"## {made.heading}", "", *lines, ""]), flush=True)
        found[name] = {"machine": machine, "head": made.head, "rows": made.rows}
        if options.append:
            options.append.write_text(written(options.append.read_text(), made.heading, lines))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
