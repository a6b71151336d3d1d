"""Windows of history and their marks: the same surface as a simulated market's, and nothing known before its day."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerl.data import SSVI, DailySeries, Surface, read_daily, sp500_series
from hedgerl.data.surface import VIX_YEARS
from hedgerl.data.volatility import ewma_volatility
from hedgerl.pricing import Greeks, Option, black_scholes, implied_volatility
from hedgerl.sim import BlackScholes, Heston, HistoricalMarket, History
from hedgerl.sim.market import AnyMarket

DAY = 1 / 252
GREEKS = ("price", "delta", "gamma", "vega", "theta")
SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "index"


def made(n_days: int = 700, seed: int = 3) -> DailySeries:
    """Calm at VIX 9 to 15, a 2008 with 80, calm again; rates that differ by day."""
    rng, days = np.random.default_rng(seed), np.arange(n_days)
    vix = 12.0 + 3.0 * np.sin(days / 9.0) + 68.0 * np.exp(-(((days - 400) / 35.0) ** 2))
    close = 1000.0 * np.exp(np.cumsum(0.01 * vix / 16.0 * rng.standard_normal(n_days)))
    rate = 0.03 + 0.02 * np.sin(days / 50.0)
    return DailySeries("made", np.busday_offset("2006-01-02", days), close, vix=vix, rate=rate)


def history(**changes: Any) -> History:
    settings = {"series": made(), "surface": Surface(long_run_days=100), "rate": "series", "dividend": 0.015}
    return History(**(settings | changes))


def some_market(n_steps: int = 21, **changes: Any) -> HistoricalMarket:
    """All windows, those before, in and after the storm alike."""
    made_history = history(**changes)
    return made_history.market(made_history.starts(n_steps, every=1), n_steps)


def parity_gap(market: AnyMarket, step: int, strike: Any, expiry: float) -> np.ndarray:
    call, put = (market.mark(Option(strike, expiry, is_call), step) for is_call in (True, False))
    left = expiry - market.times[step]
    forward = market.spot[step] * np.exp(-market.dividend * left) - strike * np.exp(-market.rate_at(step) * left)
    gap: np.ndarray = call.price - put.price - forward
    return gap


def test_windows() -> None:
    """Golden: each column is its own stretch of the closes, scaled by its first; rate, variance and date are those of
    the same day. Catches windows that are off by one, and a rate of tomorrow."""
    source = history()
    series = source.series
    assert series.rate is not None
    starts = np.array([300, 120, 120])
    market = source.market(starts, 5, spot=50.0)
    assert (market.n_paths, market.n_steps) == (3, 5)
    np.testing.assert_allclose(market.times, np.arange(6) / 252, rtol=1e-15, atol=0)
    for column, start in enumerate(starts):
        days = slice(start, start + 6)
        np.testing.assert_allclose(
            market.spot[:, column], 50 * series.close[days] / series.close[start], rtol=1e-15, atol=0
        )
        np.testing.assert_array_equal(market.dates[:, column], series.dates[days])
        np.testing.assert_array_equal(market.variance[:, column], source.levels.short[days])
        np.testing.assert_array_equal([market.rate_at(step)[column] for step in range(6)], series.rate[days])
    np.testing.assert_array_equal(source.market(starts, 5, spot=None).spot[2], series.close[starts + 2])
    assert market.dividend == 0.015
    assert history(rate=0.02).market(starts, 5).rate_at(0) == 0.02


def test_starts() -> None:
    """Golden: from the first day with a surface to the last whose window fits, `end` and the first of them included."""
    source = history()
    np.testing.assert_array_equal(source.starts(21, every=1), np.arange(99, 700 - 21))
    np.testing.assert_array_equal(source.starts(21), np.arange(99, 700 - 21, 21))
    np.testing.assert_array_equal(source.starts(21, every=50), np.arange(99, 700 - 21, 50))
    dates = source.series.dates
    cut = history(start=str(dates[200]), end=dates[300].item())
    starts = cut.starts(10, every=1)
    assert (starts[0], starts[-1] + 10) == (200, 300)
    market = cut.market(starts, 10)
    assert (market.dates[0, 0], market.dates[-1, -1]) == (dates[200], dates[300])
    weekend = history(start=dates[200] - 2, end=dates[300] + 2)  # a Sunday before a Tuesday, at most
    assert weekend.starts(10, every=1)[-1] + 10 in (300, 301, 302)
    with pytest.raises(
        ValueError, match=r"n_steps must leave 2 windows, 141 days, got 70 with every = 70: made has 101"
    ):
        cut.starts(70)
    with pytest.raises(ValueError, match=r"made has none of its days .* have a surface \(from 2006-05-19 on\)"):
        history(end="2006-05-18").starts(5)
    np.testing.assert_array_equal(cut.starts(50), [200, 250])


@pytest.mark.parametrize("level", ["vix", "ewma"])
def test_no_look_ahead(level: str) -> None:
    """Identity: marks up to a day are the same to the last bit when everything after that day is shuffled and scaled,
    and differ after it. Catches any window, mean or fill that reaches forward."""
    source = history(surface=Surface(level=level, long_run_days=100))
    series, day, start, n_steps = source.series, 410, 400, 21
    later = np.arange(day + 1, len(series))
    order = np.random.default_rng(5).permutation(later)
    changed = {}
    for name in ("close", "vix", "rate"):
        values = getattr(series, name).copy()
        values[later] = 1.2 * values[order]
        changed[name] = values
    other = dataclasses.replace(source, series=dataclasses.replace(series, **changed))
    option = Option(strike=95.0, expiry_years=30 * DAY, is_call=False)
    here, there = (each.market([start], n_steps) for each in (source, other))
    for step in range(n_steps + 1):
        marks = [market.mark(option, step) for market in (here, there)]
        same = step <= day - start
        for greek in GREEKS:
            assert (getattr(marks[0], greek) == getattr(marks[1], greek)).all() == same
        assert (here.rate_at(step) == there.rate_at(step)).all() == same


@pytest.mark.parametrize("strike", [70.0, 100.0, 130.0])
@pytest.mark.parametrize("expiry", [21 * DAY, 0.5])
def test_parity(strike: float, expiry: float) -> None:
    """Identity: call less put is the forward at that day's own rate, for expiries in and beyond the window."""
    market = some_market()
    for step in (0, 10, 20):
        np.testing.assert_allclose(parity_gap(market, step, strike, expiry), 0.0, rtol=0, atol=1e-11)


