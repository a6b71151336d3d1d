"""Times the generators, the marks and the pricing functions, and writes docs/benchmarks.md.

    make bench                          # all of it, some two minutes
    make bench ARGS="--quick"

Every figure is the best of several runs after a warm-up, in one process, NumPy and float32 unless it says otherwise.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy

import hedgerl
from hedgerl import pricing, sim
from hedgerl.pricing import Option
from hedgerl.sim import plain
from hedgerl.sim.backend import single_threaded_blas, usable_threads

MODELS: dict[str, sim.Model] = {
    "Black-Scholes": sim.BlackScholes(volatility=0.2),
    "Heston": sim.Heston(kappa=2.0, theta=0.04, sigma=0.5, rho=-0.7, v0=0.04),
    "rough Bergomi": sim.RoughBergomi(hurst=0.07, eta=1.9, rho=-0.9, forward_variance=0.235**2),
    "SABR": sim.SABR(volatility=0.2, volvol=0.8, rho=-0.5),
    "GARCH": sim.GARCH(omega=2e-6, alpha=0.01, gamma=0.15, beta=0.89),
}
STEPS = 252
BARS = {"Heston": 25, "rough Bergomi": 25}
MARKS_BAR = 5


def best(work: Callable[[], object], runs: int) -> float:
    """Seconds of the fastest of `runs` runs after one more."""
    work()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def generators(n_paths: int, runs: int) -> list[str]:
    """A table of path-steps a second."""
    rows = [
        f"| generator | one thread | {usable_threads()} threads | float64, one thread | plain twin, float64 | bar |",
        "|---|---|---|---|---|---|",
    ]
    for name, model in MODELS.items():

        def rate(dtype: str, threads: int, model: sim.Model = model) -> float:
            def run() -> None:
                model.simulate(n_paths, STEPS, 1.0, seed=1, backend="numpy", dtype=dtype, threads=threads)

            return n_paths * STEPS / best(run, runs) / 1e6

        noise = np.random.default_rng(1).standard_normal((model.n_noise, STEPS, 4096))

        def twin(model: sim.Model = model, noise: np.ndarray = noise) -> None:
            np.random.default_rng(1).standard_normal(noise.shape)  # drawing is a part of the work
            plain.simulate(model, noise, 1.0)

        with single_threaded_blas():
            slow = 4096 * STEPS / best(twin, runs) / 1e6
        one = rate("float32", 1)
        bar = BARS.get(name)
        verdict = "" if bar is None else f"{bar} ({'met' if one >= bar else 'missed'})"
        rows.append(
            f"| {name} | {one:.0f} | {rate('float32', usable_threads()):.0f} | {rate('float64', 1):.0f} | "
            f"{slow:.1f} | {verdict} |"
        )
    return rows


def marks(n_paths: int, runs: int) -> list[str]:
    """A table of option marks a second, smiles fitted afresh."""
    os.environ["HEDGERL_CACHE"] = ""
    rows = [
        "| model | marks/s, one thread, millions | bar | first marks of a 21-day option, seconds |",
        "|---|---|---|---|",
    ]
    for name, model in MODELS.items():
        paths = model.simulate(n_paths, 21, 21 / 252, seed=1, backend="numpy")
        market = model.market(paths)
        option = Option(strike=100.0, expiry_years=21 / 252)
        start = time.perf_counter()
        for step in range(22):
            market.mark(option, step)
        first = time.perf_counter() - start

        def again(market: sim.Market = market, option: Option = option) -> None:
            for step in range(1, 21):
                market.mark(option, step)

        with single_threaded_blas():
            rate = 20 * n_paths / best(again, runs) / 1e6
        rows.append(f"| {name} | {rate:.1f} | {MARKS_BAR} ({'met' if rate >= MARKS_BAR else 'missed'}) | {first:.2f} |")
    return rows


def functions(runs: int) -> list[str]:
    """A table of pricing calls a second."""
    rng = np.random.default_rng(1)
    n = 1 << 16
    spot, strike = rng.uniform(80, 120, n), rng.uniform(80, 120, n)
    left, volatility = rng.uniform(0.02, 2.0, n), rng.uniform(0.1, 0.6, n)
    small = [array.astype(np.float32) for array in (spot, strike, left, volatility)]
    price = pricing.black_scholes(spot, strike, left, volatility, is_call=strike > spot).price
    shared = {"kappa": 2.0, "theta": 0.04, "sigma": 0.5, "rho": -0.7}
    few = slice(0, 1 << 13)
    own = {name: value * rng.uniform(0.9, 1.1, n)[few] for name, value in shared.items()}
    cases: dict[str, tuple[int, Callable[[], object]]] = {
        "black_scholes, all Greeks, float32": (n, lambda: pricing.black_scholes(*small)),
        "black_scholes, all Greeks, float64": (n, lambda: pricing.black_scholes(spot, strike, left, volatility)),
        "implied_volatility, float64": (
            n,
            lambda: pricing.implied_volatility(price, spot, strike, left, is_call=strike > spot),
        ),
        "heston, price and Greeks, one expiry and parameters": (
            n,
            lambda: pricing.heston(spot, strike, 0.25, volatility**2, **shared),
        ),
        "heston, price and Greeks, each its own": (
            1 << 13,
            lambda: pricing.heston(spot[few], strike[few], left[few], volatility[few] ** 2, **own),
        ),
    }
    rows = ["| function | millions a second, one thread |", "|---|---|"]
    with single_threaded_blas():
        for name, (count, work) in cases.items():
            rows.append(f"| {name} | {count / best(work, runs) / 1e6:.2f} |")
    return rows


def peak_memory() -> str:
    """Peak resident memory of a process that simulates 100,000 x 252 rough Bergomi paths in float32."""
    program = (
        "import hedgerl, re;"
        "model = hedgerl.sim.RoughBergomi(0.07, 1.9, -0.9, 0.235**2);"
        "paths = model.simulate(100_000, 252, 1.0, seed=1, backend='numpy');"
        # not getrusage, whose peak a child takes over from its parent
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    return f"{int(output) // 1024} MiB with the imported libraries (bar: 1,500 MB)"


def processor() -> str:
    """What the machine calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md")
    parser.add_argument("--quick", action="store_true", help="fewer paths and runs")
    options = parser.parse_args()
    n_paths, runs = (16_384, 2) if options.quick else (100_000, 5)
    features = np.__config__.show(mode="dicts")["SIMD Extensions"]  # type: ignore[call-overload]
    text = "\n".join(
        [
            "# Benchmarks",
            "",
            "Written by `make bench` (scripts/bench_simulate.py): best of several runs after a warm-up, one process.",
            "",
            f"{processor()}, {usable_threads()} cores, SIMD {', '.join(features['found'][-1:])}; "
            f"Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}, "
            f"hedgerl {hedgerl.__version__}, load average {os.getloadavg()[0]:.1f} at the start.",
            "",
            f"## Path generators: millions of path-steps a second, {n_paths:,} paths x {STEPS} steps",
            "",
            "Spot, variance and the state that marks need, noise drawn, float32 on NumPy. The plain twin is the same",
            "scheme without blocks or buffers (sim/plain.py), 4,096 paths at a time.",
            "",
            *generators(n_paths, runs),
            "",
            f"Peak resident memory, rough Bergomi 100,000 x 252 in float32: {peak_memory()}.",
            "",
            f"## Marks: price, delta, gamma, vega and theta of an option on {n_paths:,} paths",
            "",
            "Mean over the steps of a 21-day option. The last column is the first pass over all steps, in which smiles",
            "are fitted (on one core); they are kept for every later market of the same model and grid.",
            "",
            *marks(n_paths, runs),
            "",
            "## Pricing functions",
            "",
            *functions(runs),
            "",
        ]
    )
    print(text)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text)


if __name__ == "__main__":
    main()
