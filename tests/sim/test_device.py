"""Simulation, marks and data sets on a device: CuPy against NumPy, on the same numbers.

Everything marked `gpu` needs CuPy and a CUDA device and is skipped, with the reason, where either is absent. Without
one the same tests run in a process of their own on the stand-in for CuPy in tests/standin_cupy: it refuses what a
device's arrays refuse, so a NumPy function called on one, a host array among them, a lost dtype or a missing name is
seen everywhere, and runs our own kernels through g++. It shows nothing of cuBLAS, of threads side by side, or of speed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import hedgerl.sim.device
import hedgerl.sim.model
import hedgerl.sim.parts
from hedgerl.pricing import Greeks, Option
from hedgerl.sim import GARCH, SABR, BlackScholes, Heston, Model, Paths, RoughBergomi, load, load_marks, save
from hedgerl.sim.backend import Workspace, use_device
from hedgerl.sim.market import Contract, Implied, _Known, fitted_marks, from_smile, smile_marks
from hedgerl.sim.noise import device_normals, device_stream, normals
from hedgerl.sim.parts import simulate_on_devices
from hedgerl.sim.smile import Smile, total_degree

ROOT = Path(__file__).resolve().parents[2]
MODELS: dict[str, tuple[Model, dict[str, tuple[float, float]]]] = {  # and what is perturbed
    "gbm": (BlackScholes(volatility=0.2, rate=0.03), {"volatility": (0.1, 0.3), "drift": (0.0, 0.1)}),
    "heston": (
        Heston(kappa=2.0, theta=0.04, sigma=0.9, rho=-0.7, v0=0.04, rate=0.03, dividend=0.01),
        {"kappa": (1.0, 4.0), "sigma": (0.3, 1.0)},
    ),
    "heston table": (Heston(kappa=2.0, theta=0.04, sigma=0.9, rho=-0.7, v0=0.04), {"v0": (0.02, 0.08)}),
    "rbergomi": (
        RoughBergomi(
            hurst=0.1, eta=1.5, rho=-0.7, forward_variance=((0.0, 0.1), (0.03, 0.05)), variance_risk_premium=-0.5
        ),
        {"hurst": (0.05, 0.2), "eta": (1.0, 2.0), "forward_variance": (0.02, 0.06)},
    ),
    "sabr": (SABR(volatility=0.2, volvol=1.0, rho=-0.5, drift=0.1), {"volvol": (0.5, 1.0), "rho": (-0.8, 0.0)}),
    "garch": (GARCH(omega=2e-6, alpha=0.02, gamma=0.14, beta=0.89), {"v0": (0.01, 0.04), "beta": (0.85, 0.9)}),
}
N_PATHS, N_STEPS, DAY = 600, 6, 1 / 252
BLOCK = hedgerl.sim.model.DEVICE_PATHS
every_model = pytest.mark.parametrize("name", MODELS)
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
OF_PATHS = {"float32": 2e-5, "float64": 1e-10}  # relative errors; a dozen steps add up their roundings
OF_MARKS = {"float32": 5e-5, "float64": 1e-8}  # NumPy's float32 normal distribution is our own, within 1e-7


def simulate(name: str, n_paths: int = N_PATHS, seed: int | None = 1, n_steps: int = N_STEPS, **options: Any) -> Paths:
    return MODELS[name][0].simulate(n_paths, n_steps, n_steps * DAY, seed, **options)


def on_host(paths: Paths) -> Paths:
    """The same paths in NumPy's arrays."""
    return dataclasses.replace(
        paths,
        spot=paths.spot.get(),
        variance=paths.variance.get(),
        parameters={name: draws.get() for name, draws in paths.parameters.items()},
        state={name: rows.get() for name, rows in paths.state.items()},
    )


