"""What holds for the paths of every generator: seeds, streams, threads, precision, noise from outside, grids, drift."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hedgerl.sim import GARCH, SABR, BlackScholes, Heston, Model, Paths, RoughBergomi

MODELS: dict[str, Model] = {
    "gbm": BlackScholes(volatility=0.2),
    "heston": Heston(kappa=2.0, theta=0.05, sigma=0.9, rho=-0.7, v0=0.04),  # Feller's condition fails
    "rbergomi": RoughBergomi(hurst=0.07, eta=1.9, rho=-0.9, forward_variance=0.235**2),
    "sabr": SABR(volatility=0.25, volvol=1.1, rho=-0.6),
    "garch": GARCH(omega=2e-6, alpha=0.02, gamma=0.14, beta=0.89),
}
every_model = pytest.mark.parametrize("name", MODELS)
STEPS, YEARS = 63, 0.25  # whole trading days, as GARCH asks


def simulate(name: str, n_paths: int, seed: int | None = 1, **options: Any) -> Paths:
    return MODELS[name].simulate(n_paths, STEPS, YEARS, seed, backend="numpy", **{"threads": 1, **options})


def assert_same(first: Paths, second: Paths, n_paths: int | None = None) -> None:
    """Byte for byte, over the first `n_paths` of each."""
    part = (slice(None), slice(n_paths))
    np.testing.assert_array_equal(first.spot[part], second.spot[part])
    np.testing.assert_array_equal(first.variance[part], second.variance[part])
    assert first.state.keys() == second.state.keys()
    for key in first.state:
        np.testing.assert_array_equal(first.state[key][part], second.state[key][part])


@every_model
def test_shapes_and_first_row(name: str) -> None:
    """Identity. Catches paths transposed or a first row that is already moved."""
    paths = simulate(name, 7)
    assert paths.spot.shape == paths.variance.shape == (STEPS + 1, 7)
    assert (paths.n_steps, paths.n_paths) == (STEPS, 7)
    assert paths.spot.dtype == paths.variance.dtype == np.float32
    np.testing.assert_allclose(paths.times, np.linspace(0, YEARS, STEPS + 1), rtol=1e-14, atol=0)
    np.testing.assert_allclose(paths.spot[0], 100.0, rtol=1e-6, atol=0)
    assert np.unique(paths.variance[0]).size == 1
    assert (paths.spot > 0).all()
    assert (paths.variance >= 0).all()


@every_model
@pytest.mark.parametrize("antithetic", [False, True])
def test_more_paths_begin_with_the_fewer(name: str, antithetic: bool) -> None:
    """Identity: path i depends on (seed, i) alone. Catches streams that are cut by n_paths; crosses stream borders."""
    many = simulate(name, 5_000, antithetic=antithetic)
    for fewer in (2, 1_000, 1_024, 1_026, 4_098):
        assert_same(many, simulate(name, fewer, antithetic=antithetic), fewer)


@every_model
def test_threads_do_not_change_a_byte(name: str) -> None:
    """Identity, over more blocks than threads. Catches blocks that share a stream or a scratch array."""
    one = simulate(name, 20_000, threads=1)
    for threads in (2, 3):
        assert_same(one, simulate(name, 20_000, threads=threads))


@every_model
def test_every_path_has_noise_of_its_own(name: str) -> None:
    """Identity. Catches streams that repeat from block to block: processes sharing one stream."""
    paths = simulate(name, 20_000, dtype="float64")
    assert np.unique(paths.spot[-1]).size == 20_000
    if name != "gbm":
        # the exponential branch of QE puts some variances at exactly 0
        moved = paths.variance[-1][paths.variance[-1] > 0]
        assert np.unique(moved).size == moved.size


@every_model
def test_seeds(name: str) -> None:
    """Identity. Catches `if seed:`, which drops seed 0, and fresh entropy that is not kept."""
    zero = simulate(name, 50, seed=0)
    assert zero.seed == 0
    assert_same(zero, simulate(name, 50, seed=0))
    fresh = simulate(name, 50, seed=None)
    assert fresh.seed is not None
    assert fresh.seed != simulate(name, 50, seed=None).seed
    assert_same(fresh, simulate(name, 50, seed=fresh.seed))
    ends = [simulate(name, 50, seed=seed).spot[-1] for seed in (0, 1, 2, fresh.seed)]
    for i, first in enumerate(ends):
        for second in ends[i + 1 :]:
            assert (first != second).all()


@every_model
def test_neighbouring_seeds_are_independent(name: str, tools: SimpleNamespace) -> None:
    """Statistical: final returns under seeds 0 to 3 are uncorrelated, path by path. Catches seeds that are added up."""
    returns = np.stack([np.log(simulate(name, 4_000, seed=seed, dtype="float64").spot[-1] / 100) for seed in range(4)])
    returns = (returns - returns.mean(axis=1, keepdims=True)) / returns.std(axis=1, keepdims=True)
    products = [returns[i] * returns[j] for i in range(4) for j in range(i)]
    shifted = [returns[0, 1024:2048] * returns[0, :1024], returns[0, 1:] * returns[0, :-1]]
    tools.assert_z([float(tools.z_scores(product)) for product in products + shifted])


@every_model
def test_float32_is_float64_seen_less_sharply(name: str) -> None:
    """Twin: the same seed in both precisions. Catches a dtype that changes the draws, and sums lost in float32.

    1e-4 relative holds for every spot. A variance after 63 steps adds up as many roundings of the log variance; where
    QE's branch ends at 0, a relative error means little, so that variance is held to 1e-4 of its size plus 1e-5.
    """
    single, double = simulate(name, 5_000), simulate(name, 5_000, dtype="float64")
    assert double.spot.dtype == np.float64
    np.testing.assert_allclose(single.spot, double.spot, rtol=1e-4, atol=0)
    np.testing.assert_allclose(single.variance, double.variance, rtol=1e-4, atol=1e-5)


@every_model
def test_antithetic_pairs(name: str) -> None:
    """Identity: paths 2i and 2i + 1 carry opposite noise, and the even ones are new. Catches pairs set side by side.

    Where noise enters a quantity linearly the pair adds up to a constant: the first step's return at a fixed variance
    (not Heston's, whose first return holds the new variance too), W in rough Bergomi, log alpha in SABR.
    """
    paths = simulate(name, 3_000, antithetic=True, dtype="float64")
    first, second = slice(0, None, 2), slice(1, None, 2)
    log_spot = np.log(paths.spot)
    assert np.corrcoef((log_spot[1] - log_spot[0])[first], (log_spot[1] - log_spot[0])[second])[0, 1] < -0.98
    if name != "heston":
        pairs = log_spot[1, first] + log_spot[1, second]
        np.testing.assert_allclose(pairs, pairs[0], rtol=0, atol=1e-12)
    if name == "rbergomi":
        np.testing.assert_array_equal(paths.state["driver"][:, first], -paths.state["driver"][:, second])
    if name == "sabr":
        pairs = np.log(paths.variance[:, first]) + np.log(paths.variance[:, second])
        np.testing.assert_allclose(pairs, np.broadcast_to(pairs[:, :1], pairs.shape), rtol=0, atol=1e-11)
    assert np.unique(paths.spot[-1]).size == 3_000


@every_model
def test_noise_from_outside(name: str) -> None:
    """Identity: paths are a function of the noise; opposite noise gives what `antithetic` gives.
    Catches hidden draws."""
    model = MODELS[name]
    rng = np.random.Generator(np.random.PCG64(5))
    noise = rng.standard_normal((model.n_noise, STEPS, 300))
    kept = noise.copy()
    first = model.simulate(300, STEPS, YEARS, noise=noise, backend="numpy")
    np.testing.assert_array_equal(noise, kept)  # the caller's array is not scratch
    assert first.seed is None
    assert_same(first, model.simulate(300, STEPS, YEARS, noise=noise, backend="numpy"))
    picked = model.simulate(40, STEPS, YEARS, noise=noise[:, :, 100:140], backend="numpy")
    np.testing.assert_allclose(picked.spot, first.spot[:, 100:140], rtol=1e-6, atol=0)
    np.testing.assert_allclose(picked.variance, first.variance[:, 100:140], rtol=2e-6, atol=1e-12)
    still = model.simulate(2, STEPS, YEARS, noise=np.zeros((model.n_noise, STEPS, 2)), backend="numpy")
    np.testing.assert_array_equal(still.spot[:, 0], still.spot[:, 1])


@every_model
def test_past_does_not_see_later_noise(name: str) -> None:
    """Identity, bit for bit: other noise after step k leaves rows up to k alone. Catches a look-ahead."""
    model = MODELS[name]
    rng = np.random.Generator(np.random.PCG64(6))
    noise = rng.standard_normal((model.n_noise, STEPS, 200))
    first = model.simulate(200, STEPS, YEARS, noise=noise, backend="numpy")
    changed = noise.copy()
    changed[:, 40:] = rng.standard_normal(changed[:, 40:].shape)
    second = model.simulate(200, STEPS, YEARS, noise=changed, backend="numpy")
    np.testing.assert_array_equal(first.spot[:41], second.spot[:41])
    np.testing.assert_array_equal(first.variance[:41], second.variance[:41])
    moves = first.variance[40] > 0  # at a variance of 0 Heston's spot stands still for a step
    assert moves.mean() > 0.5
    assert (first.spot[41] != second.spot[41])[moves].mean() > 0.95


@every_model
def test_grid_given_as_times(name: str) -> None:
    """Twin: `times` at equal distances is n_steps and maturity."""
    times = np.linspace(0.0, YEARS, STEPS + 1)
    given = MODELS[name].simulate(100, times=times, seed=1, backend="numpy", dtype="float64")
    assert_same(simulate(name, 100, dtype="float64"), given)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "garch"])
def test_substeps_are_steps_that_are_not_kept(name: str) -> None:
    """Twin: 9 kept steps of 7 equal those rows of 63 steps. Catches noise or dt that is not cut with the step."""
    fine = simulate(name, 200, dtype="float64")
    coarse = MODELS[name].simulate(200, 9, YEARS, 1, substeps=7, backend="numpy", dtype="float64")
    np.testing.assert_allclose(coarse.times, fine.times[::7], rtol=1e-14, atol=0)
    np.testing.assert_allclose(coarse.spot, fine.spot[::7], rtol=1e-9, atol=0)
    np.testing.assert_allclose(coarse.variance, fine.variance[::7], rtol=1e-9, atol=1e-15)
    assert coarse.grid.fine.size == fine.times.size


def test_garch_keeps_whole_days_of_a_finer_recursion() -> None:
    """Twin: weekly kept times of a daily GARCH are every fifth day of the daily paths."""
    daily = GARCH(omega=2e-6, alpha=0.02, gamma=0.14, beta=0.89).simulate(
        200, times=np.arange(61) / 252, seed=1, backend="numpy", dtype="float64"
    )
    weekly = daily.model.simulate(200, times=np.arange(0, 61, 5) / 252, seed=1, backend="numpy", dtype="float64")
    np.testing.assert_allclose(weekly.spot, daily.spot[::5], rtol=1e-12, atol=0)
    np.testing.assert_allclose(weekly.variance, daily.variance[::5], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "garch"])
def test_mean_spot_on_an_uneven_grid(name: str, tools: SimpleNamespace) -> None:
    """Identity: E[S_t] is the forward with steps from an hour to two months. Catches one dt used for all steps."""
    times = np.array([0.0, 1 / 1764, 2 / 1764, 1 / 252, 2 / 252, 5 / 252, 30 / 252, 31 / 252, 73 / 252, 0.5])
    model = MODELS[name].with_parameter("rate", 0.06).with_parameter("dividend", 0.02)
    paths = model.simulate(50_000, times=times, seed=3, backend="numpy", threads=1)
    tools.assert_mean(np.asarray(paths.spot[1:], np.float64), 100.0 * np.exp(0.04 * times[1:]))


@every_model
def test_drift_replaces_the_rate(name: str) -> None:
    """Identity: a real-world drift multiplies the same paths by exp((drift - rate) t); None means the rate.

    Catches a drift that ignores the dividend or moves the variance.
    """
    model = MODELS[name].with_parameter("rate", 0.03).with_parameter("dividend", 0.01)
    neutral = model.simulate(100, STEPS, YEARS, 2, backend="numpy", dtype="float64")
    same = model.with_parameter("drift", 0.03).simulate(100, STEPS, YEARS, 2, backend="numpy", dtype="float64")
    assert_same(neutral, same)
    real = model.with_parameter("drift", 0.11).simulate(100, STEPS, YEARS, 2, backend="numpy", dtype="float64")
    ratio = np.broadcast_to(np.exp(0.08 * real.times)[:, None], real.spot.shape)
    np.testing.assert_allclose(real.spot / neutral.spot, ratio, rtol=1e-10, atol=0)
    np.testing.assert_allclose(real.variance, neutral.variance, rtol=1e-12, atol=0)


@every_model
def test_spot_only_scales(name: str) -> None:
    """Identity: another initial spot scales the paths and leaves the variance."""
    other = MODELS[name].with_parameter("spot", 2.5).simulate(50, STEPS, YEARS, 1, backend="numpy", dtype="float64")
    base = simulate(name, 50, dtype="float64")
    np.testing.assert_allclose(other.spot, base.spot / 40.0, rtol=1e-12, atol=0)
    np.testing.assert_array_equal(other.variance, base.variance)


def test_progress_counts_up_to_all_paths() -> None:
    """Behaviour: what a progress bar is told."""
    seen: list[tuple[int, int]] = []
    simulate("gbm", 20_000, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (20_000, 20_000)
    assert len(seen) > 1


def test_normals_are_normal_and_independent(tools: SimpleNamespace) -> None:
    """Statistical: moments to the sixth, tails, and no correlation of normals or of their squares over 40 lags.

    Catches a Box-Muller that pairs its halves wrongly, a uniform that is off by a bit, and streams that overlap.
    """
    model = BlackScholes(volatility=1.0)
    paths = model.simulate(20_000, 60, 60.0, 12, backend="numpy", dtype="float64", threads=1)
    normal = np.diff(np.log(paths.spot), axis=0) + 0.5
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0), (6, 15.0)):
        tools.assert_mean(normal**power, moment)
        tools.assert_mean((normal**power).reshape(-1), moment)
    for level, odds in ((1.0, 0.15865525393145707), (3.0, 0.0013498980316300933), (-2.0, 0.9772498680518208)):
        tools.assert_mean((normal > level).reshape(-1), odds)
    for lag in range(1, 41):
        first, second = normal[lag:].reshape(-1), normal[:-lag].reshape(-1)
        tools.assert_mean(np.stack([first * second, (first**2 - 1) * (second**2 - 1), first * (second**2 - 1)]))
    neighbours = normal[:, 1:] * normal[:, :-1]
    tools.assert_mean(neighbours.reshape(-1))
    tools.assert_mean((normal[:, 1024:] * normal[:, :-1024]).reshape(-1))


@pytest.mark.parametrize("name", ["heston", "rbergomi", "sabr"])
def test_noise_rows_are_independent(name: str, tools: SimpleNamespace) -> None:
    """Statistical: at rho = 0 returns and changes of log variance are uncorrelated. Catches one row used twice."""
    model = MODELS[name].with_parameter("rho", 0.0)
    paths = model.simulate(20_000, 20, 20 / 252, 4, backend="numpy", dtype="float64", threads=1)
    returns = np.diff(np.log(paths.spot), axis=0)
    moves = np.diff(paths.variance, axis=0)
    returns = returns - returns.mean(axis=1, keepdims=True)
    moves = moves - moves.mean(axis=1, keepdims=True)
    tools.assert_mean(returns * moves)
