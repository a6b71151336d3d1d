"""GJR-GARCH against its recursion, its moments and the maximum-likelihood fit of `arch`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hedgerl.sim import GARCH

DAY = 1 / 252
TRUE: dict[str, float] = {"omega": 2e-6, "alpha": 0.02, "gamma": 0.12, "beta": 0.9}


def plain_loop(
    noise: np.ndarray, h: float, growth: float, omega: float, alpha: float, gamma: float, beta: float
) -> Any:
    """One path, a step a turn: log spot over its start, and the variance of each step and of the next."""
    log_spot, logs, variances = 0.0, [0.0], [h]
    for z in noise:
        shock = h**0.5 * z
        log_spot += growth - h / 2 + shock
        h = omega + (alpha + (gamma if shock < 0 else 0.0)) * shock**2 + beta * h
        logs.append(log_spot)
        variances.append(h)
    return np.array(logs), np.array(variances)


@pytest.mark.parametrize("v0", [None, 0.09])
def test_paths_against_a_plain_loop(v0: float | None) -> None:
    """Twin. Catches the asymmetry on the wrong sign, h updated before it is used, daily and yearly units mixed."""
    model = GARCH(**TRUE, v0=v0, spot=50.0, rate=0.04, dividend=0.01)
    noise = np.random.Generator(np.random.PCG64(1)).standard_normal((1, 80, 12))
    paths = model.simulate(12, 80, 80 / 252, noise=noise, dtype="float64", backend="numpy")
    start = TRUE["omega"] / (1 - 0.02 - 0.06 - 0.9) if v0 is None else v0 / 252
    for i in range(12):
        logs, variances = plain_loop(noise[0, :, i], start, 0.03 / 252, **TRUE)
        np.testing.assert_allclose(paths.spot[:, i], 50.0 * np.exp(logs), rtol=1e-11, atol=0)
        np.testing.assert_allclose(paths.variance[:, i], 252 * variances, rtol=1e-11, atol=0)


def test_recursion_holds_between_the_returned_rows() -> None:
    """Identity on a seeded simulation: each variance follows from the return before it. Catches rows out of step."""
    paths = GARCH(**TRUE, rate=0.02).simulate(500, 100, 100 / 252, 7, dtype="float64", backend="numpy")
    h = paths.variance * DAY
    shock = np.diff(np.log(paths.spot), axis=0) - 0.02 * DAY + h[:-1] / 2
    expected = 2e-6 + (0.02 + 0.12 * (shock < 0)) * shock**2 + 0.9 * h[:-1]
    np.testing.assert_allclose(h[1:], expected, rtol=1e-9, atol=0)


def test_moments(tools: SimpleNamespace) -> None:
    """Statistical at each step: E[v_t] returns to the long-run variance at the rate of the persistence; E[S_t] =
    forward.

    Catches a persistence with gamma counted in full or not at all.
    """
    long_run = 2e-6 / 0.02 * 252
    model = GARCH(**TRUE, v0=0.06, rate=0.05, dividend=0.02)
    assert model.persistence == pytest.approx(0.98)
    assert model.long_run_variance == pytest.approx(long_run)
    paths = model.simulate(50_000, 126, 0.5, 8, backend="numpy", threads=1, dtype="float64")
    steps = np.arange(1, 127)
    # the first variance after v0 is fixed by one return only; its mean is exact all the same
    tools.assert_mean(paths.variance[1:], long_run + (0.06 - long_run) * 0.98**steps)
    tools.assert_mean(paths.spot[1:], 100 * np.exp(0.03 * paths.times[1:]))
    # standardised returns are standard normal and uncorrelated
    normal = (np.diff(np.log(paths.spot), axis=0) - 0.03 * DAY) / np.sqrt(paths.variance[:-1] * DAY)
    normal += 0.5 * np.sqrt(paths.variance[:-1] * DAY)
    tools.assert_mean(normal)
    tools.assert_mean(normal**2, 1.0)
    tools.assert_mean(normal[1:] * normal[:-1])


def test_unconditional_variance_of_long_paths(tools: SimpleNamespace) -> None:
    """Statistical: after two years the variance has forgotten its start and averages to the long-run one."""
    model = GARCH(**TRUE, v0=0.2)
    paths = model.simulate(20_000, 504, 2.0, 9, backend="numpy", threads=1)
    tools.assert_mean(np.asarray(paths.variance[-20:], np.float64), model.long_run_variance * (1 + 7 * 0.98**484))


def test_no_arch_effect_is_black_scholes() -> None:
    """Limit: alpha = gamma = 0 from the long-run variance is a random walk of constant variance."""
    model = GARCH(omega=4e-6, alpha=0.0, gamma=0.0, beta=0.96)
    paths = model.simulate(50, 30, 30 / 252, 10, dtype="float64", backend="numpy")
    np.testing.assert_allclose(paths.variance, 1e-4 * 252, rtol=1e-12, atol=0)


@pytest.mark.slow
def test_fit_recovers_the_parameters() -> None:
    """Statistical: a fit to 15,000 simulated returns finds them within 4 of the standard errors that `arch` states.

    Catches percent returns taken for decimals, `o` and `p` swapped and v0 in daily units.
    """
    from arch import arch_model

    path = GARCH(**TRUE).simulate(1, 15_000, 15_000 / 252, 11, dtype="float64", backend="numpy")
    returns = np.diff(np.log(path.spot[:, 0]))
    fitted = GARCH.fit(returns, rate=0.01, spot=42.0)
    assert (fitted.rate, fitted.spot, fitted.steps_per_year) == (0.01, 42.0, 252.0)
    errors = arch_model(100 * returns, mean="Constant", vol="GARCH", p=1, o=1, q=1).fit(disp="off").std_err
    for name, key, unit in (
        ("omega", "omega", 1e-4), ("alpha", "alpha[1]", 1.0), ("gamma", "gamma[1]", 1.0), ("beta", "beta[1]", 1.0)
    ):  # fmt: skip
        error = errors[key] * unit
        assert error < 0.5 * max(TRUE[name], 0.02)
        assert abs(getattr(fitted, name) - TRUE[name]) < 4 * error, name
    # v0 is the variance of the day after the last return, per year
    assert fitted.v0 == pytest.approx(path.variance[-1, 0], rel=0.1)
    assert np.sqrt(fitted.long_run_variance) == pytest.approx(np.sqrt(path.model.long_run_variance), rel=0.1)


def test_a_fitted_model_starts_from_the_last_day() -> None:
    """Behaviour: after a quiet sample ends in a crash, the first simulated variance is high, then falls back."""
    rng = np.random.Generator(np.random.PCG64(12))
    quiet = GARCH(**TRUE).simulate(1, 2_000, 2_000 / 252, 13, dtype="float64", backend="numpy")
    returns = np.append(np.diff(np.log(quiet.spot[:, 0])), [-0.05, 0.02 * rng.standard_normal(), -0.04])
    model = GARCH.fit(returns)
    paths = model.simulate(2_000, 250, 250 / 252, 14, backend="numpy", threads=1)
    assert paths.variance[0, 0] > 2 * model.long_run_variance
    assert paths.variance[-1].mean() < 0.7 * paths.variance[0, 0]


def test_other_step_lengths() -> None:
    """Identity: weekly steps use a 52nd of a year. Catches 252 written into the dynamics."""
    model = GARCH(**TRUE, steps_per_year=52.0)
    paths = model.simulate(5, 26, 0.5, 15, dtype="float64", backend="numpy")
    assert paths.variance[0, 0] == pytest.approx(52 * 1e-4)
    with pytest.raises(ValueError, match="times must be whole numbers of steps"):
        model.simulate(5, 126, 0.5, 15)