def assert_twins(cupy: ModuleType, device: Paths, host: Paths, dtype: str) -> None:
    """The same paths on the device and on the host, within rounding."""

    def compare(name: str, ours: Any, theirs: Any, size: float) -> None:
        assert isinstance(ours, cupy.ndarray), name
        assert isinstance(theirs, np.ndarray), name
        assert ours.dtype == theirs.dtype == np.dtype(dtype), name
        rtol = OF_PATHS[dtype]
        np.testing.assert_allclose(ours.get(), theirs, rtol=rtol, atol=rtol * size, err_msg=name)

    compare("spot", device.spot, host.spot, 0.0)
    compare("variance", device.variance, host.variance, 0.04)  # QE's may end at 0
    for ours, theirs, size in [(device.state, host.state, 0.1), (device.parameters, host.parameters, 0.0)]:
        assert ours.keys() == theirs.keys()
        for name in ours:
            compare(name, ours[name], theirs[name], size)


@pytest.mark.gpu
def test_arrays_refuse_numpy(cupy: ModuleType) -> None:
    """Identity: what all tests below rely on to see a host operation. Holds for CuPy; catches a lenient stand-in."""
    device, host = cupy.ones(3), np.ones(3)
    with pytest.raises(TypeError):
        np.asarray(device)
    with pytest.raises(TypeError):
        device * host
    with pytest.raises(TypeError):
        host * device
    with pytest.raises(TypeError):
        cupy.multiply(device, device, out=host)
    assert isinstance(device.sum(), cupy.ndarray)


@pytest.mark.gpu
@every_dtype
@every_model
def test_noise_from_outside(cupy: ModuleType, name: str, dtype: str) -> None:
    """Twin. Catches an operation on the host, a float64 among float32, an `out` that a device lacks."""
    n_noise = MODELS[name][0].n_noise
    noise = np.random.default_rng(1).standard_normal((n_noise, 12, N_PATHS))
    given: dict[str, Any] = {"seed": None, "n_steps": 12, "dtype": dtype}
    host = simulate(name, noise=noise, backend="numpy", **given)
    for sent in (noise, cupy.asarray(noise)):
        assert_twins(cupy, simulate(name, noise=sent, backend="cupy", **given), host, dtype)
    back = simulate(name, noise=cupy.asarray(noise), backend="numpy", **given)
    np.testing.assert_array_equal(back.spot, host.spot)


EDGES: dict[str, tuple[Model, dict[str, Any]]] = {  # of our own kernels
    "one step": (RoughBergomi(hurst=0.01, eta=3.0, rho=-1.0, forward_variance=0.04), {"n_steps": 1, "maturity": 0.02}),
    "a tile": (RoughBergomi(hurst=0.49, eta=0.5, rho=1.0, forward_variance=0.04), {"n_steps": 16, "maturity": 0.1}),
    "past two tiles": (
        RoughBergomi(hurst=0.1, eta=1.9, rho=0.0, forward_variance=0.04),
        {"n_steps": 33, "maturity": 2},
    ),
    "substeps": (
        RoughBergomi(hurst=0.1, eta=1.9, rho=-0.9, forward_variance=((0.0, 0.1), (0.03, 0.05))),
        {"n_steps": 5, "maturity": 0.1, "substeps": 4},
    ),
    "uneven steps": (
        Heston(kappa=2.0, theta=0.04, sigma=0.9, rho=-0.7, v0=0.04),
        {"times": [0.0, 0.01, 0.05, 0.06, 0.5, 0.51]},
    ),
    "no variance": (Heston(kappa=2.0, theta=0.04, sigma=3.0, rho=0.99, v0=0.0), {"n_steps": 5, "maturity": 2.0}),
    "hardly random": (Heston(kappa=2.0, theta=0.04, sigma=1e-4, rho=0.0, v0=0.04), {"n_steps": 63, "maturity": 0.25}),
}


