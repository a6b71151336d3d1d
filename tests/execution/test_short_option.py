"""The books of one option sold and hedged."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hedgerl.baselines import Delta, NoHedge
from hedgerl.execution import Ledger, MarketView, option_payoff, sell_and_hedge
from hedgerl.pricing import Greeks, Option, black_scholes
from hedgerl.sim import BlackScholes

VOLATILITY = 0.2


def black_scholes_world(n_paths: int, n_steps: int, maturity: float = 1.0, rate: float = 0.0, dividend: float = 0.0):
    """Paths of geometric Brownian motion with a call at the money, and its marks."""
    model = BlackScholes(volatility=VOLATILITY, rate=rate, dividend=dividend)
    paths = model.simulate(n_paths, n_steps, maturity, seed=7, backend="numpy", dtype="float64")
    option = Option(strike=100.0, expiry_years=maturity)

    def marker(step: int) -> Greeks:
        left = maturity - paths.times[step]
        return black_scholes(paths.spot[step], 100.0, left, VOLATILITY, rate=rate, dividend=dividend)

    return paths, option, marker


class HalfShare:
    """Holds half a share whatever happens: simple enough to do by hand."""

    def predict(self, view: MarketView) -> np.ndarray:
        return np.full_like(view.holdings, 0.5)


def test_two_steps_by_hand():
    """Golden: premium 3, spot 100 -> 104 -> 110, half a share held, 10 bp: every cent written out.

    Catches a premium never paid, a stale price on the last step, settlement a step late, and a cost on one leg only.
    """
    marks = [3.0, 6.0]
    times, spot = np.array([0.0, 0.5, 1.0]), np.array([[100.0], [104.0], [110.0]])
    zero = np.zeros(1)
    episode = sell_and_hedge(
        times,
        spot,
        Option(strike=102.0, expiry_years=1.0),
        lambda step: Greeks(np.array([marks[step]]), zero, zero, zero, zero),
        HalfShare(),
        half_spread_bps=10.0,
    )
    first_cost, last_cost = 0.001 * 0.5 * 100.0, 0.001 * 0.5 * 110.0
    bought = 3.0 - 0.5 * 100.0 - first_cost
    np.testing.assert_allclose(
        episode.cash[:, 0], [bought, bought, bought - 8.0 + 55.0 - last_cost], rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(episode.cost[:, 0], [0.05, 0.05, 0.105], rtol=0, atol=1e-12)
    np.testing.assert_allclose(episode.holdings[:, 0], [0.5, 0.5, 0.0], rtol=0, atol=0)
    np.testing.assert_allclose(episode.marks[:, 0], [3.0, 6.0, 8.0], rtol=0, atol=0)
    np.testing.assert_allclose(episode.pnl, [3.0 - 8.0 + 5.0 - 0.105], rtol=0, atol=1e-12)
    assert list(episode.option_position) == [-1.0, -1.0, 0.0]


@pytest.mark.parametrize("hedge", [NoHedge(), Delta(), HalfShare()])
def test_books_reconcile_at_every_step(hedge):
    """Identity: wealth moves by holdings x dS - d(mark) - cost, and by nothing else.

    Catches cash that appears from nowhere: a trade at another step's price, a cost booked but not paid, an option
    whose settlement differs from its last mark.
    """
    paths, option, marker = black_scholes_world(n_paths=500, n_steps=12)
    episode = sell_and_hedge(paths.times, paths.spot, option, marker, hedge, half_spread_bps=25.0)
    gains = episode.holdings[:-1] * np.diff(episode.spot, axis=0) - np.diff(episode.marks, axis=0)
    change = gains - np.diff(episode.cost, axis=0)
    np.testing.assert_allclose(np.diff(episode.wealth, axis=0), change, rtol=0, atol=1e-10)
    np.testing.assert_allclose(episode.wealth[0], -episode.cost[0], rtol=0, atol=1e-12)
    # the other way round: replay every trade from the record alone
    trades = np.diff(episode.holdings, axis=0, prepend=0.0)
    np.testing.assert_allclose(
        episode.cost[-1], 25e-4 * (np.abs(trades) * episode.spot).sum(axis=0), rtol=1e-12, atol=0
    )
    replayed = episode.premium - option_payoff(option, episode.spot[-1]) - (trades * episode.spot).sum(axis=0)
    np.testing.assert_allclose(episode.pnl, replayed - episode.cost[-1], rtol=0, atol=1e-10)


def test_no_hedge_earns_premium_less_payoff():
    """Identity: without a hedge the P&L is premium - payoff, path by path, at no cost."""
    paths, option, marker = black_scholes_world(n_paths=200, n_steps=5)
    episode = sell_and_hedge(paths.times, paths.spot, option, marker, NoHedge(), half_spread_bps=50.0)
    expected = marker(0).price - np.maximum(paths.spot[-1] - 100.0, 0.0)
    np.testing.assert_allclose(episode.pnl, expected, rtol=0, atol=1e-12)
    assert not episode.cost.any()


@pytest.mark.parametrize(("n_steps", "published"), [(50, 0.9682), (252, 0.4393)])
def test_hedging_error_is_that_of_derman_and_kamal(n_steps, published):
    """Golden: sd of the delta-hedge error at zero cost, S = K = 100, volatility 20 %, one year (Derman & Kamal 1999).

    `published` is an independent Monte Carlo, standard error .0016 and .0007; the limit law sqrt(pi/4) vega sigma /
    sqrt(n) gives .9950 and .4432. 20,000 paths put the standard error of our sd near 0.7 % (fat tails included), so
    3 % is 4 of them. Catches a hedge one step late (the error grows by half) and a premium at another volatility.
    """
    paths, option, marker = black_scholes_world(n_paths=20_000, n_steps=n_steps)
    pnl = sell_and_hedge(paths.times, paths.spot, option, marker, Delta(), half_spread_bps=0.0).pnl
    vega = float(marker(0).vega[0])
    assert pnl.std() == pytest.approx(published, rel=0.03)
    assert pnl.std() == pytest.approx(math.sqrt(math.pi / 4) * vega * VOLATILITY / math.sqrt(n_steps), rel=0.05)
    assert abs(pnl.mean()) < 4 * pnl.std() / math.sqrt(pnl.size)


def test_expected_cost_of_delta_hedging():
    """Golden: k = 1 %, T = .08, 20 rebalances: expected cost 1.3819 by an independent Monte Carlo.

    That number counts the rebalancing trades between the first purchase and the final sale. 20,000 paths leave a
    standard error of .0034; the tolerance is 4 of them. Catches a cost charged on holdings, or twice.
    """
    paths, option, marker = black_scholes_world(n_paths=20_000, n_steps=20, maturity=0.08)
    episode = sell_and_hedge(paths.times, paths.spot, option, marker, Delta(), half_spread_bps=100.0)
    between = episode.cost[-2] - episode.cost[0]
    assert between.mean() == pytest.approx(1.3819, abs=0.015)


def test_rate_and_dividend_are_paid():
    """Statistical: with rate and dividend the delta-hedged P&L still averages zero, 4 standard errors.

    Without interest on the cash the mean is off by 4.3, without dividends by -2.0; the standard error is .005.
    """
    paths, option, marker = black_scholes_world(n_paths=20_000, n_steps=100, rate=0.08, dividend=0.03)
    pnl = sell_and_hedge(
        paths.times, paths.spot, option, marker, Delta(), half_spread_bps=0.0, rate=0.08, dividend=0.03
    ).pnl
    assert abs(pnl.mean()) < 4 * pnl.std() / math.sqrt(pnl.size)
    assert pnl.std() < 1.0


@pytest.mark.parametrize("library", ["torch", pytest.param("cupy", marks=pytest.mark.gpu)])
def test_other_libraries_agree_with_numpy(library):
    """Twin: the same books on torch tensors and CuPy arrays. Catches an operation that only NumPy arrays know."""
    xp = pytest.importorskip(library, reason=f"{library} is not installed")
    if library == "cupy" and not xp.is_available():
        pytest.skip("CuPy finds no CUDA device")
    paths, option, marker = black_scholes_world(n_paths=100, n_steps=6, rate=0.05, dividend=0.02)
    settings = {"half_spread_bps": 5.0, "rate": 0.05, "dividend": 0.02}
    expected = sell_and_hedge(paths.times, paths.spot, option, marker, Delta(), **settings)

    def sent_marker(step: int) -> Greeks:
        mark = marker(step)
        return Greeks(*(xp.asarray(value) for value in (mark.price, mark.delta, mark.gamma, mark.vega, mark.theta)))

    def fetched(array):
        assert type(array) is type(xp.asarray(paths.spot))
        return array.numpy() if library == "torch" else array.get()

    episode = sell_and_hedge(paths.times, xp.asarray(paths.spot), option, sent_marker, Delta(), **settings)
    np.testing.assert_allclose(fetched(episode.pnl), expected.pnl, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fetched(episode.wealth), expected.wealth, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fetched(episode.cost), expected.cost, rtol=1e-12, atol=0)


def test_expiry_must_be_the_last_time():
    """Catches an option that is silently settled before or after it expires."""
    paths, _, marker = black_scholes_world(n_paths=4, n_steps=3)
    with pytest.raises(ValueError, match="times must end at the option's expiry_years"):
        sell_and_hedge(paths.times, paths.spot, Option(100.0, 0.9), marker, Delta(), half_spread_bps=0.0)


@pytest.mark.parametrize("shape", [(5, 4), (3, 4), (4,), (4, 4, 1)])
def test_spot_has_a_row_for_each_time(shape):
    """Catches an episode of four times that settles at the fifth row's spot, a price after the expiry."""
    paths, option, marker = black_scholes_world(n_paths=4, n_steps=3)
    with pytest.raises(ValueError, match=r"spot must have shape \(4, n_paths\), a row for each of times, got \("):
        sell_and_hedge(paths.times, np.full(shape, 100.0), option, marker, Delta(), half_spread_bps=0.0)


