"""Every generator against its plain twin: blocks, buffers and reused scratch must not change a number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hedgerl.sim import GARCH, SABR, BlackScholes, Heston, Model, RoughBergomi, plain

REAL: dict[str, Any] = {"spot": 50.0, "rate": 0.03, "dividend": 0.015}
MODELS: dict[str, Model] = {
    "gbm": BlackScholes(volatility=0.2),
    "gbm drift": BlackScholes(volatility=0.4, drift=0.08, **REAL),
    "heston": Heston(kappa=2.0, theta=0.05, sigma=0.9, rho=-0.7, v0=0.04),  # Feller's condition fails
    "heston drift": Heston(kappa=6.0, theta=0.04, sigma=0.3, rho=0.5, v0=0.09, drift=-0.05, **REAL),
    "heston from 0": Heston(kappa=1.0, theta=0.04, sigma=0.5, rho=-0.5, v0=0.0, **REAL),
    "rbergomi": RoughBergomi(hurst=0.07, eta=1.9, rho=-0.9, forward_variance=0.235**2),
    "rbergomi sloped": RoughBergomi(
        hurst=0.2, eta=1.2, rho=-0.6, forward_variance=((0.0, 0.05, 0.2), (0.02, 0.08, 0.04)), drift=0.1, **REAL
    ),
    "rbergomi function": RoughBergomi(
        hurst=0.45, eta=0.5, rho=1.0, forward_variance=lambda times: 0.04 + 0.1 * times, **REAL
    ),
    "sabr": SABR(volatility=0.25, volvol=1.1, rho=-0.6),
    "sabr drift": SABR(volatility=0.15, volvol=0.4, rho=0.3, drift=0.12, **REAL),
    "garch": GARCH(omega=2e-6, alpha=0.02, gamma=0.14, beta=0.89),
    "garch drift": GARCH(omega=4e-6, alpha=0.05, gamma=0.0, beta=0.85, v0=0.09, drift=0.07, **REAL),
}
N_STEPS, YEARS = 70, 70 / 252  # whole days, as GARCH asks; more steps than `lower_triangular_product` takes at a time
N_PATHS = 1_500  # more than a stream's


@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"),
    # float32 adds up 70 roundings of the log price. Where QE ends at 0 the relative error of a variance says little.
    [("float64", 1e-10, 1e-13), ("float32", 1e-4, 1e-5)],
)
@pytest.mark.parametrize("name", MODELS)
def test_generator_is_its_plain_twin(name: str, dtype: str, rtol: float, atol: float) -> None:
    """Twin, on the same noise. Catches a stale buffer, a wrong row, a drift or a dividend lost, a term out of order."""
    model = MODELS[name]
    noise = np.random.default_rng(1).standard_normal((model.n_noise, N_STEPS, N_PATHS))
    paths = model.simulate(N_PATHS, N_STEPS, YEARS, noise=noise, backend="numpy", dtype=dtype)
    spot, variance = plain.simulate(model, noise, YEARS)
    assert paths.spot.dtype == paths.variance.dtype == np.dtype(dtype)
    assert spot.shape == variance.shape == (N_STEPS + 1, N_PATHS)
    np.testing.assert_allclose(paths.spot, spot, rtol=rtol, atol=0)
    np.testing.assert_allclose(paths.variance, variance, rtol=rtol, atol=atol)


def test_every_model_has_a_plain_twin() -> None:
    """Catches a model that is added without one, here or in `plain`."""
    shipped = {each for each in Model.__subclasses__() if each.__module__.startswith("hedgerl.")}
    assert {type(model) for model in MODELS.values()} == shipped


def test_a_model_without_a_twin_is_refused() -> None:
    """Catches a subclass whose dynamics differ and which would be given its parent's."""

    class Other(BlackScholes):
        """The same, for all that `plain` can know."""

    with pytest.raises(ValueError, match="model must have a plain twin, got Other"):
        plain.simulate(Other(volatility=0.2), np.zeros((1, 2, 3)), 0.1)
