"""Parameters drawn by path: kept, in range, and effective."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest

from hedgerl.sim import GARCH, SABR, BlackScholes, Heston, LogUniform, Model, RoughBergomi, Uniform

ROUGH = RoughBergomi(hurst=0.1, eta=1.5, rho=-0.7, forward_variance=0.04)
CASES: list[tuple[Model, dict[str, tuple[float, float]]]] = [
    (BlackScholes(volatility=0.2), {"volatility": (0.1, 0.4), "drift": (-0.1, 0.2)}),
    (
        Heston(kappa=2.0, theta=0.05, sigma=0.9, rho=-0.7, v0=0.04),
        {"kappa": (1.0, 4.0), "theta": (0.02, 0.1), "sigma": (0.3, 1.2), "rho": (-0.9, -0.2), "v0": (0.01, 0.1)},
    ),
    (ROUGH, {"hurst": (0.05, 0.3), "eta": (0.5, 2.2), "rho": (-0.95, -0.3), "forward_variance": (0.02, 0.1)}),
    (SABR(volatility=0.25, volvol=1.1, rho=-0.6), {"volatility": (0.1, 0.5), "volvol": (0.2, 1.5), "rho": (-0.9, 0.3)}),
    (
        GARCH(omega=2e-6, alpha=0.02, gamma=0.14, beta=0.88),
        {"omega": (1e-6, 4e-6), "alpha": (0.0, 0.04), "gamma": (0.05, 0.15), "beta": (0.8, 0.88)},
    ),
]
every_model = pytest.mark.parametrize(("model", "ranges"), CASES, ids=[type(model).__name__ for model, _ in CASES])


@every_model
def test_draws_are_kept_in_range_and_spread_out(model: Model, ranges: dict[str, tuple[float, float]]) -> None:
    """Statistical: each draw uniform on its range (Kolmogorov-Smirnov) and independent of the other parameters'.

    Catches one stream used for two parameters, and draws thrown away.
    """
    paths = model.simulate(4_000, 21, 21 / 252, 1, perturb=ranges, backend="numpy", dtype="float64")
    assert set(paths.parameters) == set(ranges)
    draws = []
    for name, (low, high) in ranges.items():
        values = paths.parameters[name]
        assert values.shape == (4_000,)
        assert low <= values.min() < values.max() <= high
        assert np.unique(values).size == 4_000
        draws.append((values - low) / (high - low))
        assert kstest(draws[-1], "uniform").pvalue > 1e-4
    correlation = np.corrcoef(np.atleast_2d(draws))
    assert np.abs(correlation - np.eye(len(draws))).max() < 4 / np.sqrt(4_000)
    assert np.isfinite(paths.spot).all()
    assert (paths.variance >= 0).all()


@every_model
def test_each_path_is_that_of_its_own_parameters(model: Model, ranges: dict[str, tuple[float, float]]) -> None:
    """Twin: a path with drawn parameters equals the same path of a model with those parameters. The heart of it.

    Catches a parameter that is drawn and kept but not used, or used in one of two places.
    """
    options: dict[str, Any] = {"seed": 3, "backend": "numpy", "dtype": "float64"}
    paths = model.simulate(40, 21, 21 / 252, perturb=ranges, **options)
    for i in (0, 7, 39):
        alone = model
        for name, values in paths.parameters.items():
            alone = alone.with_parameter(name, float(values[i]))
        expected = alone.simulate(40, 21, 21 / 252, **options)
        np.testing.assert_allclose(paths.spot[:, i], expected.spot[:, i], rtol=1e-5, atol=0)
        np.testing.assert_allclose(paths.variance[:, i], expected.variance[:, i], rtol=1e-5, atol=1e-9)


@every_model
def test_one_parameter_at_a_time_moves_the_paths(model: Model, ranges: dict[str, tuple[float, float]]) -> None:
    """Behaviour: each parameter by itself changes what is simulated, and leaves the noise as it was."""
    options: dict[str, Any] = {"seed": 4, "backend": "numpy", "dtype": "float64"}
    plain = model.simulate(200, 21, 21 / 252, **options)
    for name, bounds in ranges.items():
        moved = model.simulate(200, 21, 21 / 252, perturb={name: bounds}, **options)
        changed = (moved.spot[-1] != plain.spot[-1]) | (moved.variance[-1] != plain.variance[-1])
        assert changed.mean() > 0.95, name
        narrow = getattr(model, name)
        if narrow is None:  # drift: None is the rate
            narrow = model.rate
        still = model.simulate(200, 21, 21 / 252, perturb={name: (narrow, narrow)}, **options)
        np.testing.assert_allclose(still.spot, plain.spot, rtol=1e-5, atol=0, err_msg=name)


def test_larger_eta_and_hurst_show_in_the_log_variance(tools: SimpleNamespace) -> None:
    """Behaviour: in groups of paths by drawn eta and by drawn H the spread of log v_T is eta^2 T^(2H) of that group."""
    paths = ROUGH.simulate(
        40_000, 20, 0.25, 5, perturb={"eta": (0.5, 2.5), "hurst": (0.05, 0.4)}, backend="numpy", dtype="float64"
    )
    eta, hurst = paths.parameters["eta"], paths.parameters["hurst"]
    expected = eta**2 * 0.25 ** (2 * hurst)
    centred = np.log(paths.variance[-1] / 0.04) + 0.5 * expected
    standardised = centred / np.sqrt(expected)
    for values in (eta, hurst):
        group = np.digitize(values, np.quantile(values, [0.2, 0.4, 0.6, 0.8]))
        for i in range(5):
            tools.assert_mean(standardised[group == i] ** 2, 1.0)
    low, high = centred[eta < 1].var(), centred[eta > 2].var()
    assert high > 4 * low


def test_mean_variance_and_spot_hold_with_drawn_parameters(tools: SimpleNamespace) -> None:
    """Identity: E[v_t] = mean of the drawn xi_0, E[S_t] = forward. Catches a compensator of the unperturbed model."""
    paths = ROUGH.simulate(
        40_000,
        20,
        0.25,
        6,
        perturb={
            "eta": (0.2, 1.2),
            "hurst": (0.05, 0.4),
            "rho": (-0.9, 0.2),
            "forward_variance": LogUniform(0.01, 0.1),
        },
        backend="numpy",
        dtype="float64",
    )
    tools.assert_mean(paths.variance[1:] - paths.parameters["forward_variance"])
    tools.assert_mean(paths.spot[1:], 100.0)


def test_a_distribution_and_its_pair_are_the_same() -> None:
    """Twin: (low, high) means Uniform; LogUniform gives equal odds to equal ratios."""
    options: dict[str, Any] = {"seed": 7, "backend": "numpy", "dtype": "float64"}
    pair = ROUGH.simulate(2_000, 2, 0.1, perturb={"eta": (0.5, 2.0)}, **options)
    named = ROUGH.simulate(2_000, 2, 0.1, perturb={"eta": Uniform(0.5, 2.0)}, **options)
    np.testing.assert_array_equal(pair.parameters["eta"], named.parameters["eta"])
    np.testing.assert_array_equal(pair.spot, named.spot)
    ratio = ROUGH.simulate(2_000, 2, 0.1, perturb={"eta": LogUniform(0.5, 2.0)}, **options)
    uniform = (np.log(ratio.parameters["eta"]) - np.log(0.5)) / np.log(4.0)
    assert kstest(uniform, "uniform").pvalue > 1e-4


def test_draws_depend_on_the_path_and_its_seed_alone() -> None:
    """Identity: n_paths, threads, and one parameter more leave the draws; another seed changes them."""
    options: dict[str, Any] = {"backend": "numpy", "dtype": "float64"}
    many = ROUGH.simulate(5_000, 3, 0.1, 8, perturb={"eta": (0.5, 2.0)}, threads=2, **options)
    few = ROUGH.simulate(1_500, 3, 0.1, 8, perturb={"eta": (0.5, 2.0), "rho": (-0.9, 0.0)}, threads=1, **options)
    np.testing.assert_array_equal(many.parameters["eta"][:1_500], few.parameters["eta"])
    prefix = ROUGH.simulate(1_500, 3, 0.1, 8, perturb={"eta": (0.5, 2.0)}, threads=1, **options)
    np.testing.assert_array_equal(many.spot[:, :1_500], prefix.spot)
    other = ROUGH.simulate(1_500, 3, 0.1, 9, perturb={"eta": (0.5, 2.0)}, **options)
    assert (other.parameters["eta"] != few.parameters["eta"]).all()


def test_hurst_by_path_does_not_depend_on_the_company() -> None:
    """Identity: with H drawn by path, more paths begin with the fewer. Catches weights fitted to the sample at hand."""
    options: dict[str, Any] = {"backend": "numpy", "dtype": "float64", "perturb": {"hurst": (0.05, 0.3)}}
    many, few = ROUGH.simulate(3_000, 20, 0.1, 10, **options), ROUGH.simulate(100, 20, 0.1, 10, **options)
    np.testing.assert_array_equal(many.parameters["hurst"][:100], few.parameters["hurst"])
    np.testing.assert_array_equal(many.variance[:, :100], few.variance)
    np.testing.assert_array_equal(many.spot[:, :100], few.spot)
