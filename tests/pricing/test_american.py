"""American options: published prices, limits, and volatilities that are found again."""

from __future__ import annotations

import numpy as np
import pytest

from hedgerl.pricing import american_implied_volatility, american_price, black_scholes

PUTS = (  # spot, volatility, years, price by finite differences: Longstaff & Schwartz (2001), table 1; 50 dates a year
    (36.0, 0.2, 1.0, 4.478),
    (36.0, 0.2, 2.0, 4.840),
    (36.0, 0.4, 1.0, 7.101),
    (36.0, 0.4, 2.0, 8.508),
    (38.0, 0.2, 1.0, 3.250),
    (40.0, 0.2, 1.0, 2.314),
    (42.0, 0.2, 1.0, 1.617),
    (44.0, 0.2, 1.0, 1.110),
    (44.0, 0.4, 2.0, 5.647),
)
STRIKES = np.linspace(70.0, 140.0, 29)


@pytest.mark.parametrize(("spot", "volatility", "years", "price"), PUTS)
def test_published_puts(spot, volatility, years, price):
    """Golden: table 1 of Longstaff & Schwartz, whose options may be exercised at 50 dates a year and cost up to a cent
    less for it."""
    found = float(american_price(spot, 40.0, years, volatility, rate=0.06, is_call=False, steps=501))
    assert -0.002 < found - price < 0.01


def test_the_european_price_is_a_floor_and_met_where_nobody_exercises():
    """Limit: a call without dividends and a put without interest cost what European ones do; others cost more, and
    never less than exercising now."""
    never = american_price(100.0, STRIKES, 0.5, 0.3, rate=0.05)
    european = black_scholes(100.0, STRIKES, 0.5, 0.3, rate=0.05).price
    np.testing.assert_allclose(never, european, rtol=0, atol=2e-3)
    put = american_price(100.0, STRIKES, 0.5, 0.3, is_call=False)
    np.testing.assert_allclose(put, black_scholes(100.0, STRIKES, 0.5, 0.3, is_call=False).price, rtol=0, atol=2e-3)
    put = american_price(100.0, STRIKES, 0.5, 0.3, rate=0.05, is_call=False)
    assert (put >= np.maximum(STRIKES - 100.0, 0.0) - 1e-9).all()
    assert (put > np.asarray(black_scholes(100.0, STRIKES, 0.5, 0.3, rate=0.05, is_call=False).price) - 2e-3).all()
    call = american_price(100.0, 60.0, 0.5, 0.2, rate=0.01, dividend=0.08)
    assert float(call) == pytest.approx(40.0)


def test_far_from_the_money():
    """Limit: hundreds of deviations out an option is worth nothing, and as many in what exercising brings.

    Catches chances of 0 and 1, of which the tree makes NaN.
    """
    for years, volatility in ((4 / 365, 0.002), (2.0, 5.0)):
        put = american_price(100.0, np.array([20.0, 500.0]), years, volatility, rate=0.03, is_call=False)
        call = american_price(100.0, np.array([20.0, 500.0]), years, volatility, dividend=0.03)
        assert np.isfinite([*put, *call]).all()
        if volatility < 1.0:
            np.testing.assert_allclose([*put, *call], [0.0, 400.0, 80.0, 0.0], rtol=0, atol=1e-6)
    price = american_price(100.0, 20.0, 4 / 365, 6.0, is_call=False)
    found = american_implied_volatility(price, 100.0, 20.0, 4 / 365, is_call=False)
    np.testing.assert_allclose(found, 6.0, rtol=1e-4)


def test_calls_and_puts_mirror_each_other():
    """Identity: C(S, K, r, q) = P(K, S, q, r), McDonald & Schroder (1998)."""
    for strike in (80.0, 100.0, 125.0):
        call = american_price(100.0, strike, 0.7, 0.25, rate=0.03, dividend=0.05, steps=1001)
        put = american_price(strike, 100.0, 0.7, 0.25, rate=0.05, dividend=0.03, is_call=False, steps=1001)
        assert float(call) == pytest.approx(float(put), abs=2e-3)


@pytest.mark.parametrize("is_call", [True, False])
@pytest.mark.parametrize("years", [5 / 365, 0.25, 2.0])
def test_volatilities_are_found_again(is_call, years):
    """Identity: the price at a volatility implies it, where it tells more than exercising now does."""
    volatility = 0.15 + 0.4 * np.abs(np.log(STRIKES / 100.0))
    price = american_price(100.0, STRIKES, years, volatility, rate=0.04, dividend=0.02, is_call=is_call)
    found = american_implied_volatility(price, 100.0, STRIKES, years, rate=0.04, dividend=0.02, is_call=is_call)
    out = (STRIKES >= 100.0) == is_call
    good = out & (price > 1e-3)
    assert good.sum() >= 2
    np.testing.assert_allclose(found[good], volatility[good], rtol=0, atol=2e-4)
    assert np.isfinite(found[~out]).mean() > 0.1


def test_prices_that_imply_nothing():
    """Behaviour: NaN at and below what exercising now brings, beyond the bounds, and for NaN."""
    price = np.array([10.0, 9.0, 111.0, np.nan, 12.0])
    found = american_implied_volatility(price, 100.0, 110.0, 0.5, rate=0.05, is_call=False)
    assert np.isnan(found[:4]).all()
    assert np.isfinite(found[4])
    # of a week's call deep in the money no European volatility exists, and the search begins anywhere
    for mid, strike, days in ((20.02, 80.0, 7), (10.01, 90.0, 3), (30.01, 70.0, 2), (20.005, 80.0, 30)):
        assert np.isnan(american_implied_volatility(np.array([mid]), 100.0, np.array([strike]), days / 365, rate=0.05))
    assert american_implied_volatility(price[:, None], 100.0, np.array([110.0, 100.0]), 0.5).shape == (5, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spot": 0.0}, "spot must be positive, got 0"),
        ({"years": -1.0}, "years must be positive, got -1"),
        ({"strike": np.array([1.0, -2.0])}, "strike must be positive, got -2"),
        ({"volatility": np.nan}, "volatility must be positive, got nan"),
        ({"steps": 10}, "steps must be odd and at least 3, got 10"),
        ({"rate": np.inf}, "rate must be a finite number, got inf"),
    ],
)
def test_refusals(change, message):
    """Behaviour: the argument, the rule and the value."""
    with pytest.raises(ValueError, match=message):
        american_price(**({"spot": 1.0, "strike": 1.0, "years": 1.0, "volatility": 0.2} | change))