@pytest.mark.parametrize("step", [0, 20])
def test_no_arbitrage_on_any_day(step: int) -> None:
    """Identity: on each day calls fall and are convex in the strike, and at equal moneyness total variance rises with
    expiry. The grid of days has VIX 9 and VIX 80, and days after a storm. Catches a smile whose wings cross."""
    source = history(rate=0.02)
    market = source.market(source.starts(21, every=8), 21)
    log_strikes = 0.01 * np.sinh(np.linspace(-5.4, 4.7, 81))
    variances = []
    for expiry in (21 * DAY, 30 * DAY, 0.25, 1.0):
        left = expiry - market.times[step]
        forward = market.spot[step] * np.exp((0.02 - market.dividend) * left)
        strikes = forward * np.exp(log_strikes)[:, None]
        calls = np.array([market.mark(Option(strike, expiry), step).price for strike in strikes])
        puts = np.array([market.mark(Option(strike, expiry, False), step).price for strike in strikes])
        for prices, sign in ((calls, -1), (puts, 1)):
            slopes = np.diff(prices, axis=0) / np.diff(strikes, axis=0)
            assert (sign * slopes > -1e-12).all()
            assert (np.diff(slopes, axis=0) > -1e-11).all()
        near = np.abs(log_strikes) < 0.6 * np.sqrt(left)
        sides = np.where(log_strikes[near, None] > 0, calls[near], puts[near])
        is_call = np.broadcast_to(log_strikes[near, None] > 0, sides.shape)
        implied = implied_volatility(
            sides, market.spot[step], strikes[near], left, rate=0.02, dividend=0.015, is_call=is_call
        )
        variances.append((near, implied**2 * left))
    for (near, nearer), (far, farther) in zip(variances, variances[1:], strict=False):
        both = near & far
        assert both.sum() > 3
        assert (farther[both[far]] > nearer[both[near]]).all()


