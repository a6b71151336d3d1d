"""Heston by the quadratic-exponential scheme: moments of the CIR process, martingale, smile, limits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import hedgerl.pricing
from hedgerl.sim import Heston

PARAMETERS: dict[str, dict[str, float]] = {
    "mild": {"kappa": 2.0, "theta": 0.04, "sigma": 0.3, "rho": -0.7, "v0": 0.05},  # Feller holds
    "usual": {"kappa": 2.0, "theta": 0.04, "sigma": 0.5, "rho": -0.7, "v0": 0.05},
    "wild": {"kappa": 0.5, "theta": 0.04, "sigma": 1.0, "rho": -0.9, "v0": 0.04},  # 2 kappa theta / sigma^2 = .04
    "from zero": {"kappa": 3.0, "theta": 0.09, "sigma": 0.8, "rho": 0.3, "v0": 0.0},
}
every_set = pytest.mark.parametrize("name", PARAMETERS)


def cir_moments(
    times: np.ndarray, kappa: float, theta: float, sigma: float, v0: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of v_t given v_0 (Cox, Ingersoll & Ross 1985, section 3)."""
    decay = np.exp(-kappa * times)
    mean = theta + (v0 - theta) * decay
    variance = v0 * sigma**2 / kappa * (decay - decay**2) + theta * sigma**2 / (2 * kappa) * (1 - decay) ** 2
    return mean, variance


