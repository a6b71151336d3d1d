"""Checks what runs on a CUDA device against NumPy, then times it from noise to gradient.

    python scripts/bench_gpu.py --output gpu.json --append docs/benchmarks.md
    python scripts/bench_gpu.py --rehearse      # the same on the CPU, small: that it runs; its figures mean nothing

Nothing is timed where a check fails. A measurement that fails is told in its row, and the others go on. Every figure is
the best of several runs after a warm-up, from Python's call to the end of the device's work.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from sb3_contrib import RecurrentPPO

from hedgerl.agents.captured import CapturedGradients
from hedgerl.agents.deep_hedging import DeepHedging
from hedgerl.agents.ppo_lstm import PPOLSTM
from hedgerl.agents.recurrent import default_policy
from hedgerl.envs import HedgingVecEnv, Reward, ShortOption, make_vec
from hedgerl.envs.captured import CapturedEpisodes
from hedgerl.pricing import Option
from hedgerl.sim import BlackScholes, Heston, Model, RoughBergomi
from hedgerl.sim.backend import resolve, to_torch
from hedgerl.sim.noise import device_normals, device_stream

MODELS: dict[str, Model] = {
    "rough Bergomi": RoughBergomi(hurst=0.07, eta=1.9, rho=-0.9, forward_variance=0.235**2),
    "Heston": Heston(kappa=2.0, theta=0.04, sigma=0.5, rho=-0.7, v0=0.04),
}
STEPS = 252
TWINS = 2e-5  # relative, float32
_PER_STEP = 150.0  # operations of a path's step, about: three normals by Philox and Box-Muller, two exponentials


@dataclass(frozen=True)
class Row:
    """A measurement: seconds of a run, what that is in its own unit, and the least that the device could take."""

    name: str
    seconds: float | None
    figure: str
    bar: str
    met: bool | None
    floor: str = ""


@dataclass
class Bench:
    """What all measurements share."""

    backend: str
    device: str
    scale: int  # sizes are divided by it
    runs: int

    def wait(self) -> None:
        """Until the device is done."""
        if self.backend == "cupy":
            resolve("cupy").cuda.Device().synchronize()
        if self.device != "cpu":
            torch.cuda.synchronize()

    def best(self, work: Callable[[], object]) -> float:
        """Seconds of the fastest run."""
        work()
        seconds = []
        for _ in range(self.runs):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    @cached_property
    def bandwidth(self) -> float:
        """Bytes a second that a copy on the device reads and writes."""
        tensor = torch.empty(2**28 // self.scale, device=self.device)
        into = torch.empty_like(tensor)
        return 2 * tensor.nbytes / self.best(lambda: into.copy_(tensor))

    @cached_property
    def rate(self) -> float:
        """Operations a second of float32, by a product of matrices without tensor cores' shorter numbers."""
        size = 4096 // min(self.scale, 8)
        torch.backends.cuda.matmul.allow_tf32 = False
        one = torch.rand(size, size, device=self.device)
        return 2 * size**3 / self.best(lambda: one @ one)

    def floor(self, moved: float, operations: float) -> str:
        """The larger of two times: to move so many bytes, and to do so many operations."""
        by_bytes, by_work = moved / self.bandwidth, operations / self.rate
        what = "bytes" if by_bytes > by_work else "operations"
        return f"{1e3 * max(by_bytes, by_work):.2f} ms of {what}"

    # ---- checks ----

    def twins(self) -> list[str]:
        """Paths by the device's own stream against NumPy's on the same normals; the errors found."""
        wrong = []
        for name, model in MODELS.items():
            noise = device_normals(device_stream(1, "paths"), (model.n_noise, STEPS), 512)
            host = model.simulate(512, STEPS, 1.0, noise=noise, backend="numpy", threads=1)
            if self.backend == "cupy":
                device = model.simulate(512, STEPS, 1.0, seed=1, backend="cupy")
            else:
                device = model.simulate(512, STEPS, 1.0, noise=noise, backend="numpy")
            spot = to_torch(device.spot, "cpu").numpy()
            error = float(np.abs(spot / host.spot - 1.0).max())
            if not error < TWINS:
                wrong.append(f"{name}: spot off by {error:.1e} of NumPy's")
        return wrong

    def laws(self) -> list[str]:
        """E[S] = S_0 and, where it is known, E[v], within 4 standard errors at the end; what is off."""
        wrong = []
        for name, model in MODELS.items():
            paths = model.simulate(2**20 // self.scale, 64, 0.25, seed=2, backend=self.backend)
            level = {"rough Bergomi": 0.235**2, "Heston": 0.04}[name]
            for what, values, mean in (("spot", paths.spot, 100.0), ("variance", paths.variance, level)):
                last = to_torch(values[-1], self.device).double()
                z = float((last.mean() - mean) / (last.std() / last.numel() ** 0.5))
                if not abs(z) < 4.0:
                    wrong.append(f"{name}: mean {what} is {z:+.1f} standard errors off")
        return wrong

    def training(self) -> list[str]:
        """Three updates of deep hedging; what is not finite."""
        task = ShortOption(market=MODELS["Heston"], backend=self.backend)
        learner = DeepHedging(task, {"hidden": (16, 16)}, "mean_std", batch_paths=512, seed=1, device=self.device)
        learner.learn(3)
        return [] if learner.loss is not None and np.isfinite(learner.loss) else [f"deep hedging: loss {learner.loss}"]

    def captured(self) -> list[str]:
        """Steps and updates replayed from graphs against those that are taken as they are; what differs."""
        wrong = []
        for model in MODELS.values():
            task = ShortOption(market=model, backend=self.backend)
            seen, losses = [], []
            for capture in (False, None):
                venv = make_vec(
                    f"hedgerl/{task.name}-v0",
                    512,
                    device=self.device,
                    capture=capture,
                    market=model,
                    backend=self.backend,
                    reward=Reward(loss="mean_std"),
                )
                venv.seed(1)
                venv.reset_tensors()
                generator = torch.Generator(self.device).manual_seed(1)
                rows = []
                for _ in range(3 * task.n_steps):
                    action = 2.0 * torch.rand((512, 1), device=self.device, generator=generator) - 1.0
                    rows.append(torch.cat([each.flatten() for each in venv.step_tensors(action)[:2]]))
                seen.append(torch.stack(rows))
                learner = DeepHedging(
                    task,
                    {"recurrent": 8},
                    batch_paths=512,
                    validation_paths=2,
                    seed=1,
                    device=self.device,
                    capture=capture,
                )
                rates: list[float] = []
                learner.learn(6, callback=lambda each, rates=rates: rates.append(each.loss))  # type: ignore[misc]
                losses.append(rates)
                for name, each in (("steps", venv.captured), ("updates", learner.captured)):
                    if each is not None and not each.replaying:  # no numbers are wrong, so that the rest may be timed
                        print(f"bench_gpu: {name} are NOT captured: {each.refused}", file=sys.stderr, flush=True)
            if not torch.allclose(*seen, rtol=1e-6, atol=1e-6):
                wrong.append(f"{model}: steps by graphs differ by {float((seen[0] - seen[1]).abs().max()):.1e}")
            if not np.allclose(*losses, rtol=1e-5, atol=0.0):  # a device's sums may come in another order
                wrong.append(f"{model}: losses by graphs are {losses[1]} instead of {losses[0]}")
        return wrong

    # ---- measurements ----

    def generator(self, name: str) -> Row:
        """Spot and variance of 100,000 paths, by the kernel and by the array code that is its twin."""
        model, n_paths = MODELS[name], 100_000 // self.scale
        seconds = self.best(lambda: model.simulate(n_paths, STEPS, 1.0, seed=1, backend=self.backend))
        twin = _without_kernel(model)
        plain = self.best(lambda: twin.simulate(n_paths, STEPS, 1.0, seed=1, backend=self.backend))
        rough = name == "rough Bergomi"
        kept = 3 if rough else 2  # its marks need the increments, too
        products = STEPS * (STEPS + 1) if rough else 0  # of the Volterra convolution, two operations a weight
        return Row(
            f"{name}, {n_paths:,} x {STEPS} float32",
            seconds,
            f"{n_paths * STEPS / seconds / 1e6:,.0f} million path-steps/s, array code {1e3 * plain:,.1f} ms",
            "2 ms",
            seconds <= 2e-3,
            self.floor(kept * 4 * n_paths * STEPS, n_paths * (products + STEPS * _PER_STEP)),
        )

    def marks(self, name: str) -> Row:
        """Price, delta, gamma, vega and theta of two options at every step; smiles are fitted before."""
        n_paths = 100_000 // self.scale
        paths = MODELS[name].simulate(n_paths, STEPS, 1.0, seed=1, backend=self.backend)
        market = paths.model.market(paths)
        options = [Option(strike=100.0, expiry_years=1.0), Option(strike=90.0, expiry_years=1.0, is_call=False)]

        def work() -> None:
            for option in options:
                for step in range(STEPS):
                    market.mark(option, step)

        seconds = self.best(work)
        rate = f"{2 * n_paths * STEPS / seconds / 1e6:,.0f} million marks/s"
        moved = 2 * 4 * n_paths * STEPS * 7  # spot and variance in, five numbers out
        if name == "rough Bergomi":
            moved += 2 * 4 * n_paths * STEPS * (STEPS + 1) // 2  # the driver so far, for each mark
        title = f"marks of two options, {name}, {n_paths:,} x {STEPS}"
        return Row(title, seconds, rate, "50 ms", seconds <= 0.05, self.floor(moved, 0.0))

    def stepping(self) -> Row:
        """Episodes of a short option with random actions: observations, trades, rewards, all on the device; by graphs,
        and with a kernel at a time."""
        n_envs = 65_536 // self.scale
        actions = 2.0 * torch.rand((STEPS, n_envs, 1), device=self.device) - 1.0
        rates, how = [], ""
        for capture in (None, False):
            venv = make_vec(
                f"hedgerl/{ShortOption.name}-v0",
                n_envs,
                device=self.device,
                capture=capture,
                market=BlackScholes(volatility=0.2),
                n_steps=STEPS,
                backend=self.backend,
                block=n_envs,
            )
            venv.seed(1)
            venv.reset_tensors()
            seconds = [self._episode(venv, actions) for _ in range(2 + self.runs)]  # the second is that of the capture
            rates.append(n_envs * (STEPS - 1) / min(seconds[2:]))
            how = how or _how(venv.captured)
        ours, plain = rates
        return Row(
            f"ShortOption, {n_envs:,} environments, random actions, {how}",
            n_envs * (STEPS - 1) / ours,
            f"{ours / 1e6:,.1f} million env-steps/s, without graphs {plain / 1e6:,.1f}",
            "200 million",
            ours >= 2e8,
        )

    def _episode(self, venv: HedgingVecEnv, actions: torch.Tensor) -> float:
        """Seconds of all steps but the last, after which infos are made and the next batch is drawn."""
        self.wait()
        start = time.perf_counter()
        with torch.no_grad():
            for action in actions[:-1]:
                venv.step_tensors(action)
            self.wait()
            seconds = time.perf_counter() - start
            venv.step_tensors(actions[-1])
        return seconds

    def deep_hedging(self) -> Row:
        """An update on 65,536 episodes of a year, GRU(64), by a graph, and with a kernel at a time; paths are simulated
        once for eight."""
        n_paths = 65_536 // self.scale
        (ours, how), (plain, _) = (self._updates(n_paths, capture) for capture in (None, False))
        figure = f"{ours / 1e6:,.2f} million path-steps/s, without a graph {plain / 1e6:,.2f}"
        seconds = n_paths * STEPS / ours
        return Row(f"deep hedging, {n_paths:,} x {STEPS}, {how}", seconds, figure, "20 million", ours >= 2e7)

    def _updates(self, n_paths: int, capture: bool | None) -> tuple[float, str]:
        """Path-steps a second, and how; the memory of an update is free afterwards."""
        learner = DeepHedging(
            ShortOption(market=BlackScholes(volatility=0.2), n_steps=STEPS, backend=self.backend),
            {"hidden": (128, 64), "recurrent": 64},
            "mean_std",
            batch_paths=n_paths,
            pool_batches=1,
            epochs=8,
            validation_paths=2,  # each call of learn ends with them
            seed=1,
            device=self.device,
            capture=capture,
        )
        learner.learn(1)
        return n_paths * STEPS / self.best(lambda: learner.learn(1)), _how(learner.captured)

    def ppo(self) -> Row:
        """`learn` of both recurrent PPOs, rollouts and updates, 4,096 environments and 4 epochs."""
        n_envs, rates = max(16, 4096 // self.scale), {}
        for kind in (PPOLSTM, RecurrentPPO):
            venv = make_vec(
                f"hedgerl/{ShortOption.name}-v0",
                n_envs,
                market=BlackScholes(volatility=0.2),
                n_steps=STEPS,
                backend=self.backend,
                device=self.device if kind is PPOLSTM and self.device != "cpu" else None,
            )
            model = kind(
                "MlpLstmPolicy",
                venv,
                n_steps=STEPS,
                batch_size=n_envs // 8 * STEPS,
                n_epochs=4,
                policy_kwargs=default_policy(),
                seed=1,
                device=self.device,
            )
            start = time.perf_counter()
            model.learn(n_envs * STEPS)
            for _ in range(2 if kind is PPOLSTM else 0):  # the first of them is that of the capture
                self.wait()
                start = time.perf_counter()
                model.learn(n_envs * STEPS)  # sb3-contrib's takes minutes: once must do
            self.wait()
            rates[kind.__name__] = n_envs * STEPS / (time.perf_counter() - start)
        ours, theirs = rates["PPOLSTM"], rates["RecurrentPPO"]
        return Row(
            f"PPO-LSTM, {n_envs:,} x {STEPS}, 4 epochs, H = 64",
            n_envs * STEPS / ours,
            f"{ours / 1e3:,.0f} thousand env-steps/s, {ours / theirs:,.1f} x sb3-contrib",
            "1 million and 100 x",
            ours >= 1e6 and ours >= 100 * theirs,
        )

    def memory(self) -> Row:
        """Growth of the host's memory over 100 simulations and updates."""
        task = ShortOption(market=MODELS["Heston"], backend=self.backend)
        learner = DeepHedging(
            task, {"hidden": (16, 16)}, "mean_std", batch_paths=1024, pool_batches=1, seed=1, device=self.device
        )
        learner.learn(20)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        learner.learn(100)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        return Row("host memory over 100 iterations", None, f"{grown:.1f} MiB more at the peak", "none", grown < 1.0)


def _how(captured: CapturedEpisodes | CapturedGradients | None) -> str:
    if captured is None:
        return "not captured here"
    return "by graphs" if captured.refused is None else f"NOT captured: {captured.refused}"


def _without_kernel(model: Model) -> Model:
    """The same model, which on a device runs the array code."""
    plain = type(type(model).__name__, (type(model),), {"_kernel": lambda self, perturbed: None})
    return plain(**model.parameters)


def machine(bench: Bench) -> str:
    """Card, driver and versions."""
    if bench.device == "cpu":
        return f"{platform.machine()}, NumPy {np.__version__}, torch {torch.__version__}: a rehearsal"
    cupy = resolve("cupy")
    driver, runtime = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()
    return (
        f"{torch.cuda.get_device_name()}, CUDA driver {driver} and runtime {runtime}, CuPy {cupy.__version__}, "
        f"torch {torch.__version__}; copies at {bench.bandwidth / 1e12:.2f} TB/s, "
        f"float32 at {bench.rate / 1e12:.0f} TFLOP/s"
    )


def report(where: str, rows: list[Row]) -> str:
    """The table, as Markdown."""
    lines = [
        "## On a CUDA device: from noise to gradient (scripts/bench_gpu.py)",
        "",
        f"{where}.",
        "",
        "| what | ms | figure | floor | bar |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        verdict = "" if row.met is None else f" ({'met' if row.met else 'missed'})"
        taken = "" if row.seconds is None else f"{1e3 * row.seconds:,.2f}"
        lines.append(f"| {row.name} | {taken} | {row.figure} | {row.floor} | {row.bar}{verdict} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Checks, measures, prints and writes; 1 where a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, small")
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    parser.add_argument("--append", type=Path, help="a Markdown file to which the table is added")
    options = parser.parse_args()
    bench = Bench("numpy", "cpu", 256, 1) if options.rehearse else Bench("cupy", "cuda", 1, 5)
    resolve(bench.backend)
    wrong = [error for check in (bench.twins, bench.laws, bench.training, bench.captured) for error in check()]
    if wrong:
        print("\n".join(f"bench_gpu: {error}" for error in wrong), file=sys.stderr)
        return 1
    rows = []
    measurements: dict[str, Callable[[], Row]] = {name: partial(bench.generator, name) for name in MODELS}
    measurements |= {f"marks, {name}": partial(bench.marks, name) for name in MODELS}
    for method in (bench.stepping, bench.deep_hedging, bench.ppo, bench.memory):
        measurements[method.__name__] = method
    for name, measure in measurements.items():
        start = time.perf_counter()
        try:
            rows.append(measure())
        except Exception as error:
            rows.append(Row(name, None, f"failed: {' '.join(str(error).split())[:120]}", "", None))
        print(f"{rows[-1].name}: {rows[-1].figure} ({time.perf_counter() - start:.0f} s)", flush=True)
    text = report(machine(bench), rows)
    print(text)
    if options.append:
        with open(options.append, "a", encoding="utf-8") as file:
            file.write("\n" + text)
    if options.output:
        options.output.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
