"""The market of stored quotes: smiles of a day, windows, contracts near the terms, and what is refused."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from hedgerl.envs import Listing, ShortOption, SpyOverlay
from hedgerl.pricing import Option, black_scholes
from hedgerl.sim import QuotedHistory
from hedgerl.sim.quoted import Refused

DAYS = ("2019-03-04", "2019-03-05", "2019-03-06", "2019-03-07", "2019-03-08")


def flat(volatility: float = 0.2, days: tuple[str, ...] = DAYS, strikes=(90.0, 100.0, 110.0)) -> list[tuple]:
    """Calls on XYZ at 100, Black-Scholes at one volatility, bid and ask a cent from the price."""
    rows = []
    for day in days:
        for expiry in ("2019-04-05", "2019-05-03"):
            years = float((np.datetime64(expiry) - np.datetime64(day)).astype(int)) / 365.0
            for strike in strikes:
                price = float(black_scholes(100.0, strike, years, volatility).price)
                rows.append((day, 100.0, expiry, strike, "C", price - 0.01, price + 0.01))
    return rows


def test_smile_of_one_volatility(by_hand):
    """Limit: where every quote has one volatility the smile has it at every strike and time, quoted or not.

    Catches a regression that is not exact on a constant, and a clock that differs from the quotes'.
    """
    day = by_hand(flat()).day(0)
    found = [day.smile(z, years)[0] for z in (-1.0, 0.0, 0.3) for years in (0.02, 0.1, 0.5)]
    np.testing.assert_allclose(found, 0.2, rtol=1e-9, atol=0)
    assert day.smile(0.0, 0.1)[1] == pytest.approx(0.01, abs=1e-12)
    assert day.month_volatility == pytest.approx(0.2, rel=1e-9)


def test_smile_without_a_quote_is_near_it(source):
    """Statistical: each tenth quote within 6 % of the money and beyond a week, left out of its day, is found within .6
    of a volatility point in the median and 2 at the 90 % quantile (a smile in Heston's model, mids exact).

    Catches a smile read at the wrong strike or time, and weights that favour what is far.
    """
    errors = []
    for index in range(0, 36, 3):
        day = source.day(index)
        for place in range(0, len(day.contracts), 10):
            contract, truth = day.contracts[place], day.volatility[place]
            if not math.isfinite(truth) or abs(math.log(contract.strike / day.spot)) > 0.06 or day.years[place] < 0.02:
                continue
            keep = np.arange(len(day.contracts)) != place
            rest = tuple(each for each in day.contracts if each != contract)
            other = dataclasses.replace(day, contracts=rest, bid=day.bid[keep], ask=day.ask[keep])
            errors.append(abs(other.smile_of(contract)[0] - truth))
    assert len(errors) > 40
    assert np.median(errors) < 0.006
    assert np.quantile(errors, 0.9) < 0.02


def test_forward_is_that_of_parity(source):
    """Identity: chains made with rate .03 and yield .01 give them back, whatever the source was told of rates.

    Catches discount and yield exchanged, and Greeks at the wrong forward.
    """
    blind = dataclasses.replace(source, rate=0.0, name=None)
    day = blind.day(0)
    contract = next(each for each in day.contracts if 0.08 < day.years_to(each) < 0.2)
    rate, spot = day.carry_of(contract)
    years = day.years_to(contract)
    forward = spot * math.exp((rate - day.dividend) * years)
    assert forward == pytest.approx(day.spot * math.exp(0.02 * years), rel=2e-4)


def test_windows_span_no_gap(by_hand):
    """Golden: five days, a gap of ten, five days: windows of two steps start on the first three days of each run.

    Catches an episode over days that nobody stored.
    """
    later = ("2019-03-18", "2019-03-19", "2019-03-20", "2019-03-21", "2019-03-22")
    history = by_hand(flat(days=DAYS + later))
    np.testing.assert_array_equal(history.starts(2, every=1), [0, 1, 2, 5, 6, 7])
    assert not history.missing_days
    near = dataclasses.replace(history, max_gap_days=12)
    np.testing.assert_array_equal(near.starts(2, every=4), [0, 4])
    assert [str(day) for day in near.missing_days] == [f"2019-03-{day}" for day in (11, 12, 13, 14, 15)]
    np.testing.assert_allclose(near.market(np.array([3]), 2).times, [0.0, 1 / 365, 11 / 365], rtol=1e-12, atol=0)


def test_contract_nearest_to_the_terms(by_hand):
    """Golden: strikes 90, 100, 110 and two expiries: each wish finds its neighbour, and none beyond the tolerances.

    Catches moneyness taken of the strike, a put for a call, and a tolerance that is not held.
    """
    market = by_hand(flat(), moneyness_tolerance=0.06).market(np.array([0]), 3)
    assert str(market.listed(0, 1.0, 30 / 365, True)) == "XYZ 2019-04-05 100 C"
    assert str(market.listed(0, 1.06, 55 / 365, True)) == "XYZ 2019-05-03 110 C"
    with pytest.raises(Refused, match="the nearest is XYZ 2019-05-03 110 C, at 1.100 of spot and 60 days"):
        market.listed(0, 1.2, 60 / 365, True)
    with pytest.raises(Refused, match="nothing near a put at 1 of spot and 30 days on 2019-03-04"):
        market.listed(0, 1.0, 30 / 365, False)
    with pytest.raises(Refused, match="XYZ quotes has nothing near"):
        market.listed(0, 1.0, 200 / 365, True)


def test_a_mid_that_implies_nothing_is_not_listed(by_hand):
    """Behaviour: contracts whose mid is below what any volatility gives are no beginning: the episode is refused.

    Catches a NaN volatility that ends the whole backtest.
    """
    rows = [("2019-03-04", 110.0, "2019-04-05", strike, "C", 9.0, 9.4) for strike in (100.0, 100.5)]
    market = by_hand([*rows, *flat(days=DAYS[1:])], moneyness_tolerance=0.2).market(np.array([0]), 3)
    with pytest.raises(Refused, match="nothing near a call at 0.91 of spot"):
        market.listed(0, 0.91, 32 / 365, True)


def test_what_is_sold_without_a_quote_brings_nothing_at_worst(by_hand):
    """Limit: on a day without a quote a forced sale pays a multiple of the spread, at most the mark. Catches an option
    that one has to pay to be rid of."""
    rows = [row for row in flat() if not (row[0] == DAYS[2] and row[3] == 110.0)]
    market = by_hand(rows, missing="surface", missing_spread=1e4, moneyness_tolerance=0.2).market(np.array([0]), 3)
    contract = market.listed(0, 1.1, 32 / 365, True)
    mark = market.marks(contract, 0, 2)[2]
    assert not mark.quoted
    assert mark.half_spread == pytest.approx(float(mark.greeks.price))
    assert mark.half_spread > 0.0


def test_a_call_and_a_put_on_the_same_terms_have_one_strike(by_hand):
    """Behaviour: the put takes the call's strike where it is quoted there, though another is as near or nearer; where
    it is not it takes its own nearest.

    Catches a synthetic forward whose two legs have two strikes.
    """
    calls = [(*row[:3], 98.0, *row[4:]) for row in flat(strikes=(98.0,))]
    puts = [(*row[:3], strike, "P", 1.0, 1.1) for row in calls for strike in (98.0, 99.0)]
    for quoted, wanted in ((puts, 98.0), ([row for row in puts if row[3] != 98.0], 99.0)):
        task = SpyOverlay(market=by_hand([*calls, *quoted]), n_steps=3, tenor=32 / 365, shares=100.0)
        assert task.history(np.array([0])).hedges.strike[0, 0].tolist() == [98.0, wanted]


def test_any_option_is_marked_on_the_smile(by_hand):
    """Identity: an option of any strike is Black-Scholes at the flat volatility, its payoff at expiry."""
    market = by_hand(flat()).market(np.array([0]), 3)
    mark = market.mark(Option(strike=97.0, expiry_years=0.1), 1)
    np.testing.assert_allclose(mark.price, black_scholes(100.0, 97.0, 0.1 - 1 / 365, 0.2).price, rtol=1e-9, atol=0)
    np.testing.assert_allclose(market.mark(Option(strike=97.0, expiry_years=2 / 365), 2).price, 3.0, rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match="expiry_years must not lie before"):
        market.mark(Option(strike=97.0, expiry_years=0.5 / 365), 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"underlying": "XYX"}, "underlying must be one that .* has options on .XYZ., got 'XYX'; the nearest is XYZ"),
        ({"store": "/nowhere"}, "no store of option data"),
        ({"store": None}, "store must be the folder"),
        ({"rate": "series"}, "series must be a daily series with rates"),
        ({"rate": "parity"}, 'rate must be a number or "series"'),
        ({"at": "noon"}, "at must be a time of day"),
        ({"missing": "drop"}, "missing must be one of hold, surface"),
        ({"missing_spread": -1.0}, "missing_spread must not be negative"),
        ({"max_spread": 0.0}, "max_spread must be positive"),
        ({"roots": "XYZ"}, "roots must be a list"),
        ({"start": "2020-01-01"}, "start and end must leave days of XYZ"),
        ({"start": "2019-05-01", "end": "2019-04-01"}, "start must not lie after end"),
    ],
)
def test_bad_input_is_refused(source, change, message):
    """Catches a mistake in the configuration that fails somewhere inside, or not at all."""
    with pytest.raises(ValueError, match=message):
        QuotedHistory(**{"store": source.store, "underlying": "XYZ"} | change)


def test_one_episode_is_one_market(source):
    """Catches a batch of windows whose contracts would have to share strikes and expiries."""
    with pytest.raises(ValueError, match="starts must be one whole number on quotes"):
        source.market(np.array([0, 1]), 5)
    with pytest.raises(ValueError, match=r"starts must lie in \[0, "):
        source.market(np.array([1000]), 5)
    with pytest.raises(ValueError, match="n_steps must leave 2 windows of stored days, got 36"):
        source.starts(36)
    task = ShortOption(market=source, n_steps=10, quantity=100.0)
    with pytest.raises(ValueError, match="n_paths must be 1 on quotes"):
        task.scenario(2, seed=1)
    assert task.scenario(1, seed=1).n_paths == 1
    kept = Listing(name="kept", tenor=20 / 252, roll_every=10 / 252, keep=True)
    with pytest.raises(ValueError, match="keep must be false on quotes"):
        dataclasses.replace(task, hedge_options=(kept,)).scenario(1, seed=1)