def test_marks_recover_the_vix() -> None:
    """Identity: the integral over the market's own 30-day out-of-the-money marks is each day's VIX, to .002 points.
    Catches a clock of another length, a wrong day, and rates or dividends left in."""
    source = history()
    assert source.series.vix is not None
    starts = source.starts(5, every=23)
    market = source.market(starts, 5)
    for step in (0, 5):
        rate = np.asarray(market.rate_at(step))
        forward = market.spot[step] * np.exp((rate - market.dividend) * VIX_YEARS)
        expiry = market.times[step] + VIX_YEARS
        vix = source.series.vix[starts + step]
        widths = vix / 100 * VIX_YEARS**0.5
        grid = np.linspace(-25.0, 15.0, 3201)[:, None] * widths  # 0 is a node: the integrand has a kink there
        prices = np.empty_like(grid)
        for row, k in enumerate(grid):
            prices[row] = market.mark(Option(forward * np.exp(k), expiry, k > 0), step).price
        integrand = 2 * np.exp(rate * VIX_YEARS) * prices / (forward * np.exp(grid))  # O / K^2 dK = O / K dk
        variance = np.trapezoid(integrand, grid, axis=0) / VIX_YEARS
        np.testing.assert_allclose(100 * np.sqrt(variance), vix, rtol=0, atol=0.002)


