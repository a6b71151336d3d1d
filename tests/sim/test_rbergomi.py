"""Rough Bergomi against its definition.

Two ways in. The exact one: log v is linear in the normals that drive it, so feeding unit shocks from outside reads off
the whole map, and with it Var Y, its autocovariance, the compensator and which shocks are seen, all without sampling
error. The statistical one repeats the claims on seeded paths, where the noise and the streams are at work as well.
"""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import hyp2f1, ndtr

from hedgerl.sim import ForwardVarianceCurve, Paths, RoughBergomi

HURSTS = (0.05, 0.1, 0.3)
HORIZONS = [pytest.param(20, 20 / 252, id="20 days"), pytest.param(100, 1.0, id="1 year")]
SLOPED = ForwardVarianceCurve(times=(0.0, 0.05, 1.0), values=(0.03, 0.05, 0.09))
UNEVEN = np.array([0.0, 0.001, 0.004, 0.02, 0.021, 0.05, 0.11, 0.12, 0.3, 0.31, 0.6, 1.0])

# What the hybrid scheme gives away with one exact cell: nothing of Var Y, whose residual makes up for it, but, as
# measured against the closed form on equal steps, up to .0101 of the correlation between neighbouring times, where
# the part of the common cell that its increment does not carry is lost, and .0045 two steps and more apart. Where a
# step is followed by one 30 times shorter, neighbours lose up to .083.
NEIGHBOUR_BIAS = 1.2e-2
FURTHER_BIAS = 5e-3
UNEVEN_BIAS = 0.1


def volterra_covariance(hurst: float, first: Any, second: Any) -> np.ndarray:
    """E[Y_s Y_t] of the Volterra process, (times, times): 2H int_0^s (s - u)^(H - 1/2) (t - u)^(H - 1/2) du."""
    s, t = np.minimum.outer(first, second), np.maximum.outer(first, second)
    power = hurst + 0.5
    return 2 * hurst / power * s**power * t ** (hurst - 0.5) * hyp2f1(0.5 - hurst, 1.0, power + 1.0, s / t)