@pytest.mark.gpu
@pytest.mark.parametrize("edge", EDGES)
def test_kernels_at_their_edges(cupy: ModuleType, edge: str) -> None:
    """Twin, on noise from outside, float64. Catches a tile's end, a quarter of steps that is not full, a row of a step
    that is not kept, a division by a variance of 0."""
    model, grid = EDGES[edge]
    n_fine = (grid["n_steps"] if "n_steps" in grid else len(grid["times"]) - 1) * grid.get("substeps", 1)
    noise = np.random.default_rng(1).standard_normal((model.n_noise, n_fine, N_PATHS))
    device, host = (
        model.simulate(N_PATHS, noise=noise, dtype="float64", backend=backend, **grid) for backend in ("cupy", "numpy")
    )
    assert_twins(cupy, device, host, "float64")


@pytest.mark.gpu
@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("perturbed", [False, True])
@every_dtype
@every_model
def test_the_same_stream(
    cupy: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    dtype: str,
    perturbed: bool,
    antithetic: bool,
) -> None:
    """Twin, NumPy being given the device's streams. Catches parameters by path that fall out of step with the paths,
    pairs that do not lie side by side, and noise that depends on the block it is drawn in."""

    def devices(xp: ModuleType, work: Workspace, seed: int, stream: str, shape: Any, first: int, *more: Any) -> Any:
        if xp is not np:
            return normals(xp, work, seed, stream, shape, first, *more)
        return device_normals(device_stream(seed, stream, first, more[1]), shape, more[0], dtype)

    monkeypatch.setattr(hedgerl.sim.model, "normals", devices)
    monkeypatch.setattr(hedgerl.sim.model, "DEVICE_PATHS", 1024)
    options: dict[str, Any] = {
        "dtype": dtype,
        "antithetic": antithetic,
        "perturb": MODELS[name][1] if perturbed else None,
    }
    device = simulate(name, 1_500, backend="cupy", **options)
    assert_twins(cupy, device, simulate(name, 1_500, backend="numpy", **options), dtype)
    assert bool(device.parameters) is perturbed


@pytest.mark.gpu
@pytest.mark.parametrize("antithetic", [False, True])
@every_model
def test_more_paths_begin_with_the_fewer(cupy: ModuleType, name: str, antithetic: bool) -> None:
    """Identity, over a block's border. Catches draws in the order of memory, which n_paths would move."""
    options: dict[str, Any] = {"n_steps": 2, "antithetic": antithetic, "backend": "auto"}
    many = simulate(name, BLOCK + 1_000, **options)
    for fewer in (2, 1_030, BLOCK + 10):
        few = simulate(name, fewer, **options)
        assert isinstance(few.spot, cupy.ndarray)
        np.testing.assert_array_equal(few.spot.get(), many.spot[:, :fewer].get())
        np.testing.assert_array_equal(few.variance.get(), many.variance[:, :fewer].get())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_own_draws_are_normal(cupy: ModuleType, tools: SimpleNamespace, dtype: str) -> None:
    """Statistical: mean, variance, neighbours in time, in paths and across blocks, 4 standard errors.

    Catches a stream that both blocks or both seeds share, and normals of another variance.
    """
    model = BlackScholes(volatility=0.2)
    first, second = (
        model.simulate(2 * BLOCK, 2, 2 * DAY, seed, backend="cupy", dtype=dtype).spot.get().astype(np.float64)
        for seed in (1, 2)
    )
    z, other = ((np.diff(np.log(spot), axis=0) + 0.02 * DAY) / (0.2 * DAY**0.5) for spot in (first, second))
    tools.assert_mean(z)
    tools.assert_mean(z**2, 1.0)
    tools.assert_mean(z[0] * z[1])
    tools.assert_mean(z[:, 1:] * z[:, :-1])
    tools.assert_mean(z[:, BLOCK:] * z[:, :BLOCK])
    tools.assert_mean(z * other)


