"""The quotes that a model is fitted to."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hedgerl.calibration import HestonPricer, carry, slices
from hedgerl.data.quotes import expiries

POINT = np.array([2.5, 0.06, 0.9, -0.7, 0.03])


@pytest.fixture(scope="module")
def quotes(chain):
    return chain(HestonPricer, POINT, noise=0.0)


def test_slices_are_what_the_chain_was_made_with(quotes):
    """Identity: without noise every mid is the model's volatility, to rounding of the bid at 0, and the constants are
    those of the chain. Catches a forward or a discount factor that is left out of the volatilities."""
    found = slices(expiries(quotes), n_strikes=200)
    assert [round(each.years * 365) for each in found] == [14, 28, 56, 119, 210, 301]
    model = HestonPricer(found)(POINT)[0]
    np.testing.assert_allclose(np.concatenate([each.mid for each in found]), model, rtol=0, atol=2e-4)
    constants = carry(found, spot=2500.0)
    assert constants.rate == pytest.approx(0.03, abs=1e-4)
    assert constants.dividend == pytest.approx(0.01, abs=1e-4)
    assert constants.spot == pytest.approx(2800.0, rel=1e-5)  # a stale spot does not enter
    assert carry(found[:1], spot=2800.0).dividend == pytest.approx(0.01, abs=1e-3)


def test_choice_of_expiries_and_strikes(quotes):
    """Behaviour: days, moneyness and counts are kept, first and last expiry and strike with them."""
    every = slices(expiries(quotes), moneyness=(-2.0, 1.0), n_strikes=1000)
    few = slices(expiries(quotes), moneyness=(-2.0, 1.0), n_strikes=9, n_expiries=3)
    assert [each.years for each in few][:: len(few) - 1] == [every[0].years, every[-1].years]
    for each in few:
        whole = next(other for other in every if other.date == each.date)
        assert each.k.size == 9
        assert each.k[[0, -1]].tolist() == whole.k[[0, -1]].tolist()
        bounds = np.array([-2.0, 1.0]) * whole.at_the_money * each.years**0.5
        assert bounds[0] <= each.k[0] < each.k[-1] <= bounds[1]
    assert [round(each.years * 365) for each in slices(expiries(quotes), days=(20, 60))] == [28, 56]


def test_of_two_roots_the_one_with_more_quotes(quotes):
    """Behaviour: a date enters once. Catches expiries that count twice."""
    last = quotes[quotes["expiry"] == quotes["expiry"].max()]
    twice = last.assign(root="SPX" if last["root"].iloc[0] == "SPXW" else "SPXW").iloc[::3]
    both = pd.concat([quotes, twice])
    assert [each.root for each in slices(expiries(both))] == [each.root for each in slices(expiries(quotes))]


def test_missing_quotes_are_left_out(quotes):
    """Behaviour: NaN and zero bids make no quote, and an expiry with too few is left out. Catches NaN in residuals."""
    spoiled = quotes.reset_index(drop=True)
    first = spoiled["expiry"] == spoiled["expiry"].min()
    rng = np.random.default_rng(1)
    spoiled.loc[rng.random(len(spoiled)) < 0.2, "bid"] = np.nan
    spoiled.loc[rng.random(len(spoiled)) < 0.1, "ask"] = np.nan
    spoiled.loc[first & (spoiled["strike"] < 2795), "bid"] = 0.0
    spoiled.loc[first & (spoiled["strike"] > 2805), "bid"] = 0.0
    found = slices(expiries(spoiled))
    assert len(found) == 5
    for each in found:
        assert np.isfinite(each.mid).all()
        assert np.isfinite(each.half_spread).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"days": (1000, 2000)}, "days 1000 to 2000 must hold an expiry .* are 14, 28, 56, 119, 210, 301 days ahead"),
        ({"days": (60, 20)}, "days must be"),
        ({"moneyness": (0.5, 1.0)}, "moneyness must be"),
        ({"n_strikes": 3}, "n_strikes must be at least 5, got 3"),
        ({"n_expiries": 0}, "n_expiries must be at least 1, got 0"),
    ],
)
def test_bad_choices(quotes, change, said):
    """Behaviour: what cannot be chosen is told with the rule."""
    with pytest.raises(ValueError, match=said):
        slices(expiries(quotes), **change)
