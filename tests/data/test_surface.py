"""The surface: smiles without arbitrage, a level that is the VIX, and nothing known before its day."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.integrate import quad

from hedgerl.data import SSVI, DailySeries, Surface
from hedgerl.data.surface import VIX_YEARS
from hedgerl.data.volatility import ewma_volatility, realised_volatility
from hedgerl.pricing import black_scholes

SHAPES = {
    "default": SSVI(),
    "on the bound": SSVI(rho=-0.7, eta=2.0 / 1.7**0.5, gamma=0.5),
    "upward": SSVI(rho=0.3, eta=1.0, gamma=0.3),
    "no decay": SSVI(rho=-0.5, eta=2.0, gamma=0.0),
    "flat": SSVI(eta=0.0),
}
every_shape = pytest.mark.parametrize("name", SHAPES)


def series_of(vix: np.ndarray | None, n_days: int = 700, seed: int = 3) -> DailySeries:
    """Weekdays with lognormal closes, and highs, lows and rates that nothing should use."""
    rng = np.random.default_rng(seed)
    dates = np.busday_offset("2006-01-02", np.arange(n_days))
    close = 1000.0 * np.exp(np.cumsum(0.012 * rng.standard_normal(n_days)))
    return DailySeries("made", dates, close, vix=vix, rate=np.full(n_days, 0.03))


def stormy_vix(n_days: int = 700) -> np.ndarray:
    """Percent points: calm at 9 to 15, then 2008 with 80, then calm again."""
    days = np.arange(n_days)
    return 12.0 + 3.0 * np.sin(days / 9.0) + 68.0 * np.exp(-(((days - 400) / 35.0) ** 2))


@every_shape
def test_derivatives(name: str) -> None:
    """Identity: finite differences of w. Catches every slip in the chain rule of the marks."""
    shape, step = SHAPES[name], 1e-5
    k, theta = np.meshgrid(np.linspace(-0.8, 0.5, 14), np.geomspace(1e-4, 0.5, 9))
    k = k * np.sqrt(theta) * 4
    w = shape.total_variance(k, theta)
    dk = step * np.sqrt(theta)
    up, down = (shape.total_variance(k + sign * dk, theta) for sign in (1, -1))
    np.testing.assert_allclose(w.by_log_strike, (up.value - down.value) / (2 * dk), rtol=1e-6, atol=1e-9)
    twice = (up.by_log_strike - down.by_log_strike) / (2 * dk)
    np.testing.assert_allclose(w.by_log_strike_twice, twice, rtol=1e-6, atol=1e-8)
    up, down = (shape.total_variance(k, theta * (1 + sign * step)) for sign in (1, -1))
    np.testing.assert_allclose(w.by_level, (up.value - down.value) / (2 * step * theta), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(shape.total_variance(0.0 * theta, theta).value, theta, rtol=1e-14, atol=0)


@every_shape
def test_no_static_arbitrage(name: str) -> None:
    """Identity: Durrleman's density is not negative at any strike, and total variance rises with theta, at the bound on
    eta too. Catches a phi that is not the paper's."""
    shape = SHAPES[name]
    x, theta = np.meshgrid(np.sinh(np.linspace(-6, 6, 1201)), np.geomspace(1e-7, 3.0, 60))
    k = x * np.sqrt(theta)
    w, slope, twice, by_theta = shape.total_variance(k, theta)
    density = (1 - 0.5 * k * slope / w) ** 2 - 0.25 * slope**2 * (1 / w + 0.25) + 0.5 * twice
    assert density.min() > -1e-9
    assert by_theta.min() > -1e-9


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rho", -1.0, r"rho must lie in \(-1, 1\), got -1.0"),
        ("eta", -0.1, "eta must not be negative"),
        (
            "eta",
            2.5,
            r"eta must be at most 1.86\d* for rho = -0.6 and gamma = 0.45 to leave no butterfly arbitrage, got 2",
        ),
        ("gamma", 0.6, r"gamma must lie in \[0, 0.5\], got 0.6"),
    ],
)
def test_bad_shapes(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SSVI(**{field: value})


@pytest.mark.parametrize("name", ["default", "upward", "flat"])
@pytest.mark.parametrize("volatility", [0.09, 0.2, 0.81])
def test_level_recovers_the_vix(name: str, volatility: float) -> None:
    """Identity: the integral over the smile's own out-of-the-money prices at 30 days is the VIX that set its level,
    here by adaptive quadrature of prices, in the source by another integral. Catches a wrong weight or side."""
    shape = SHAPES[name]
    theta = shape.at_the_money(np.array(volatility**2 * VIX_YEARS))

    def integrand(k: float) -> float:  # 2 O(K) / K^2 dK with K = e^k on a forward of 1
        total = shape.total_variance(np.array(k), theta).value
        return 2 * np.exp(-k) * float(black_scholes(1.0, np.exp(k), 1.0, np.sqrt(total), is_call=k > 0).price)

    deviation = float(np.sqrt(theta))
    sides = [quad(integrand, low * deviation, high * deviation, limit=400)[0] for low, high in ((-60, 0), (0, 40))]
    assert np.sqrt(sum(sides) / VIX_YEARS) == pytest.approx(volatility, rel=2e-6)
    assert float(shape.log_contract(theta)) == pytest.approx(volatility**2 * VIX_YEARS, rel=1e-7)


def test_levels() -> None:
    """Identity: theta at 30 days is that of the VIX; long is the trailing mean of the same; short is positive; the
    surface is known from the day on that completes the first mean. Also on days after a storm, where short is held."""
    vix = stormy_vix()
    surface = Surface(long_run_days=100)
    levels = surface.levels(series_of(vix))
    assert levels.first == 99
    known = slice(99, None)
    middle = surface.shape.at_the_money((vix / 100) ** 2 * VIX_YEARS) / VIX_YEARS
    theta = surface.theta(VIX_YEARS, levels.short, levels.long)
    np.testing.assert_allclose(theta[known], middle[known] * VIX_YEARS, rtol=1e-12, atol=0)
    assert (levels.short[known] >= 0.5 * middle[known] * (1 - 1e-12)).all()
    held = levels.short[known] < 0.5 * middle[known] * (1 + 1e-12)
    assert 0 < held.sum() < 100
    means = np.array([middle[day - 99 : day + 1].mean() for day in range(99, vix.size)])
    np.testing.assert_allclose(levels.long[known][~held], means[~held], rtol=1e-12, atol=0)
    assert (levels.long[known] > 0).all()
    assert np.isnan(levels.short[:99]).all()
    assert np.isnan(levels.long[:99]).all()


@pytest.mark.parametrize("kappa", [0.0, 1e-9, 2.0, 12.0])
def test_term_structure_has_no_calendar_spread(kappa: float) -> None:
    """Identity: theta rises with time left on every day, as the integral of the forward variance. Catches a reversion
    that overshoots. At kappa -> 0 it is flat."""
    surface = Surface(kappa=kappa, long_run_days=50)
    levels = surface.levels(series_of(stormy_vix()))
    assert levels.first == (0 if kappa == 0 else 49)
    short, long = levels.short[levels.first :], levels.long[levels.first :]
    left = np.linspace(1e-4, 2.0, 4001)
    theta = np.array([surface.theta(float(tau), short, long) for tau in left])
    assert (np.diff(theta, axis=0) > 0).all()
    forward = long + (short - long) * np.exp(-kappa * left[:-1, None] - kappa * 0.5 * (left[1] - left[0]))
    np.testing.assert_allclose(np.diff(theta, axis=0), forward * (left[1] - left[0]), rtol=1e-5, atol=0)
    if kappa < 1:
        np.testing.assert_allclose(theta, np.outer(left, short), rtol=1e-6, atol=0)


@pytest.mark.parametrize("level", ["vix", "ewma", "realised"])
def test_levels_do_not_look_ahead(level: str) -> None:
    """Identity: shuffled and scaled futures leave the past's surface as it was, to the last bit, and change its own."""
    surface = Surface(level=level, long_run_days=60)
    series = series_of(stormy_vix())
    before = surface.levels(series)
    rng = np.random.default_rng(8)
    for day in (150, 395, 698):
        later = np.arange(day + 1, len(series))
        order = rng.permutation(later)
        changed = {}
        for name in ("close", "vix", "rate"):
            values = getattr(series, name).copy()
            values[later] = 1.3 * values[order]
            changed[name] = values
        after = surface.levels(dataclasses.replace(series, **changed))
        for field in ("short", "long"):
            np.testing.assert_array_equal(getattr(after, field)[: day + 1], getattr(before, field)[: day + 1])
            assert (getattr(after, field)[day + 1 :] != getattr(before, field)[day + 1 :]).all()


def test_what_drives_the_level() -> None:
    """Golden: auto takes the VIX where there is one, else trailing volatility times the premium."""
    quoted, bare = series_of(stormy_vix()), series_of(None)
    for premium in (1.0, 1.2):  # the VIX has its own
        np.testing.assert_array_equal(Surface(premium=premium).index_volatility(quoted), stormy_vix() / 100)
    ewma = ewma_volatility(bare.close, 21)
    np.testing.assert_array_equal(Surface().index_volatility(bare), ewma)
    np.testing.assert_array_equal(Surface(level="ewma").index_volatility(quoted), ewma)
    np.testing.assert_array_equal(Surface(premium=1.2).index_volatility(bare), 1.2 * ewma)
    realised = Surface(level="realised", span_days=5).index_volatility(bare)
    expected = np.sqrt(252 * np.mean(np.diff(np.log(bare.close[100:106])) ** 2))
    assert realised[105] == pytest.approx(expected, rel=1e-12)
    assert np.isnan(realised[:5]).all()
    np.testing.assert_array_equal(realised, realised_volatility(bare.close, 5))
    assert Surface(span_days=5, long_run_days=10).levels(bare).first == 14


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kappa": -1.0}, "kappa must not be negative"),
        ({"long_run_days": 0}, "long_run_days must be a whole number of at least 1"),
        ({"level": "vxn"}, "level must be one of auto, vix, ewma, realised, got 'vxn'"),
        ({"span_days": 2.5}, "span_days must be a whole number"),
        ({"premium": 0.0}, "premium must be positive"),
        ({"shape": (-0.6, 1.3, 0.45)}, "shape must be an SSVI"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Surface(**settings)  # type: ignore[arg-type]


def test_series_that_do_not_fit() -> None:
    """Catches a VIX that is not there, and markets that stand still."""
    with pytest.raises(ValueError, match="level must be ewma or realised for made, which has no VIX, got 'vix'"):
        Surface(level="vix").levels(series_of(None))
    still = dataclasses.replace(series_of(None), close=np.full(700, 100.0))
    with pytest.raises(ValueError, match=r"the volatility of made must lie in \[0.005, 5\], got 0 on 2006-01-31"):
        Surface().levels(still)
    with pytest.raises(ValueError, match=r"log_contract must lie in \[1.1\d*e-07, 8.\d*\], got 20"):
        SSVI().at_the_money(np.array(20.0))


def test_a_series_too_short_for_its_trailing_volatility_is_named():
    """Catches a message that speaks of closes and leaves open which file is too short."""
    days = np.datetime64("2020-01-01") + np.arange(20)
    with pytest.raises(ValueError, match=r"mine must have more days than span_days = 21 .* got 20"):
        Surface().levels(DailySeries("mine", days, np.linspace(90.0, 100.0, 20)))