def moments_of(name: str, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return cir_moments(times, **{key: value for key, value in PARAMETERS[name].items() if key != "rho"})


@every_set
@pytest.mark.parametrize(("n_steps", "maturity"), [(20, 20 / 252), (50, 1.0), (4, 2.0)])
def test_mean_and_variance_of_the_variance(tools: SimpleNamespace, name: str, n_steps: int, maturity: float) -> None:
    """Identity at each step: QE matches both moments at any step length, so they hold without bias.

    Catches a wrong branch, a wrong switch and negative variance cut off at zero (which raises the mean).
    """
    model = Heston(**PARAMETERS[name])
    paths = model.simulate(100_000, n_steps, maturity, 41, backend="numpy", threads=1)
    variance = np.asarray(paths.variance[1:], np.float64)
    mean, spread = moments_of(name, paths.times[1:])
    tools.assert_mean(variance, mean)
    tools.assert_mean((variance - mean[:, None]) ** 2, spread)


@every_set
def test_each_step_has_the_moments_of_cir(tools: SimpleNamespace, name: str) -> None:
    """Identity: mean and variance of v_{t+1} given v_t in ten bins of v_t, from both branches of QE, and that there are
    both. Catches a bias of one branch that the other hides."""
    model = Heston(**PARAMETERS[name])
    paths = model.simulate(60_000, 12, 1.0, 42, backend="numpy", threads=1, dtype="float64")
    start, end = paths.variance[8], paths.variance[9]
    rest = {key: value for key, value in PARAMETERS[name].items() if key not in ("rho", "v0")}
    decay = np.exp(-rest["kappa"] / 12)
    mean, spread = (start * rate + floor for rate, floor in (
        (decay, rest["theta"] * (1 - decay)),
        (
            rest["sigma"] ** 2 / rest["kappa"] * (decay - decay**2),
            rest["theta"] * rest["sigma"] ** 2 / (2 * rest["kappa"]) * (1 - decay) ** 2,
        ),
    ))  # fmt: skip
    groups = np.digitize(start, np.quantile(start, np.arange(0.1, 1.0, 0.1)))
    for group in np.unique(groups):
        inside = groups == group
        tools.assert_mean((end - mean)[inside])
        tools.assert_mean(((end - mean) ** 2 - spread)[inside])
    psi = spread / mean**2
    if name in ("usual", "wild"):
        assert (psi > 1.5).mean() > 0.05
    if name != "wild":
        assert (psi < 1.5).mean() > 0.05


@every_set
def test_variance_is_never_negative(name: str) -> None:
    """Identity, in both precisions, over a million draws. Catches a truncation forgotten."""
    for dtype in ("float32", "float64"):
        paths = Heston(**PARAMETERS[name]).simulate(20_000, 50, 1.0, 43, dtype=dtype, backend="numpy", threads=1)
        assert (paths.variance >= 0).all()
        assert np.isfinite(paths.variance).all()
        assert np.isfinite(paths.spot).all()
        assert (paths.spot > 0).all()


@every_set
@pytest.mark.parametrize(("n_steps", "maturity"), [(20, 20 / 252), (50, 1.0), (4, 1.0)])
def test_mean_spot_is_the_forward(tools: SimpleNamespace, name: str, n_steps: int, maturity: float) -> None:
    """Identity at each step, of a quarter too. Catches QE without its martingale correction (per cents of bias)."""
    model = Heston(**PARAMETERS[name], rate=0.05, dividend=0.02)
    paths = model.simulate(100_000, n_steps, maturity, 44, backend="numpy", threads=1)
    tools.assert_mean(np.asarray(paths.spot[1:], np.float64), 100 * np.exp(0.03 * paths.times[1:]))


def test_spot_increments_are_martingale_in_bins_of_variance(tools: SimpleNamespace) -> None:
    """Identity: E[S_{t+1} / S_t | v_t] = 1 in ten bins of v_t. Catches a correction that holds on the average only."""
    paths = Heston(**PARAMETERS["wild"]).simulate(100_000, 12, 1.0, 45, backend="numpy", threads=1, dtype="float64")
    for step in (1, 6, 11):
        growth = paths.spot[step + 1] / paths.spot[step] - 1
        groups = np.digitize(paths.variance[step], np.quantile(paths.variance[step], np.arange(0.1, 1.0, 0.1)))
        for group in np.unique(groups):
            if growth[groups == group].std() > 0:
                tools.assert_mean(growth[groups == group])


@pytest.mark.parametrize("rho", [-0.7, 0.0, 0.5])
def test_returns_move_with_the_variance(tools: SimpleNamespace, rho: float) -> None:
    """Statistical: E[dS/S dv] = rho sigma v dt to first order in dt, at three steps. Catches a lost or flipped rho."""
    parameters = PARAMETERS["mild"] | {"rho": rho}
    paths = Heston(**parameters).simulate(100_000, 20, 5 / 252, 46, backend="numpy", threads=1, dtype="float64")
    dt = 0.25 / 252
    for step in (2, 10, 19):
        variance = paths.variance[step]
        returns = paths.spot[step + 1] / paths.spot[step] - 1
        moves = paths.variance[step + 1] - variance - 2.0 * (0.04 - variance) * dt
        tools.assert_mean(returns * moves / (0.3 * variance * dt) - rho)


# --- the smile -----------------------------------------------------------------------------------------------------

# The bias of daily QE in implied volatility, measured with 960,000 paths a cell at log strikes from -1.5 to 1.5 times
# sqrt(mean variance * years): within .4 basis points in every cell, below its own standard error (.1 to 1.3) nearly
# everywhere. Only at one year and sigma = .5 three correlated cells read -2 to -3 (480,000 paths, .7 to 1.2).
BIAS = 1e-4
SMILES = [("usual", 1 / 12), ("usual", 1.0), ("wild", 0.25), ("mild", 0.25), ("from zero", 0.25)]


def smile_of_paths(
    tools: SimpleNamespace, model: Heston, years: float, n_steps: int, strikes: np.ndarray, n_paths: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Implied volatilities and standard errors, conditioning on the variance path.

    With the spot's own noise at zero the simulated spot is the median of the conditional law; its log variance is
    (1 - rho^2) int v dt with v averaged over both ends of a step, as Andersen's central weights have it.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    effective, integral = [], []
    dt = years / n_steps
    for _ in range(n_paths // 20_000):
        noise = np.zeros((2, n_steps, 20_000), dtype=np.float32)
        rng.standard_normal(dtype=np.float32, out=noise[0])
        paths = model.simulate(20_000, n_steps, years, noise=noise, backend="numpy", dtype="float64", threads=1)
        integral.append(dt * (paths.variance[1:-1].sum(axis=0) + 0.5 * (paths.variance[0] + paths.variance[-1])))
        effective.append(paths.spot[-1] * np.exp(0.5 * (1 - model.rho**2) * integral[-1]))
    forward = model.spot * float(np.exp((model.rate - model.dividend) * years))
    own = np.concatenate(integral)
    times = np.linspace(0, years, n_steps + 1)
    mean = np.trapezoid(cir_moments(times, model.kappa, model.theta, model.sigma, model.v0)[0], times)
    controls = np.stack([np.concatenate(effective) / forward - 1, own - mean])
    return tools.mixed_smile(
        np.concatenate(effective), (1 - model.rho**2) * own, controls, forward=forward, strikes=strikes, years=years
    )


def strikes_of(model: Heston, years: float) -> np.ndarray:
    times = np.linspace(0, years, 101)
    mean = np.trapezoid(cir_moments(times, model.kappa, model.theta, model.sigma, model.v0)[0], times)
    forward = model.spot * np.exp((model.rate - model.dividend) * years)
    return forward * np.exp(np.sqrt(mean) * np.arange(-1.5, 2.0, 0.5))


def fourier_smile(tools: SimpleNamespace, model: Heston, years: float, strikes: np.ndarray) -> np.ndarray:
    """Implied volatilities of `hedgerl.pricing.heston`."""
    forward = model.spot * float(np.exp((model.rate - model.dividend) * years))
    prices = hedgerl.pricing.heston(
        model.spot,
        strikes,
        years,
        model.v0,
        kappa=model.kappa,
        theta=model.theta,
        sigma=model.sigma,
        rho=model.rho,
        rate=model.rate,
        dividend=model.dividend,
        is_call=strikes >= forward,
    ).price * np.exp(model.rate * years)
    return np.array(
        [
            tools.black_implied_volatility(float(price), forward, float(strike), years, bool(strike >= forward))
            for price, strike in zip(prices, strikes, strict=True)
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "years"), SMILES)
def test_smile_at_daily_steps(tools: SimpleNamespace, name: str, years: float) -> None:
    """Golden by Fourier: implied volatilities at dt = 1/252 within 2 s.e. plus the bias stated above.

    Catches what moments leave open: the joint law of spot and variance, hence the skew.
    """
    model = Heston(**PARAMETERS[name], rate=0.03, dividend=0.01)
    strikes = strikes_of(model, years)
    ours, errors = smile_of_paths(tools, model, years, round(252 * years), strikes, 80_000, seed=47)
    exact = fourier_smile(tools, model, years, strikes)
    assert errors.max() < 1e-3
    tools.assert_z(np.maximum(np.abs(ours - exact) - BIAS, 0.0) / errors, sigmas=2.0)


def test_conditional_price_is_the_plain_average(tools: SimpleNamespace) -> None:
    """Twin: payoffs averaged over simulated spots agree with the Fourier price. Catches a spot noise of wrong size."""
    model = Heston(**PARAMETERS["usual"], rate=0.03, dividend=0.01)
    paths = model.simulate(100_000, 63, 0.25, 48, backend="numpy", threads=1)
    spot = np.asarray(paths.spot[-1], np.float64)
    forward = 100 * np.exp(0.005)
    for strike in (85.0, 95.0, 100.0, 110.0):
        is_call = strike >= 100
        exact = hedgerl.pricing.heston(
            100.0, strike, 0.25, 0.05, kappa=2.0, theta=0.04, sigma=0.5, rho=-0.7, rate=0.03, dividend=0.01,
            is_call=is_call,
        ).price  # fmt: skip
        payoff = np.maximum(spot - strike if is_call else strike - spot, 0.0) * np.exp(-0.03 * 0.25)
        slope = np.cov(payoff, spot)[0, 1] / spot.var()
        tools.assert_mean(payoff - slope * (spot - forward), float(exact))


@pytest.mark.parametrize("sigma", [1e-2, 1e-3, 1e-5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_vol_of_vol_is_black_scholes(tools: SimpleNamespace, sigma: float, dtype: str) -> None:
    """Limit: v follows its mean and the log spot is normal with that variance.
    Catches rho / sigma blowing up roundings."""
    model = Heston(kappa=2.0, theta=0.04, sigma=sigma, rho=-0.7, v0=0.09)
    paths = model.simulate(40_000, 30, 0.5, 49, dtype=dtype, backend="numpy", threads=1)
    mean, _ = cir_moments(paths.times, 2.0, 0.04, sigma, 0.09)
    np.testing.assert_allclose(paths.variance, np.broadcast_to(mean[:, None], paths.variance.shape), rtol=0, atol=sigma)
    total = np.trapezoid(mean, paths.times)
    log_spot = np.log(np.asarray(paths.spot[-1], np.float64) / 100)
    tools.assert_mean(log_spot, -0.5 * total, sigmas=tools.SIGMAS + sigma * 50)
    tools.assert_mean((log_spot + 0.5 * total) ** 2, total, sigmas=tools.SIGMAS + sigma * 500)
    tools.assert_mean(np.asarray(paths.spot[-1], np.float64), 100.0)


@pytest.mark.parametrize("rho", [-0.999, 0.999])
def test_near_perfect_correlation(tools: SimpleNamespace, rho: float) -> None:
    """Limit: near rho = -1 and 1 the spot is nearly a function of the variance path, still finite and a martingale."""
    parameters = PARAMETERS["usual"] | {"rho": rho}
    paths = Heston(**parameters).simulate(50_000, 63, 0.25, 50, backend="numpy", threads=1)
    assert np.isfinite(paths.spot).all()
    tools.assert_mean(np.asarray(paths.spot[1:], np.float64), 100.0)


def test_variance_risk_premium_changes_kappa_only(tools: SimpleNamespace) -> None:
    """Identity: with a premium the paths are those of kappa - sigma premium and the same kappa theta."""
    priced = Heston(**PARAMETERS["usual"], variance_risk_premium=-1.0)
    plain = Heston(kappa=2.5, theta=0.04 * 2.0 / 2.5, sigma=0.5, rho=-0.7, v0=0.05)
    options = {"seed": 51, "backend": "numpy", "dtype": "float64"}
    first, second = (model.simulate(2_000, 40, 0.5, **options) for model in (priced, plain))  # type: ignore[arg-type]
    np.testing.assert_allclose(first.variance, second.variance, rtol=1e-9, atol=1e-14)
    tools.assert_mean(first.spot[1:], 100.0)