@pytest.mark.gpu
def test_antithetic_pairs(cupy: ModuleType) -> None:
    """Identity: log returns of a pair add up to their drift. Catches equal noise, and noise of two strangers."""
    paths = simulate("gbm", 50, antithetic=True, backend="cupy", dtype="float64")
    logs = np.log(paths.spot.get() / 100.0)
    expected = np.broadcast_to(2 * (0.03 - 0.02) * paths.times[:, None], (N_STEPS + 1, 25))
    np.testing.assert_allclose(logs[:, 0::2] + logs[:, 1::2], expected, rtol=0, atol=1e-12)
    assert np.unique(logs[-1]).size == 50


@pytest.mark.gpu
def test_too_many_paths_for_the_device(cupy: ModuleType) -> None:
    """Behaviour: says what was asked for, what is free, and how many paths would fit."""
    with pytest.raises(MemoryError, match=r"^1,000,000,000,000 paths of 72 bytes .* are free: n_paths=\d+ would fit$"):
        simulate("heston", 10**12, n_steps=8, backend="cupy")


def assert_marks(cupy: ModuleType, ours: Greeks, theirs: Greeks, dtype: str, size: Greeks | None = None) -> None:
    """The same marks on the device and on the host, within roundings of the largest, there or in `size`."""
    for greek in ("price", "delta", "gamma", "vega", "theta"):
        value, expected = getattr(ours, greek), getattr(theirs, greek)
        assert isinstance(value, cupy.ndarray), greek
        assert value.shape == expected.shape, greek
        assert value.dtype == expected.dtype == np.dtype(dtype), greek
        largest = max(
            float(np.abs(values).max()) for values in (expected, *([] if size is None else [getattr(size, greek)]))
        )
        np.testing.assert_allclose(value.get(), expected, rtol=0, atol=OF_MARKS[dtype] * largest, err_msg=greek)


@pytest.mark.gpu
@pytest.mark.parametrize("perturbed", [False, True])
@every_dtype
@every_model
def test_marks(cupy: ModuleType, name: str, dtype: str, perturbed: bool) -> None:
    """Twin: marks of the device's paths against NumPy's marks of the same arrays, one contract or one a path.

    Catches a host operation in a marker, terms left on the host, a Greek that changes dtype.
    """
    model, spread = MODELS[name]
    paths = simulate(name, dtype=dtype, perturb=spread if perturbed else None, backend="cupy")
    device, host = model.market(paths), model.market(on_host(paths))
    each = np.arange(N_PATHS)
    by_path = Option(np.full(N_PATHS, 101.0), np.where(each % 2, N_STEPS, 3) * DAY, each % 3 == 0)
    sent = Option(cupy.asarray(by_path.strike), cupy.asarray(by_path.expiry_years), cupy.asarray(by_path.is_call))
    scalar = Option(100.0, N_STEPS * DAY, is_call=False)

    for step in (0, 3, N_STEPS - 1, N_STEPS):
        assert_marks(cupy, device.mark(scalar, step), host.mark(scalar, step), dtype)
    for step in (0, 3):
        expected = host.mark(by_path, step)
        assert_marks(cupy, device.mark(by_path, step), expected, dtype)
        assert_marks(cupy, device.mark(sent, step), expected, dtype)


OTHERS: dict[str, tuple[Model, dict[str, Any]]] = {  # grids on which marks go other ways
    name: (model, {"n_steps": N_STEPS, "maturity": N_STEPS * DAY})
    for name, (model, _) in MODELS.items()
    if name != "heston table"
} | {
    "substeps": (MODELS["rbergomi"][0], {"n_steps": N_STEPS, "maturity": N_STEPS * DAY, "substeps": 2}),
    "event": (
        RoughBergomi(
            hurst=0.1,
            eta=1.5,
            rho=-0.7,
            forward_variance=((0.0, 3.5 * DAY, 4 * DAY, 5 * DAY, 5.5 * DAY), (0.04, 0.04, 0.2, 0.2, 0.04)),
        ),
        {"n_steps": N_STEPS, "maturity": N_STEPS * DAY},
    ),
    "many bins": (MODELS["rbergomi"][0], {"n_steps": 14, "maturity": 14 * DAY}),
}