def driver_covariance(hurst: float, times: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """E[Y_t (W_end - W_start)], (times, cells): sqrt(2H) int (t - s)^(H - 1/2) ds over the part of a cell before t."""
    power = hurst + 0.5
    before_start = np.maximum(times[:, None] - starts, 0.0) ** power
    before_end = np.maximum(times[:, None] - ends, 0.0) ** power
    return np.sqrt(2 * hurst) / power * (before_start - before_end)


def response(model: RoughBergomi, n_fine: int, **grid: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log v without noise, (n + 1,), and its derivatives over eta by W and by the residual, (n + 1, n_fine) each."""
    noise = np.zeros((3, n_fine, 2 * n_fine + 1))
    step = np.arange(n_fine)
    noise[0, step, step] = 1.0
    noise[1, step, n_fine + step] = 1.0
    paths = model.simulate(2 * n_fine + 1, noise=noise, dtype="float64", backend="numpy", threads=1, **grid)
    log_variance = np.log(paths.variance)
    centre = log_variance[:, -1]
    shocked = (log_variance[:, :-1] - centre[:, None]) / model.eta
    return centre, shocked[:, :n_fine], shocked[:, n_fine:]


def simulate(model: RoughBergomi, n_paths: int, n_steps: int, maturity: float, seed: int, **options: Any) -> Paths:
    return model.simulate(n_paths, n_steps, maturity, seed, backend="numpy", threads=1, **options)


@lru_cache(maxsize=1)  # tests of one parameter set run one after another and share the paths
def sloped_paths(hurst: float, n_steps: int, maturity: float) -> Paths:
    """Forty thousand paths on a sloped curve; eta = 1 keeps the mean of the variance normal (see conftest)."""
    model = RoughBergomi(hurst=hurst, eta=1.0, rho=-0.7, forward_variance=SLOPED, rate=0.04, dividend=0.01)
    return simulate(model, 40_000, n_steps, maturity, seed=11, dtype="float64")


def volterra_of(paths: Paths) -> np.ndarray:
    """Y at every time but the first, from the log variance: the mean of its row is the compensator's business."""
    model = paths.model
    assert isinstance(model, RoughBergomi)
    return (np.log(paths.variance[1:]) - np.log(model.initial_curve(paths.times[1:]))[:, None]) / model.eta


def effective(paths: Paths, rho: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Given the variance path: the undiscounted forward of S_T over S_0, int v dt, and its mean, each from the paths.

    Log-Euler with v at the start of each step: log S_T = log S_0 + growth + sum (sqrt(v) dB - v dt / 2).
    """
    steps = np.diff(paths.times)[:, None]
    variance = np.asarray(paths.variance[:-1], dtype=np.float64)
    driver = np.asarray(paths.state["driver"], dtype=np.float64)
    integral = (variance * steps).sum(axis=0)
    forward = np.exp(rho * (np.sqrt(variance) * driver).sum(axis=0) - 0.5 * rho**2 * integral)
    model = paths.model
    assert isinstance(model, RoughBergomi)
    return forward, integral, (model.initial_curve(paths.times[:-1]) * steps[:, 0]).sum()


def smile(tools: SimpleNamespace, paths: Paths, log_strikes: Any) -> tuple[np.ndarray, np.ndarray]:
    """Implied volatilities at maturity, and standard errors, of paths without rates."""
    model = paths.model
    assert isinstance(model, RoughBergomi)
    forward, integral, mean_integral = effective(paths, model.rho)
    return tools.mixed_smile(
        forward,
        (1 - model.rho**2) * integral,
        np.stack([forward - 1.0, integral - mean_integral]),
        forward=1.0,
        strikes=np.exp(log_strikes),
        years=float(paths.times[-1]),
    )


# --- the linear map, without sampling error ------------------------------------------------------------------------


@pytest.mark.parametrize("hurst", HURSTS)
@pytest.mark.parametrize(("n_steps", "maturity"), [(20, 20 / 252), (100, 1.0)])
def test_variance_sees_past_shocks_only(hurst: float, n_steps: int, maturity: float) -> None:
    """Identity. Catches a circular convolution, which puts future shocks into today's variance."""
    model = RoughBergomi(hurst=hurst, eta=1.9, rho=-0.9, forward_variance=0.05)
    _, driver, residual = response(model, n_steps, n_steps=n_steps, maturity=maturity)
    row, shock = np.indices(driver.shape)
    assert (driver[shock >= row] == 0).all()
    assert (driver[shock < row] > 0).all()
    assert (residual[shock != row - 1] == 0).all()  # the residual of a cell belongs to the time at its end alone


@pytest.mark.parametrize("hurst", HURSTS)
@pytest.mark.parametrize(
    "grid",
    [
        pytest.param({"n_steps": 20, "maturity": 20 / 252}, id="20 days"),
        pytest.param({"n_steps": 252, "maturity": 1.0}, id="1 year"),
        pytest.param({"times": UNEVEN}, id="uneven"),
    ],
)
def test_covariance_is_that_of_the_volterra_process(hurst: float, grid: dict[str, Any]) -> None:
    """Identity. Catches the kernel t^(2H) or t^H for t^(H - 1/2), a lost sqrt(2H), a forgotten dt, a shifted kernel."""
    model = RoughBergomi(hurst=hurst, eta=1.9, rho=-0.9, forward_variance=0.05)
    times = np.asarray(grid["times"]) if "times" in grid else np.linspace(0, grid["maturity"], grid["n_steps"] + 1)
    _, driver, residual = response(model, times.size - 1, **grid)
    times, starts, ends = times[1:], times[:-1], times[1:]
    exact = volterra_covariance(hurst, times, times)
    np.testing.assert_allclose(np.diagonal(exact), times ** (2 * hurst), rtol=1e-12, atol=0)
    ours = (driver @ driver.T + residual @ residual.T)[1:, 1:]
    np.testing.assert_allclose(np.diagonal(ours), times ** (2 * hurst), rtol=1e-8, atol=0)
    root = np.sqrt(np.diagonal(exact))
    gap = np.abs(ours - exact) / np.outer(root, root)
    assert gap.max() < (UNEVEN_BIAS if "times" in grid else NEIGHBOUR_BIAS)
    assert np.triu(gap, 2).max() < (NEIGHBOUR_BIAS if "times" in grid else FURTHER_BIAS)
    # the covariance with W itself loses nothing
    with_driver = driver[1:] * np.sqrt(ends - starts)
    np.testing.assert_allclose(with_driver, driver_covariance(hurst, times, starts, ends), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("hurst", HURSTS)
def test_weights_against_quadrature(hurst: float) -> None:
    """Twin. Holds each weight against numerical integration of the kernel; catches a slip in the closed forms."""
    times = np.linspace(0.0, 20 / 252, 21)
    model = RoughBergomi(hurst=hurst, eta=0.7, rho=0.0, forward_variance=0.05)
    _, driver, residual = response(model, 20, times=times)
    dt = times[1]
    for row in (1, 2, 7, 20):
        lost = 0.0
        for cell in range(row):
            start, end, t = times[cell], times[cell + 1], times[row]
            if cell == row - 1:  # the singular end: the quadrature's own weight carries it
                integral = quad(lambda s: 1.0, start, end, weight="alg", wvar=(0.0, hurst - 0.5))[0]
                rest = dt ** (2 * hurst) - 2 * hurst * integral**2 / dt
            else:
                integral = quad(lambda s, t=t: (t - s) ** (hurst - 0.5), start, end)[0]
                square = quad(lambda s, t=t: (t - s) ** (2 * hurst - 1), start, end)[0]
                lost += 2 * hurst * (square - integral**2 / dt)
            expected = np.sqrt(2 * hurst) * integral / np.sqrt(dt)
            np.testing.assert_allclose(driver[row, cell], expected, rtol=1e-6, atol=0)
        # what the increments do not carry: of the cell next to t, and by averaging of the others (.1 %)
        np.testing.assert_allclose(residual[row, row - 1], np.sqrt(rest + lost), rtol=1e-5, atol=0)
        assert lost < 1.5e-3 * times[row] ** (2 * hurst)


@pytest.mark.parametrize("curve", [0.05, SLOPED], ids=["flat", "sloped"])
@pytest.mark.parametrize(("n_steps", "maturity"), HORIZONS)
@pytest.mark.parametrize("hurst", HURSTS)
def test_compensator_makes_the_mean_exact(hurst: float, n_steps: int, maturity: float, curve: Any) -> None:
    """Identity: log v = log xi_0 - eta^2/2 Var Y + a centred normal, so E[v] = xi_0. Catches a drifting E[v_t]."""
    model = RoughBergomi(hurst=hurst, eta=1.9, rho=-0.9, forward_variance=curve)
    centre, driver, residual = response(model, n_steps, n_steps=n_steps, maturity=maturity)
    variance = (driver**2).sum(axis=1) + (residual**2).sum(axis=1)
    times = np.linspace(0.0, maturity, n_steps + 1)
    expected = np.log(model.initial_curve(times)) - 0.5 * model.eta**2 * variance
    np.testing.assert_allclose(centre, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("hurst", HURSTS)
def test_shorter_horizons_scale_by_the_hurst_exponent(hurst: float) -> None:
    """Identity: with the same normals, Y on [0, cT] is c^H times Y on [0, T]. Catches a scheme that forgets dt."""
    model = RoughBergomi(hurst=hurst, eta=1.0, rho=0.0, forward_variance=0.05)
    _, year, year_residual = response(model, 50, n_steps=50, maturity=1.0)
    _, month, month_residual = response(model, 50, n_steps=50, maturity=20 / 252)
    np.testing.assert_allclose(month, year * (20 / 252) ** hurst, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(month_residual, year_residual * (20 / 252) ** hurst, rtol=1e-8, atol=1e-12)
    assert np.abs(month[-1] / year[-1] - 1).min() > 0.1


def test_uneven_grid_shares_the_law_of_the_even_one() -> None:
    """Twin: dropping every time but some from the kept ones changes nothing, and an uneven grid agrees in Var Y."""
    model = RoughBergomi(hurst=0.1, eta=1.0, rho=-0.5, forward_variance=0.05)
    _, fine, fine_residual = response(model, 40, n_steps=40, maturity=0.5)
    times = np.linspace(0.0, 0.5, 41)[[0, 1, 2, 3, 5, 10, 20, 30, 40]]
    _, coarse, coarse_residual = response(model, 8, times=times)
    rows = [1, 2, 3, 5, 10, 20, 30, 40]
    ours = coarse[1:] @ coarse[1:].T + coarse_residual[1:] @ coarse_residual[1:].T
    other = (fine @ fine.T + fine_residual @ fine_residual.T)[np.ix_(rows, rows)]
    np.testing.assert_allclose(np.diagonal(ours), np.diagonal(other), rtol=1e-8, atol=0)
    root = np.sqrt(np.diagonal(other))
    assert (np.abs(ours - other) / np.outer(root, root)).max() < 0.03
    # what the steps share, they share exactly: the map from W to Y over whole cells
    weight_fine = fine[rows] * np.sqrt(0.5 / 40)
    cells = [slice(start, stop) for start, stop in zip([0, *rows[:-1]], rows, strict=True)]
    summed = np.stack([weight_fine[:, cell].sum(axis=1) for cell in cells], axis=1)
    np.testing.assert_allclose(coarse[1:] * np.sqrt(np.diff(times)), summed, rtol=1e-7, atol=1e-12)


def test_the_map_does_not_depend_on_the_spot_noise(rng: np.random.Generator) -> None:
    """Identity: v is driven by W and its residual alone, whatever W' and rho. Catches noise rows swapped."""
    noise = rng.standard_normal((3, 30, 200))
    other = noise.copy()
    other[2] = rng.standard_normal((30, 200))
    model = RoughBergomi(hurst=0.1, eta=1.9, rho=-0.7, forward_variance=0.05)
    first = model.simulate(200, 30, 0.1, noise=noise, backend="numpy")
    second = model.simulate(200, 30, 0.1, noise=other, backend="numpy")
    np.testing.assert_array_equal(first.variance, second.variance)
    np.testing.assert_array_equal(first.state["driver"], second.state["driver"])
    assert (first.spot[1:] != second.spot[1:]).any(axis=1).all()


@pytest.mark.parametrize("hurst", HURSTS)
@pytest.mark.parametrize(("n_steps", "maturity"), HORIZONS)
def test_later_noise_leaves_the_past_as_it_was(
    hurst: float, n_steps: int, maturity: float, rng: np.random.Generator
) -> None:
    """Identity, bit for bit: variance and spot up to step k do not know the noise after k. Catches a look-ahead."""
    model = RoughBergomi(hurst=hurst, eta=1.9, rho=-0.9, forward_variance=SLOPED)
    noise = rng.standard_normal((3, n_steps, 500))
    first = model.simulate(500, n_steps, maturity, noise=noise, backend="numpy")
    for k in (1, n_steps // 2, n_steps - 1):
        changed = noise.copy()
        changed[:, k:] = rng.standard_normal(changed[:, k:].shape)
        second = model.simulate(500, n_steps, maturity, noise=changed, backend="numpy")
        np.testing.assert_array_equal(first.variance[: k + 1], second.variance[: k + 1])
        np.testing.assert_array_equal(first.spot[: k + 1], second.spot[: k + 1])
        np.testing.assert_array_equal(first.state["driver"][:k], second.state["driver"][:k])
        assert (first.variance[k + 1] != second.variance[k + 1]).mean() > 0.99


@pytest.mark.parametrize("rho", [-1.0, -0.9, 0.0, 0.6])
def test_paths_replayed_step_by_step(rho: float, rng: np.random.Generator) -> None:
    """Twin: a plain loop in the order of the paper. Catches v at the wrong end of the step and a wrong sign of rho."""
    model = RoughBergomi(
        hurst=0.07, eta=1.9, rho=rho, forward_variance=SLOPED, spot=50.0, rate=0.03, dividend=0.01, drift=0.08
    )
    n, maturity, hurst = 25, 0.25, 0.07
    noise = rng.standard_normal((3, n, 40))
    paths = model.simulate(40, n, maturity, noise=noise, dtype="float64", backend="numpy")
    times = np.linspace(0.0, maturity, n + 1)
    dt = maturity / n
    log_spot = np.full(40, np.log(50.0))
    variance = np.full(40, model.initial_curve(times[:1])[0])
    for i in range(n):
        np.testing.assert_allclose(paths.spot[i], np.exp(log_spot), rtol=1e-10, atol=0)
        np.testing.assert_allclose(paths.variance[i], variance, rtol=1e-10, atol=0)
        shock = rho * noise[0, i] + np.sqrt(1 - rho**2) * noise[2, i]
        log_spot = log_spot + (0.08 - 0.01 - 0.5 * variance) * dt + np.sqrt(variance * dt) * shock
        t = times[i + 1]
        volterra, spread = np.zeros(40), 0.0
        for j in range(i + 1):
            weight = np.sqrt(2 * hurst) * ((t - times[j]) ** 0.57 - max(t - times[j + 1], 0.0) ** 0.57) / 0.57 / dt
            volterra += weight * np.sqrt(dt) * noise[0, j]
            spread += weight**2 * dt
        volterra += np.sqrt(t ** (2 * hurst) - spread) * noise[1, i]
        variance = model.initial_curve(np.array([t]))[0] * np.exp(1.9 * volterra - 0.5 * 1.9**2 * t ** (2 * hurst))
    np.testing.assert_allclose(paths.spot[n], np.exp(log_spot), rtol=1e-10, atol=0)
    np.testing.assert_allclose(paths.variance[n], variance, rtol=1e-10, atol=0)
    np.testing.assert_allclose(paths.state["driver"], np.sqrt(dt) * noise[0], rtol=1e-12, atol=0)


def test_zero_vol_of_vol_is_black_scholes_along_the_curve(rng: np.random.Generator) -> None:
    """Limit: eta = 0 leaves v = xi_0 and a log-normal spot. Catches a compensator that is not in proportion to eta."""
    model = RoughBergomi(hurst=0.1, eta=0.0, rho=-0.5, forward_variance=SLOPED, rate=0.02)
    noise = rng.standard_normal((3, 12, 50))
    paths = model.simulate(50, 12, 0.5, noise=noise, dtype="float64", backend="numpy")
    times = np.linspace(0.0, 0.5, 13)
    variance = model.initial_curve(times)
    np.testing.assert_allclose(paths.variance, np.broadcast_to(variance[:, None], (13, 50)), rtol=1e-12, atol=0)
    dt = 0.5 / 12
    shocks = -0.5 * noise[0] + np.sqrt(0.75) * noise[2]
    steps = (0.02 - 0.5 * variance[:-1, None]) * dt + np.sqrt(variance[:-1, None] * dt) * shocks
    np.testing.assert_allclose(np.log(paths.spot[-1] / 100), steps.sum(axis=0), rtol=1e-10, atol=1e-12)


def test_forward_variance_given_in_four_ways() -> None:
    """Twin: a number, a curve, a pair and a function that mean the same give the same paths."""
    kinds: list[Any] = [
        0.04,
        ForwardVarianceCurve((0.0, 1.0), (0.04, 0.04)),
        ((0.0, 0.3), (0.04, 0.04)),
        lambda times: np.full(np.shape(times), 0.04),
    ]
    all_paths = [
        simulate(RoughBergomi(hurst=0.1, eta=1.5, rho=-0.8, forward_variance=kind), 20, 10, 0.5, 3) for kind in kinds
    ]
    for other in all_paths[1:]:
        np.testing.assert_allclose(other.variance, all_paths[0].variance, rtol=1e-6, atol=0)
        np.testing.assert_allclose(other.spot, all_paths[0].spot, rtol=1e-6, atol=0)


# --- the same on seeded paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("hurst", HURSTS)
@pytest.mark.parametrize(("n_steps", "maturity"), HORIZONS)
class TestSeededPaths:
    """Statistical; 40,000 paths with a sloped curve, rates and dividends."""

    def test_mean_variance_is_the_forward_curve(
        self, tools: SimpleNamespace, hurst: float, n_steps: int, maturity: float
    ) -> None:
        """E[v_t] = xi_0(t) at each step. Catches a wrong compensator and a biased generator."""
        paths = sloped_paths(hurst, n_steps, maturity)
        tools.assert_mean(paths.variance[1:], SLOPED(paths.times[1:]))
        np.testing.assert_allclose(paths.variance[0], SLOPED(np.zeros(1))[0], rtol=1e-12, atol=0)

    def test_log_variance_has_the_volterra_spread(
        self, tools: SimpleNamespace, hurst: float, n_steps: int, maturity: float
    ) -> None:
        """Var Y_t = t^(2H) at each step."""
        paths = sloped_paths(hurst, n_steps, maturity)
        volterra = volterra_of(paths)
        expected = paths.times[1:] ** (2 * hurst)
        tools.assert_mean(volterra, -0.5 * expected)  # centred at the compensator
        tools.assert_mean((volterra + 0.5 * expected[:, None]) ** 2, expected)

    def test_autocovariance(self, tools: SimpleNamespace, hurst: float, n_steps: int, maturity: float) -> None:
        """E[Y_s Y_t] against the closed form on ten times a fifth of the horizon apart and closer."""
        paths = sloped_paths(hurst, n_steps, maturity)
        rows = np.unique(np.linspace(1, n_steps, 10).astype(int)) - 1
        volterra = volterra_of(paths)[rows]
        volterra -= volterra.mean(axis=1, keepdims=True)
        exact = volterra_covariance(hurst, paths.times[1:][rows], paths.times[1:][rows])
        products = volterra[:, None] * volterra[None]
        error = products.std(axis=-1) / np.sqrt(paths.n_paths)
        root = np.sqrt(np.diagonal(exact))
        gap = np.abs(products.mean(axis=-1) - exact) - FURTHER_BIAS * np.outer(root, root)
        tools.assert_z(np.maximum(gap, 0.0) / error)

    def test_variance_is_uncorrelated_with_later_shocks(
        self, tools: SimpleNamespace, hurst: float, n_steps: int, maturity: float
    ) -> None:
        """corr(log v_t, dW after t) = 0, and before t as the kernel says. Catches future shocks in today's variance."""
        paths = sloped_paths(hurst, n_steps, maturity)
        stride = n_steps // 20
        rows = np.arange(stride, n_steps, stride)  # times t
        cells = np.arange(0, n_steps, stride)  # increments from t_cell on
        driver = paths.state["driver"][cells]
        driver = driver / np.sqrt(maturity / n_steps)
        volterra = volterra_of(paths)[rows - 1]
        volterra = (volterra - volterra.mean(axis=1, keepdims=True)) / volterra.std(axis=1, keepdims=True)
        correlation = volterra @ driver.T / paths.n_paths
        later = cells[None, :] >= rows[:, None]
        assert later.sum() >= 150
        tools.assert_z(correlation[later] * np.sqrt(paths.n_paths))
        times = paths.times
        expected = driver_covariance(hurst, times[rows], times[cells], times[cells + 1])
        expected = expected / times[rows][:, None] ** hurst / np.sqrt(maturity / n_steps)
        assert expected[~later].min() > 0.01
        np.testing.assert_allclose(correlation[~later], expected[~later], rtol=0, atol=4 / 200 + 1e-3)

    def test_mean_spot_is_the_forward(
        self, tools: SimpleNamespace, hurst: float, n_steps: int, maturity: float
    ) -> None:
        """E[S_t] = S_0 exp((r - q) t) at each step. Catches the Ito term left out or at the wrong end of the step."""
        paths = sloped_paths(hurst, n_steps, maturity)
        tools.assert_mean(paths.spot[1:], 100.0 * np.exp(0.03 * paths.times[1:]))


@pytest.mark.parametrize("hurst", HURSTS)
@pytest.mark.parametrize(("n_steps", "maturity"), HORIZONS)
def test_mean_spot_at_a_high_vol_of_vol(tools: SimpleNamespace, hurst: float, n_steps: int, maturity: float) -> None:
    """Identity: E[S_t] at eta = 1.9, rho = -.9, where errors of the correlated part would be large."""
    model = RoughBergomi(hurst=hurst, eta=1.9, rho=-0.9, forward_variance=0.235**2, rate=0.05, dividend=0.02)
    paths = simulate(model, 50_000, n_steps, maturity, seed=5)
    tools.assert_mean(np.asarray(paths.spot[1:], np.float64), 100.0 * np.exp(0.03 * paths.times[1:]))


def test_mean_log_variance_at_a_high_vol_of_vol(tools: SimpleNamespace) -> None:
    """Statistical: E[log v_t] = log xi_0 - eta^2/2 t^(2H), in logarithms as E[v] itself converges too slowly."""
    model = RoughBergomi(hurst=0.07, eta=1.9, rho=-0.9, forward_variance=0.235**2)
    paths = simulate(model, 50_000, 50, 1.0, seed=6)
    expected = np.log(0.235**2) - 0.5 * 1.9**2 * paths.times[1:] ** 0.14
    tools.assert_mean(np.log(np.asarray(paths.variance[1:], np.float64)), expected)


# --- smiles --------------------------------------------------------------------------------------------------------

CELLS = sorted({(1 / 12, 100), (1 / 12, 250), (1.0, 100), (1.0, 250), (0.25, 312)})


@pytest.mark.slow
@pytest.mark.parametrize(("years", "n_steps"), CELLS)
def test_smile_against_golden_values(tools: SimpleNamespace, years: float, n_steps: int) -> None:
    """Golden, at equal n_steps, within 3 combined s.e. Catches whatever the moments above leave open."""
    rows = [
        row
        for row in tools.golden("rbergomi_iv.csv")
        if int(row["n_steps"]) == n_steps and abs(float(row["years"]) - years) < 1e-12
    ]
    assert len(rows) >= 3
    model = RoughBergomi(hurst=0.07, eta=1.9, rho=-0.9, forward_variance=0.235**2, spot=1.0)
    paths = simulate(model, 100_000, n_steps, years, seed=2024)
    ours, errors = smile(tools, paths, [float(row["log_strike"]) for row in rows])
    published = np.array([float(row["volatility_pct"]) for row in rows]) / 100
    published_error = np.array([float(row["error_pct"]) for row in rows]) / 100
    assert errors.max() < 1.5e-3  # else the comparison says nothing
    tools.assert_z((ours - published) / np.hypot(errors, published_error), sigmas=tools.GOLDEN_SIGMAS)


def test_conditional_price_is_the_plain_average(tools: SimpleNamespace) -> None:
    """Twin: payoffs averaged over the spots themselves agree with the estimator that uses variance and driver alone.

    Catches a spot that does not carry the variance and the driver that are returned beside it.
    """
    model = RoughBergomi(hurst=0.07, eta=1.9, rho=-0.9, forward_variance=0.235**2, spot=1.0)
    paths = simulate(model, 40_000, 60, 0.25, seed=8)
    strikes = np.exp(0.235 * 0.5 * np.array([-1.5, -1.0, 0.0, 1.0]))
    forward, integral, _ = effective(paths, -0.9)
    spot = np.asarray(paths.spot[-1], np.float64)
    for strike in strikes:
        is_call = strike >= 1
        payoff = np.maximum(spot - strike if is_call else strike - spot, 0.0)
        conditional = tools.undiscounted_black(forward, strike, (1 - 0.81) * integral, is_call)
        tools.assert_mean(payoff - conditional)


@pytest.mark.parametrize(("years", "published", "error"), [(1 / 12, -0.2111, 6e-4), (1.0, -0.0774, 2e-4)])
def test_skew_follows_the_power_law(tools: SimpleNamespace, years: float, published: float, error: float) -> None:
    """Golden: the at-the-money skew d iv / d log K of an independent program, where it has converged in n_steps.

    eta = .4, H = .1, rho = -.85. Catches a smile whose term structure is that of another roughness. The standard error
    is that of 20 batches; 1 % is allowed for our 400 steps (at 50 steps it is 6 %).
    """
    model = RoughBergomi(hurst=0.1, eta=0.4, rho=-0.85, forward_variance=0.235**2, spot=1.0)
    paths = simulate(model, 40_000, 400, years, seed=4)
    forward, integral, mean_integral = effective(paths, -0.85)
    # controls: the same call and digital under Black-Scholes with the same driver, whose values are known
    total, correlated = 0.235 * np.sqrt(years), -0.85 * 0.235
    driver = np.asarray(paths.state["driver"], np.float64).sum(axis=0)
    plain, plain_root = np.exp(correlated * driver - 0.5 * correlated**2 * years), np.sqrt(1 - 0.85**2) * total
    plain_call = tools.undiscounted_black(plain, 1.0, plain_root**2, True)
    plain_digital = ndtr(np.log(plain) / plain_root - 0.5 * plain_root)
    controls = np.vstack(
        [
            forward - 1.0,
            integral / mean_integral - 1.0,
            driver,
            driver**2 - years,
            plain_call - tools.undiscounted_black(1.0, 1.0, total**2, True),
            plain_digital - ndtr(-0.5 * total),
        ]
    )
    root = np.sqrt((1 - 0.85**2) * integral)
    call = tools.controlled(tools.undiscounted_black(forward, 1.0, root**2, True), controls)
    digital = tools.controlled(ndtr(np.log(forward) / root - 0.5 * root), controls)
    skews = []
    for price, above in zip(call.reshape(20, -1).mean(axis=1), digital.reshape(20, -1).mean(axis=1), strict=True):
        volatility = tools.black_implied_volatility(price, 1.0, 1.0, years, True)
        half = 0.5 * volatility * np.sqrt(years)  # d1 = -d2
        vega = np.sqrt(years / (2 * np.pi)) * np.exp(-0.5 * half**2)
        skews.append((ndtr(-half) - above) / vega)
    own = np.std(skews, ddof=1) / np.sqrt(20)
    assert own < 0.01 * abs(published)
    assert abs(np.mean(skews) - published) < 0.01 * abs(published) + tools.GOLDEN_SIGMAS * np.hypot(own, error)


def test_the_smile_knows_its_horizon(tools: SimpleNamespace) -> None:
    """Behaviour: 20 days and 1 year on as many steps differ in skew by about (20/252)^(H - 1/2). Catches a lost dt."""
    model = RoughBergomi(hurst=0.1, eta=1.0, rho=-0.9, forward_variance=0.05, spot=1.0)
    skews = []
    for years in (20 / 252, 1.0):
        paths = simulate(model, 20_000, 40, years, seed=9)
        k = 0.25 * np.sqrt(0.05 * years)
        (low, high), _ = smile(tools, paths, [-k, k])
        skews.append((high - low) / (2 * k))
    assert skews[0] < skews[1] < 0
    assert 2.0 < skews[0] / skews[1] < 3.5  # (20/252)^-.4 = 2.76 to leading order


def test_variance_risk_premium_lowers_realised_variance_only_by_drift(rng: np.random.Generator) -> None:
    """Identity: dW = dW^P + premium dt shifts log v by eta premium int K and leaves it otherwise. Catches a premium
    that moves the price of options' own dynamics or the noise."""
    noise = rng.standard_normal((3, 40, 30))
    common: dict[str, Any] = {"hurst": 0.1, "eta": 1.2, "rho": -0.8, "forward_variance": 0.04}
    plain = RoughBergomi(**common).simulate(30, 40, 0.5, noise=noise, dtype="float64", backend="numpy")
    priced = RoughBergomi(**common, variance_risk_premium=-0.7).simulate(
        30, 40, 0.5, noise=noise, dtype="float64", backend="numpy"
    )
    integral = np.sqrt(0.2) / 0.6 * plain.times**0.6
    shift = np.log(priced.variance / plain.variance)
    expected = np.broadcast_to(-0.7 * 1.2 * integral[:, None], shift.shape)
    np.testing.assert_allclose(shift, expected, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(priced.state["driver"], plain.state["driver"] - 0.7 * 0.5 / 40, rtol=0, atol=1e-12)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(20240607))