def test_flat_limit_is_black_scholes() -> None:
    """Limit: without smile and reversion, marks are Black-Scholes at the trailing volatility, as the first backtest of
    this library had them."""
    series = sp500_series()
    flat = History(series, Surface(shape=SSVI(eta=0.0), kappa=0.0))
    starts = flat.starts(21)
    assert starts[0] == 21
    market = flat.market(starts, 21)
    volatility = ewma_volatility(series.close, 21)
    np.testing.assert_allclose(np.sqrt(market.variance[0]), volatility[starts], rtol=1e-7, atol=0)
    for step in (0, 7, 20):
        marks = market.mark(Option(100.0, 21 * DAY), step)
        exact = black_scholes(market.spot[step], 100.0, (21 - step) * DAY, volatility[starts + step])
        for greek in ("price", "delta", "gamma", "theta", "vega"):
            np.testing.assert_allclose(getattr(marks, greek), getattr(exact, greek), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("is_call", [True, False])
@pytest.mark.parametrize("expiry", [12 * DAY, 0.4])
def test_greeks_are_derivatives(is_call: bool, expiry: float) -> None:
    """Identity: finite differences of the marks themselves. Delta and gamma at a fixed level, vega by sqrt(variance)
    at a fixed long variance, theta at constant implied volatility."""
    market, step = some_market(), 4
    left = expiry - market.times[step]

    def price(spot: Any = 0.0, volatility: Any = 0.0) -> np.ndarray:
        moved = dataclasses.replace(
            market, spot=market.spot + spot, variance=(np.sqrt(market.variance) + volatility) ** 2
        )
        result: np.ndarray = moved.mark(option, step).price
        return result

    for moneyness in (0.9, 1.0, 1.05):
        option = Option(moneyness * market.spot[step], expiry, is_call)
        marks = market.mark(option, step)
        h = 1e-3
        up, down = price(spot=h), price(spot=-h)
        np.testing.assert_allclose(marks.delta, (up - down) / (2 * h), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(marks.gamma, (up - 2 * marks.price + down) / h**2, rtol=1e-3, atol=1e-6)
        slope = (price(volatility=1e-5) - price(volatility=-1e-5)) / 2e-5
        np.testing.assert_allclose(marks.vega, slope, rtol=1e-6, atol=1e-5)
        rate = market.rate_at(step)
        carry = {"rate": rate, "dividend": market.dividend, "is_call": is_call}
        implied = implied_volatility(marks.price, market.spot[step], option.strike, left, **carry)
        theta = black_scholes(market.spot[step], option.strike, left, implied, **carry).theta
        np.testing.assert_allclose(marks.theta, theta, rtol=1e-4, atol=1e-3)


def test_expiry_is_the_payoff() -> None:
    market = some_market(n_steps=5)
    for is_call, sign in ((True, 1), (False, -1)):
        marks = market.mark(Option(100.0, 5 * DAY, is_call), 5)
        np.testing.assert_array_equal(marks.price, np.maximum(sign * (market.spot[5] - 100.0), 0.0))
        assert not marks.vega.any()
    with pytest.raises(ValueError, match="expiry_years must not lie before the step's time"):
        market.mark(Option(100.0, 3 * DAY), 4)


def test_one_contract_a_path() -> None:
    """Twin: strikes, expiries and rights by window give what each gives alone, also beyond a block's length."""
    market = some_market()
    n = market.n_paths
    rng = np.random.default_rng(2)
    strike, expiry = rng.uniform(90, 110, n), rng.choice([21 * DAY, 0.2, 0.5], n)
    is_call = rng.random(n) < 0.5
    marks = market.mark(Option(strike, expiry, is_call), 3)
    for one in (0, 17, n - 1):
        alone = market.mark(Option(strike[one], expiry[one], bool(is_call[one])), 3)
        for greek in GREEKS:
            assert getattr(marks, greek)[one] == pytest.approx(getattr(alone, greek)[one], rel=1e-13)
    source = history()
    many = source.market(np.tile(source.starts(2, every=1), 40), 2)
    assert many.n_paths > 1 << 14
    price = many.mark(Option(97.0, 0.1, False), 1).price.reshape(40, -1)
    np.testing.assert_array_equal(price, np.broadcast_to(price[0], price.shape))


@pytest.mark.parametrize("kind", ["simulated", "historical"])
@pytest.mark.parametrize(
    ("change", "step", "message"),
    [
        ({}, 6, "step must be at most 5, got 6"),
        ({}, -1, "step must be a whole number of at least 0, got -1"),
        ({"strike": 0.0}, 0, "strike must be positive and finite, got 0.0"),
        ({"strike": np.ones(3)}, 0, r"strike must be a number or have shape \(7,\), got \(3,\)"),
        ({"expiry_years": np.nan}, 0, "expiry_years must be finite numbers, got nan"),
        ({"is_call": 1}, 0, "is_call must be a bool or an array of them"),
    ],
)
def test_bad_marks(kind: str, change: dict[str, Any], step: int, message: str) -> None:
    """Twin: both markets refuse the same with the same words."""
    market: AnyMarket
    if kind == "simulated":
        model = BlackScholes(volatility=0.2)
        market = model.market(model.simulate(7, 5, 5 * DAY, seed=1, backend="numpy"))
    else:
        market = history().market(np.arange(200, 207), 5)
    with pytest.raises(ValueError, match=message):
        market.mark(Option(**({"strike": 100.0, "expiry_years": 0.1, "is_call": True} | change)), step)
    if not change:
        with pytest.raises(ValueError, match=message):
            market.rate_at(step)


def test_a_simulated_market_has_the_same_surface() -> None:
    """Twin: what a hedge reads of `Market` is what the paths and the model say."""
    model = Heston(kappa=2.0, theta=0.04, sigma=0.5, rho=-0.7, v0=0.04, rate=0.03, dividend=0.01)
    paths = model.simulate(8, 3, 3 * DAY, seed=1, backend="numpy", perturb={"v0": (0.02, 0.06)})
    markets: list[AnyMarket] = [model.market(paths), history().market([200, 300], 3)]
    simulated = markets[0]
    assert simulated.times is paths.times
    assert simulated.spot is paths.spot
    assert simulated.variance is paths.variance
    assert (simulated.n_paths, simulated.n_steps) == (8, 3)
    assert (simulated.rate_at(2), simulated.dividend) == (0.03, 0.01)
    for market in markets:
        assert market.times.shape == (market.n_steps + 1,)
        assert market.spot.shape == market.variance.shape == (market.n_steps + 1, market.n_paths)
        assert np.shape(market.rate_at(0)) in ((), (market.n_paths,))
        assert isinstance(market.mark(Option(100.0, 0.1), 1), Greeks)
        with pytest.raises(AttributeError):
            market.spot = None  # type: ignore[misc]
    assert np.abs(parity_gap(simulated, 1, 100.0, 0.1)).max() < 1e-4


def test_pickling() -> None:
    """Round trip. Catches caches that cannot travel to a worker."""
    source = history(start="2006-06-01", end="2008-01-01", name="again")
    market = source.market(source.starts(21), 21)
    option = Option(98.0, 21 * DAY, False)
    copies = pickle.loads(pickle.dumps(market)), pickle.loads(pickle.dumps(source)).market(source.starts(21), 21)
    for copy in copies:
        np.testing.assert_array_equal(copy.mark(option, 3).price, market.mark(option, 3).price)
        np.testing.assert_array_equal(copy.dates, market.dates)
    assert repr(pickle.loads(pickle.dumps(source))) == "History('again', 2006-06-01 to 2008-01-01)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"series": None}, "series must be a hedgerl.data.DailySeries, got None"),
        ({"surface": SSVI()}, "surface must be a hedgerl.data.Surface, got SSVI"),
        ({"rate": "libor"}, "rate must be a number or \"series\", got 'libor'"),
        ({"rate": np.nan}, "rate must be a finite number"),
        ({"series": sp500_series()}, 'rate must be a number for S&P 500, which has no rates, got "series"'),
        ({"dividend": np.inf}, "dividend must be a finite number"),
        ({"start": "2007"}, None),
        ({"start": "yesterday"}, "start must be a date or YYYY-MM-DD, got 'yesterday'"),
        ({"start": "2008-01-01", "end": "2007-01-01"}, "start must not lie after end, got 2008-01-01 and 2007-01-01"),
        (
            {"surface": Surface(long_run_days=701)},
            r"series must be longer: made has 700 days, too few for the surface's",
        ),
    ],
)
def test_bad_history(changes: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert str(history(**changes).start) == "2007-01-01"
        return
    with pytest.raises(ValueError, match=message):
        History(**({"series": made(), "rate": "series"} | changes))


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ([98], r"starts must lie in \[99, 678\] for n_steps = 21, got 98"),
        ([99, 679], r"starts must lie in \[99, 678\] for n_steps = 21, got 679"),
        ([], "starts must be one or more whole numbers"),
        ([200.0], "starts must be one or more whole numbers"),
        (200, "starts must be one or more whole numbers"),
    ],
)
def test_bad_starts(starts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        history().market(starts, 21)
    with pytest.raises(ValueError, match="spot must be positive"):
        history().market([200], 21, spot=0.0)


def test_windows_wait_for_the_first_rate() -> None:
    """Catches NaN rates in the first windows of a series whose rates start late."""
    series = made()
    rate = np.where(np.arange(700) < 150, np.nan, 0.03)
    late = dataclasses.replace(series, rate=rate)
    assert history(series=late).starts(21)[0] == 150
    assert history(series=late, rate=0.01).starts(21)[0] == 99


def history_of_2008() -> History:
    path = SHARED / "panel_daily_2004_2020.parquet"
    if not path.exists():
        pytest.skip(
            f"the real file shared/data/index/{path.name} beside the repository is absent: it may not be shipped"
        )
    return History(read_daily(path), rate="series", dividend=0.02)


def test_real_crisis() -> None:
    """Golden: windows over 15 October 2008, the index at 907.84 and the VIX at 69.25; a month's at-the-money call costs
    5 to 8 % of spot that day, and parity holds at that day's own rate."""
    source = history_of_2008()
    series = source.series
    day = int(np.flatnonzero(series.dates == np.datetime64("2008-10-15"))[0])
    market = source.market([day], 21, spot=None)
    assert market.spot[0, 0] == 907.84
    price = market.mark(Option(907.84, 21 * DAY), 0).price[0] / 907.84
    assert 0.05 < price < 0.08
    assert np.sqrt(market.variance[0, 0]) > np.sqrt(market.long_variance[0, 0])  # inverted
    starts = source.starts(21)
    assert str(series.dates[starts[0]]) == "2004-12-31"
    every = source.market(starts, 21)
    np.testing.assert_allclose(parity_gap(every, 3, 100.0, 21 * DAY), 0.0, rtol=0, atol=1e-11)
    assert np.isfinite(every.variance).all()
    assert (every.variance > 0).all()


def test_slope_of_the_volatility_is_a_trailing_regression():
    """Twin: by numpy's least squares on the trailing year; it is negative where the VIX drives the level.

    Catches a window that is off by a day, which would look ahead.
    """
    history = History(sp500_series(vix=True))
    volatility, close = np.sqrt(history.levels.short), history.series.close
    day = 900
    moves, changes = np.diff(np.log(close))[day - 252 : day], np.diff(volatility)[day - 252 : day]
    expected = np.linalg.lstsq(moves[:, None], changes, rcond=None)[0][0]
    np.testing.assert_allclose(history.slopes[day], expected, rtol=1e-9)
    assert -3.0 < expected < -0.5
    market = history.market(np.array([day, day + 1]), n_steps=5)
    np.testing.assert_allclose(market.volatility_slope(5 / 252, 0)[0] * 100.0, expected, rtol=1e-9)