@pytest.mark.parametrize(("dtype", "is_shared"), [("float64", True), ("float32", False)])
def test_spot_is_copied_only_to_be_widened(dtype, is_shared):
    """Catches a second spot matrix in memory, and books kept in float32."""
    paths, option, marker = black_scholes_world(n_paths=4, n_steps=3)
    spot = paths.spot.astype(dtype)
    before = spot.copy()
    episode = sell_and_hedge(paths.times, spot, option, marker, Delta(), half_spread_bps=5.0)
    assert np.shares_memory(episode.spot, spot) is is_shared
    assert episode.spot.dtype == episode.cash.dtype == np.float64
    np.testing.assert_array_equal(spot, before)


def test_payoff_of_calls_and_puts_together():
    """Identity: calls and puts in one array, each by its own rule."""
    spot = np.array([90.0, 110.0, 90.0, 110.0])
    option = Option(strike=100.0, expiry_years=1.0, is_call=np.array([True, True, False, False]))
    np.testing.assert_array_equal(option_payoff(option, spot), [0.0, 10.0, 10.0, 0.0])


def test_ledger_refuses_a_negative_spread():
    """Catches a subsidy: a negative half spread would pay the hedger for trading."""
    with pytest.raises(ValueError, match="half_spread_bps must not be negative, got -1"):
        Ledger(np.zeros(1), half_spread_bps=-1.0)
