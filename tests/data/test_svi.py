"""Smiles of one expiry: what they were made from is found, and arbitrage is not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hedgerl.data import svi
from hedgerl.data.quotes import expiries, out_of_the_money
from hedgerl.data.svi import SVI, Quotes

YEARS = 0.25
ONE = SVI((0.002, 0.06, -0.6, 0.02, 0.08))
BUMP = SVI((0.002, 0.06, -0.6, 0.02, 0.08, 0.001, -0.08, 0.06))
K = np.linspace(-0.5, 0.25, 80)


def quotes(smile, half=0.002, noise=0.0, k=K, seed=1):
    """Quotes about a smile's volatilities."""
    middle = np.sqrt(smile(k).value / YEARS) + noise * np.random.default_rng(seed).normal(size=k.size)
    return Quotes(k, middle - half, middle + half)


def wide(smile, points=4001):
    """Where options of this expiry are worth anything."""
    reach = svi.REACH * float(smile(np.zeros(1)).value[0]) ** 0.5
    return np.linspace(-reach, reach, points)


def assert_no_butterfly(smile):
    assert (smile(wide(smile)).value > 0).all()
    assert (smile.density(wide(smile)) >= 0).all()
    assert max(smile.slopes) <= 2.0


@pytest.mark.parametrize("made", [ONE, BUMP], ids=["hyperbola", "with a bump"])
def test_derivatives(made):
    """Identity: w' and w'' are difference quotients of w, g is the density of the formula in prices, and the slopes of
    the wings are met far out."""
    k, step = np.linspace(-1.0, 1.0, 21), 1e-4
    curve, up, down = made(k), made(k + step).value, made(k - step).value
    np.testing.assert_allclose(curve.slope, (up - down) / (2 * step), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(curve.curvature, (up - 2 * curve.value + down) / step**2, rtol=1e-4, atol=1e-6)
    left, right = made.slopes
    far = np.array([-1e4, 1e4])
    np.testing.assert_allclose(made(far).slope, [-left, right], rtol=1e-3)
    assert made(np.zeros((2, 3))).value.shape == (2, 3)


def test_derivatives_of_the_fit():
    """Identity: the Jacobian of the residuals is their difference quotient, penalties included.

    Catches a constraint whose derivative points elsewhere, with which fits end anywhere.
    """
    problem = svi._Problem(K, np.full(K.size, 0.2), np.full(K.size, 0.002), YEARS)
    rng = np.random.default_rng(3)
    for _ in range(5):
        point = np.array(BUMP.parameters) * (1.0 + 0.3 * rng.normal(size=8))
        point[2] = np.clip(point[2], -0.9, 0.9)
        numeric = np.stack(
            [(problem._residuals(point + h) - problem._residuals(point - h)) / 2e-7 for h in 1e-7 * np.eye(8)], axis=1
        )
        np.testing.assert_allclose(problem._jacobian(point), numeric, rtol=1e-3, atol=1e-4 * np.abs(numeric).max())


@pytest.mark.parametrize("made", [ONE, BUMP], ids=["hyperbola", "with a bump"])
def test_a_smile_is_found_again(made):
    """Identity: quotes about a smile give it back within a tenth of half the spread."""
    found = svi.fit(quotes(made), YEARS)
    np.testing.assert_allclose(np.sqrt(found(K).value / YEARS), np.sqrt(made(K).value / YEARS), rtol=0, atol=2e-4)
    assert_no_butterfly(found)


@pytest.mark.parametrize("seed", range(6))
def test_quotes_with_arbitrage_give_a_smile_without(seed):
    """Behaviour: mids that jump by several spreads, on which butterflies could be sold, are smoothed.

    Catches a penalty that is too weak, and a density that is negative between the points where it is looked at.
    """
    found = svi.fit(quotes(BUMP, noise=0.01, seed=seed), YEARS)
    assert_no_butterfly(found)
    assert np.abs(np.sqrt(found(K).value / YEARS) - np.sqrt(BUMP(K).value / YEARS)).mean() < 0.01


def test_few_quotes():
    """Behaviour: 5 quotes are enough for a hyperbola, 12 for a bump as well; of fewer than 5 nothing can be said."""
    few = quotes(ONE, k=np.linspace(-0.3, 0.2, 5))
    assert len(svi.fit(few, YEARS).parameters) == 5
    assert len(svi.fit(quotes(ONE, k=np.linspace(-0.3, 0.2, 12)), YEARS).parameters) == 8
    with pytest.raises(ValueError, match="quotes must be 5 at least for a smile, got 4"):
        svi.fit(Quotes(*(each[:4] for each in few)), YEARS)
    with pytest.raises(ValueError, match="parameters must be 5 or 8 numbers, got 4"):
        SVI((0.1, 0.2, 0.3, 0.4))


def test_a_bid_of_nothing_bounds_only_from_above():
    """Behaviour: wings with no bid that implies a volatility do not pull the smile to zero by their number."""
    given = quotes(BUMP)
    bid = np.where(K > 0.2, np.nan, given.bid)
    found = svi.fit(given._replace(bid=bid), YEARS)
    near = K <= 0.2
    np.testing.assert_allclose(
        np.sqrt(found(K[near]).value / YEARS), np.sqrt(BUMP(K[near]).value / YEARS), rtol=0, atol=2e-3
    )


@pytest.mark.skipif("HEDGERL_DATA" not in os.environ, reason="HEDGERL_DATA does not name a folder of market data")
def test_smiles_of_an_index_lie_within_the_spreads():
    """Golden: of the S&P 500's closes, expiry by expiry, at least 97 % of the quotes out of the money, on
    a calm day and on one of a sell-off."""
    folder = Path(os.environ["HEDGERL_DATA"], "options", "parquet")
    inside = []
    for name, day in (
        ("spx_chain_daily_20190425_20190722_cboe", "2019-04-26"),
        ("spx_chain_daily_20190425_20190722_cboe", "2019-05-09"),
        ("spx_chain_20110103_20110107_ivolatility", "2011-01-05"),
    ):
        chain = pd.read_parquet(folder / f"{name}.parquet")
        for each in expiries(chain[chain["quote_date"] == day])[2::4]:
            found = out_of_the_money(each)
            good = np.isfinite(found["volatility_ask"])
            k = np.log(found["strike"] / each.forward)[good]
            bid, ask = found["volatility_bid"][good], found["volatility_ask"][good]
            smile = svi.fit(Quotes(k, bid, ask), each.years)
            assert_no_butterfly(smile)
            fitted = np.sqrt(smile(k).value / each.years)
            inside.append((fitted <= ask) & ~(fitted < bid))
    assert np.concatenate(inside).mean() > 0.97