@pytest.mark.gpu
@every_dtype
@pytest.mark.parametrize("name", OTHERS)
def test_marks_at_the_edges(cupy: ModuleType, name: str, dtype: str) -> None:
    """Twin, as above. Far strikes, an expiry between two times and beyond the paths, deep options at a step before
    expiry. Catches a wing, a last step cut short or a bin that a kernel takes otherwise."""
    model, grid = OTHERS[name]
    paths = model.simulate(N_PATHS, seed=1, dtype=dtype, backend="cupy", **grid)
    device, host = model.market(paths), model.market(on_host(paths))
    last = paths.n_steps
    moments = [(3, last)]
    if name in MODELS:
        moments += [(0, last), (2, last - 0.6), (last - 1, last), (2, 2.4), (last - 1, last + 1.5)]
    for step, expiry in moments:
        centre = host.mark(Option(100.0, expiry * DAY), step)
        for strike in (30.0, 85.0, 93.0, 107.0, 120.0, 300.0):
            for is_call in (False, True):
                option = Option(strike, expiry * DAY, is_call)
                # in float32 a far option is next to nothing beside the roundings of its terms
                size = centre if dtype == "float32" else None
                assert_marks(cupy, device.mark(option, step), host.mark(option, step), dtype, size)


@pytest.mark.gpu
@every_dtype
@pytest.mark.parametrize("bend", [np.inf, 4.0])
@pytest.mark.parametrize("n_features", [1, 5])
def test_any_smile(cupy: ModuleType, n_features: int, bend: float, dtype: str) -> None:
    """Twin: a made-up smile, read within and far beyond what it was fitted to, as to moneyness and to state.

    Catches a derivative, a wing's slope or end, a feature held at the wrong edge, a basis function left out.
    """
    rng = np.random.default_rng(1)
    degrees = total_degree(n_features, 3)
    coefficients = 0.03 * rng.standard_normal((7, len(degrees)))
    coefficients[4:, 1:] = 0.0
    coefficients[0, 0] = 1.0
    made = Smile(2.0, bend, np.full(n_features, -1.0), np.full(n_features, 0.5), degrees, coefficients)
    n_paths = 5_000
    s = rng.uniform(0.2, 0.4, n_paths)
    features, slope = rng.uniform(-1.4, 0.9, (n_features, n_paths)), rng.uniform(1.0, 2.0, n_paths)
    strike = 100.0 * np.exp(rng.uniform(-10.0, 10.0, n_paths) * s)
    is_call = rng.random(n_paths) < 0.5
    host = [values.astype(dtype) for values in (np.full(n_paths, 100.0), strike, s, slope, features)]
    spot, strike, s, slope, features = host
    model = BlackScholes(volatility=0.2, rate=0.03, dividend=0.01)

    def implied(log_moneyness: np.ndarray) -> Implied:
        return from_smile(made, log_moneyness, s, features, 0.5, slope)

    expected = smile_marks(Contract(spot, strike, is_call), 0.5, 0.03, 0.01, implied)
    state = cupy.asarray(np.concatenate([s[None], slope[None], features]))
    contract = Contract(*(cupy.asarray(values) for values in (spot, strike, is_call)))
    ours = fitted_marks(contract, 0.5, model, made, state, 0.5)
    assert_marks(cupy, Greeks(*ours), Greeks(*expected), dtype)


class Watch:
    """What a device is asked to do: kernels of our own by name, products of matrices. Anything else is refused."""

    def __init__(self, cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        compiled, product = hedgerl.sim.device._compiled, cupy.ndarray.__matmul__

        def noted(name: str, *where: Any) -> Any:
            self.seen.append(name)
            return compiled(name, *where)

        def multiplied(left: Any, right: Any) -> Any:
            self.seen.append("product")
            return product(left, right)

        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise AssertionError("a mark that is repeated must not wait for the device or compute there by the way")

        monkeypatch.setattr(hedgerl.sim.device, "_compiled", noted)
        monkeypatch.setattr(cupy.ndarray, "__matmul__", multiplied)
        for name in "get item tolist __bool__ __float__ __int__ __add__ __mul__ __sub__ __truediv__".split():
            monkeypatch.setattr(cupy.ndarray, name, refuse)
        for name in "array concatenate exp full isfinite log maximum ones sqrt stack where zeros".split():
            monkeypatch.setattr(cupy, name, refuse)
        sent = cupy.asarray
        monkeypatch.setattr(cupy, "asarray", lambda a, dtype=None: (sent if isinstance(a, cupy.ndarray) else refuse)(a))


@pytest.mark.gpu
@every_model
def test_a_mark_is_a_few_kernels(cupy: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Behaviour: a mark that is repeated asks nothing of the host and goes through our kernels.

    Catches what is computed or sent anew at each mark, and a strike by path that is looked through at each.
    """
    model = MODELS[name][0]
    paths = simulate(name, backend="cupy")
    market = model.market(paths)
    strikes, rights = paths.spot[0] * 1.01, paths.spot[0] > 0
    options = [Option(100.0, N_STEPS * DAY, is_call=False), Option(strikes, N_STEPS * DAY, rights)]
    smiled = {"gbm": ["implied"], "heston": ["heston_marks"], "heston table": ["heston_marks"]}
    later = {"rbergomi": ["product", "curve_features", "smile"]}
    expected = {
        0: smiled.get(name, ["curve_features", "smile"]),
        3: later.get(name, smiled.get(name, ["curve_features", "smile"])),
        N_STEPS - 1: smiled.get(name, ["implied"]),
    }
    for step in expected:
        market.mark(options[0], step)
    market.mark(options[1], 0)
    fresh = model.market(paths)  # what is kept does not hang on a market
    watch = Watch(cupy, monkeypatch)
    for step, names in expected.items():
        for option in options:
            watch.seen.clear()
            fresh.mark(option, step)
            assert watch.seen == names


@pytest.mark.gpu
def test_strikes_on_a_device_are_checked(cupy: ModuleType) -> None:
    """Behaviour: a bad strike is refused whenever it is asked for, though good ones are looked through once.

    Catches a check that is left out on a device, and one that takes an array for another at the same place in memory.
    """
    market = MODELS["gbm"][0].market(simulate("gbm", backend="cupy"))
    for bad, shown in ((np.nan, "nan"), (-1.0, "-1.0"), (0.0, "0.0"), (np.inf, "inf")):
        for _ in range(3):
            good = cupy.full(N_PATHS, 100.0)
            market.mark(Option(good, N_STEPS * DAY), 0)
            del good
            strikes = np.full(N_PATHS, 100.0)
            strikes[7] = bad
            for given in (cupy.asarray(strikes), strikes, bad):
                for _ in range(2):
                    with pytest.raises(ValueError, match=f"^strike must be positive and finite, got {shown}$"):
                        market.mark(Option(given, N_STEPS * DAY), 0)
    expiries = cupy.full(N_PATHS, 2 * DAY)
    market.mark(Option(100.0, expiries), 1)
    with pytest.raises(ValueError, match="^expiry_years must not lie before the step's time"):
        market.mark(Option(100.0, expiries), 3)
    with pytest.raises(ValueError, match=r"^expiry_years must be finite numbers, got "):
        market.mark(Option(100.0, expiries * np.nan), 1)
    fewer = MODELS["gbm"][0].market(simulate("gbm", 10, backend="cupy"))
    with pytest.raises(ValueError, match=r"^expiry_years must be a number or have shape \(10,\), got \(600,\)$"):
        fewer.mark(Option(100.0, expiries), 1)


@pytest.mark.gpu
def test_what_is_known_of_an_array_goes_with_it(cupy: ModuleType) -> None:
    """Behaviour: nothing is known of another array, were it at the same place, and nothing is left over."""
    known, array = _Known(), cupy.ones(3)
    assert known.keep(array, 7) == known.get(array) == 7
    assert known.get(array[:]) is None
    del array
    assert not known._of


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["gbm", "heston", "rbergomi"])
def test_what_is_not_finite_stays_so(cupy: ModuleType, name: str) -> None:
    """Behaviour: a path without a spot or a variance has no marks. Catches a floor that makes a price of NaN."""
    model = MODELS[name][0]
    paths = simulate(name, backend="cupy")
    spot, variance = paths.spot.copy(), paths.variance.copy()
    spot[2, 5] = np.nan
    variance[2, 6] = np.nan
    marks = model.market(dataclasses.replace(paths, spot=spot, variance=variance)).mark(Option(100.0, 5 * DAY), 2)
    for greek in ("price", "delta", "gamma", "vega", "theta"):
        expected = np.arange(N_PATHS) == 5
        if name != "gbm":  # where all paths share their variance
            expected[6] = True
        np.testing.assert_array_equal(np.isnan(getattr(marks, greek).get()), expected, err_msg=greek)


@pytest.mark.gpu
@every_model
def test_marks_on_a_second_device(cupy: ModuleType, name: str) -> None:
    """Identity: what is kept for one device serves no other. Catches a cache without the device in its key."""
    if cupy.cuda.runtime.getDeviceCount() < 2:
        devices = [0, 0]
    else:
        devices = [0, 1]
    option, found = Option(101.0, N_STEPS * DAY), []
    for number in devices:
        with cupy.cuda.Device(number):
            mark = MODELS[name][0].market(simulate(name, backend="cupy")).mark(option, 3)
            found.append([getattr(mark, greek).get() for greek in ("price", "delta", "gamma", "vega", "theta")])
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.gpu
@every_model
def test_saved_paths_come_back(cupy: ModuleType, tmp_path: Path, name: str) -> None:
    """Round trip from the device to the disk. Catches a file written from memory that the host does not see."""
    model, spread = MODELS[name]
    paths = simulate(name, 50, perturb=spread, backend="cupy")
    option = Option(100.0, DAY)
    save(paths, tmp_path / "set", {"call": option})
    back, host = load(tmp_path / "set", verify=True), on_host(paths)
    assert back.ranges == paths.ranges
    for ours, theirs in [(back.spot, host.spot), (back.variance, host.variance)]:
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in [(back.parameters, host.parameters), (back.state, host.state)]:
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key])
    marked = load_marks(tmp_path / "set")["call"].greeks
    market = model.market(paths)
    for step in (0, 1):
        mark = market.mark(option, step)
        for greek in ("price", "delta", "gamma", "vega", "theta"):
            np.testing.assert_array_equal(getattr(marked, greek)[step], getattr(mark, greek).get())
    assert json.loads((tmp_path / "set" / "meta.json").read_text())["backend"] == "cupy"


def test_all_of_it_on_the_stand_in() -> None:
    """Runs everything marked `gpu`, here and beside, in a process whose CuPy is the stand-in; no other test sees it."""
    if shutil.which("g++") is None:
        pytest.skip("g++, which compiles the kernels for the stand-in, is not installed")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_", "HYPOTHESIS_"))
    }
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT / "tests" / "standin_cupy"), os.environ.get("PYTHONPATH")])
    )
    plugins = ["-p", "no:cacheprovider", "-p", "no:xdist"]
    tests = [
        str(Path(__file__)),
        str(Path(__file__).with_name("test_parts.py")),
        *(str(ROOT / "tests" / "agents" / f"{name}.py") for name in ("test_device", "test_tensor_rollouts")),
        *(str(ROOT / "tests" / folder) for folder in ("pricing", "execution", "envs")),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *plugins, *tests],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    summary = done.stdout.strip().rpartition("\n")[2]
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.match(r"\d+ passed", summary), summary
    assert "skipped" not in summary


SPLIT: dict[str, dict[str, Any]] = {"whole": {}, "antithetic": {"antithetic": True}, "perturbed": {"perturb": None}}


@pytest.mark.gpu
@pytest.mark.parametrize("how", SPLIT)
@pytest.mark.parametrize("name", ["gbm", "heston", "rbergomi"])
def test_paths_of_several_devices(cupy: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, how: str) -> None:
    """Identity: paths made on two devices and gathered are those of one, to the last bit, and lie on the first named.

    Catches a part with the noise of another, arrays that meet on different devices, a draw of parameters by part.
    """
    devices = [1, 0]
    if cupy.cuda.runtime.getDeviceCount() < 2:
        devices = [0]
    monkeypatch.setattr(hedgerl.sim.model, "DEVICE_PATHS", 1024)
    monkeypatch.setattr(hedgerl.sim.parts, "DEVICE_PATHS", 1024)
    model, ranges = MODELS[name]
    options = SPLIT[how] | ({"perturb": ranges} if "perturb" in SPLIT[how] else {})
    n_paths = 9 * 1024 + 130
    simulate = functools.partial(model.simulate, n_steps=N_STEPS, maturity=N_STEPS * DAY, seed=5, **options)
    told = []
    joined = simulate_on_devices(devices, simulate, n_paths, lambda done, total: told.append((done, total)))
    whole = simulate(n_paths, backend="cupy")
    assert joined.spot.device == cupy.cuda.Device(devices[0])
    assert told[-1] == (n_paths, n_paths)
    assert joined.seed == 5
    assert joined.ranges == whole.ranges
    for ours, theirs in [(joined.state, whole.state), (joined.parameters, whole.parameters)]:
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key].get(), theirs[key].get(), err_msg=key)
    np.testing.assert_array_equal(joined.spot.get(), whole.spot.get())
    np.testing.assert_array_equal(joined.variance.get(), whole.variance.get())


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ([], "devices must name a CUDA device at least, got none"),
        ([0, 99], "devices must be numbers of CUDA devices, of which there are [0-9]+, got 99"),
        ([-1], "devices must be a whole number of at least 0, got -1"),
        ([0, 0], r"devices must name each CUDA device once, got \[0, 0\]"),
    ],
)
def test_what_are_no_devices(cupy: ModuleType, devices: list[int], message: str) -> None:
    """Behaviour: refused before anything is simulated."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        simulate_on_devices(devices, functools.partial(simulate, "gbm"), 100)


@pytest.mark.gpu
def test_an_error_on_one_device_ends_the_others(cupy: ModuleType) -> None:
    """Behaviour: the error comes through, and nobody goes on. Catches a part that is missing without a word."""
    calls = []

    def broken(n_paths: int, part: tuple[int, int], **more: Any) -> Paths:
        calls.append(part)
        if len(calls) > 1:
            raise MemoryError("no more")
        return simulate("gbm", n_paths, part=part, **{"seed": 1} | more)

    with pytest.raises(MemoryError, match="no more"):
        simulate_on_devices([0], broken, 200_000)
    assert len(calls) == 2


@pytest.mark.gpu
def test_the_device_that_is_named_is_used(cupy: ModuleType) -> None:
    """Behaviour: paths are made on the device that torch learns on. Catches `device=cuda:1` that works on two."""
    last = cupy.cuda.runtime.getDeviceCount() - 1
    try:
        use_device(f"cuda:{last}")
        assert simulate("gbm", backend="cupy").spot.device == cupy.cuda.Device(last)
        use_device("cpu")
        assert cupy.cuda.Device().id == last
    finally:
        use_device("cuda")
    assert cupy.cuda.Device().id == 0
