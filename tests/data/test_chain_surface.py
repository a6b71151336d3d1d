"""The surface of a chain: close to its quotes, and nothing on it that could be arbitraged."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hedgerl.cli import main
from hedgerl.data import chain_surface, ssvi
from hedgerl.data.chain_surface import ChainSurface, Slice
from hedgerl.data.quotes import Expiry, expiries
from hedgerl.data.ssvi import SSVI, SSVISmile
from hedgerl.data.svi import SVI, Quotes
from hedgerl.pricing import black_scholes

SHAPE = SSVI(rho=-0.7, eta=1.2, gamma=0.4)
YEARS = (0.05, 0.05, 0.2, 0.7)  # of two roots that settle together
THETAS = (0.0012, 0.0013, 0.006, 0.03)
STEEP = SVI((0.0002, 0.05, -0.3, 0.0, 0.02))
FLAT = SVI((0.0035, 0.01, -0.3, 0.0, 0.05))  # of a later expiry, which STEEP crosses on either side


def slice_of(smile, years, forward=100.0, reach=0.4):
    """An expiry with quotes about its smile."""
    k = np.linspace(-reach, reach, 41)
    middle = np.sqrt(smile(k).value / years)
    return Slice("X", np.datetime64("2030-01-01"), years, forward, 0.99, Quotes(k, middle - 0.01, middle + 0.01), smile)


def crossing():
    return ChainSurface("X", np.datetime64("2029-12-01"), (slice_of(STEEP, 0.05), slice_of(FLAT, 0.1, forward=101.0)))


def expiry_of(theta, years, forward=4000.0, noise=0.0, seed=0):
    """An expiry whose quotes come from an SSVI smile, with a spread that grows away from the money."""
    rng = np.random.default_rng(seed)
    strike = np.round(forward * np.exp(np.linspace(-8.0, 4.0, 61) * theta**0.5))
    w = SHAPE.total_variance(np.log(strike / forward), np.array(theta)).value
    volatility = np.sqrt(w / years) * (1.0 + noise * rng.normal(size=strike.size))
    prices = np.stack(
        [np.asarray(black_scholes(forward, strike, years, volatility, is_call=side).price) for side in (True, False)]
    )
    vega = np.asarray(black_scholes(forward, strike, years, volatility).vega)
    half = np.maximum(0.004 * vega, 0.02)
    return Expiry(
        root="SPX",
        date=np.datetime64("2030-01-01"),
        years=years,
        strike=strike,
        bid=np.maximum(prices - half, 0.0),
        ask=prices + half,
        forward=forward,
        forward_error=0.0,
        discount=1.0,
        spot=forward,
    )


def assert_convex_and_growing(surface, times, k):
    """Prices of calls over their forward prices, from prices alone: convex in strike, growing with time."""
    before = np.zeros(k.size)
    strike = np.exp(k)
    for time in times:
        w = surface.total_variance(k, time)
        assert (w >= before * (1 - 1e-9)).all()
        before = w
        call = np.asarray(black_scholes(1.0, strike, 1.0, np.sqrt(w)).price)
        slope = np.diff(call) / np.diff(strike)
        assert (np.diff(slope) > -1e-8).all()
        assert ((slope > -1.0 - 1e-9) & (slope < 1e-9)).all()


def test_crossing_smiles():
    """Identity: where the earlier smile is above, the later expiry takes it, elsewhere its own; there is no arbitrage
    at expiries, before the first, or between them.

    Catches total variances that are interpolated at fixed strike, and a maximum over the wrong expiries.
    """
    surface, k = crossing(), np.linspace(-0.4, 0.4, 801)
    first, second = STEEP(k).value, FLAT(k).value
    assert (first > second).any()
    assert (first < second).any()
    np.testing.assert_allclose(surface.at_expiry(0, k), first, rtol=1e-12)
    np.testing.assert_allclose(surface.at_expiry(1, k), np.maximum(first, second), rtol=1e-12)
    np.testing.assert_allclose(surface.total_variance(k, 0.1), np.maximum(first, second), rtol=1e-12)
    np.testing.assert_allclose(surface.total_variance(k, 0.025), 0.5 * first, rtol=1e-12)
    assert_convex_and_growing(surface, [0.01, 0.04, 0.05, 0.052, 0.06, 0.08, 0.099, 0.1], np.linspace(-1.2, 1.2, 1601))
    found = surface.arbitrage()
    assert found.points > 0
    assert (found.butterflies, found.calendars) == (0, 0)


def test_beyond_the_quotes_prices_are_powers_of_the_strike():
    """Identity: the put's price left of the lowest strike is a power of the strike, of the slope that the smile has
    there; continuous, and no less steep than a straight line to zero."""
    one = slice_of(STEEP, 0.05)
    low = one.reach[0]
    assert low == -0.4
    k = low - np.array([0.0, 0.1, 0.2, 0.3])
    put = np.asarray(black_scholes(1.0, np.exp(k), 1.0, np.sqrt(one.total_variance(k)), is_call=False).price)
    np.testing.assert_allclose(np.diff(np.log(put)) / -0.1, one.powers[0], rtol=1e-6)
    near = low + np.array([-1e-5, 1e-5])
    price = np.asarray(black_scholes(1.0, np.exp(near), 1.0, np.sqrt(one.total_variance(near)), is_call=False).price)
    np.testing.assert_allclose(np.diff(np.log(price)) / 2e-5, one.powers[0], rtol=1e-3)
    assert one.powers[0] >= 1.0
    assert one.powers[1] < 0.0


def test_arbitrage_is_found():
    """Behaviour: a smile with a butterfly is told; catches a check that sees nothing."""
    bad = SVI((-0.041, 0.1331, 0.306, 0.3586, 0.4153))  # Axel Vogt's, Gatheral & Jacquier (2014), example 3.1
    surface = ChainSurface("X", np.datetime64("2029-12-01"), (slice_of(bad, 1.0, reach=1.4),))
    assert surface.arbitrage().butterflies > 10


@pytest.mark.parametrize("smiles", ["svi", "ssvi"])
def test_quotes_give_the_surface_back(smiles):
    """Identity: quotes made from an SSVI surface are met within their spreads, between expiries as well."""
    quoted = [expiry_of(theta, years) for theta, years in zip(THETAS, YEARS, strict=True)]
    surface = chain_surface.fit(quoted, "SPX", "2029-12-01", smiles=smiles)
    errors = surface.errors()
    assert [each.quotes for each in errors] == [each.quotes.k.size for each in surface.slices]
    for each in errors:
        assert each.inside > 0.99
        assert each.root_mean_square < 0.003
    assert surface.arbitrage()[1:] == (0, 0)
    middle = np.sqrt(SHAPE.total_variance(np.zeros(1), np.array(0.5 * (THETAS[2] + THETAS[3]))).value / 0.45)
    np.testing.assert_allclose(surface.implied_volatility(np.zeros(1), 0.45), middle, rtol=0, atol=0.001)
    if smiles == "ssvi":
        shape = surface.slices[0].smile.shape
        np.testing.assert_allclose([shape.rho, shape.eta, shape.gamma], [-0.7, 1.2, 0.4], rtol=0, atol=0.02)


def test_noisy_chain_has_no_arbitrage():
    """Behaviour: quotes whose mids are off by a spread, expiry by expiry, still give a surface without arbitrage."""
    quoted = [expiry_of(theta, y, noise=0.01, seed=i) for i, (theta, y) in enumerate(zip(THETAS, YEARS, strict=True))]
    surface = chain_surface.fit(quoted)
    assert surface.arbitrage()[1:] == (0, 0)
    times = np.sort([*surface.years, 0.01, 0.1, 0.4, 0.6])
    assert_convex_and_growing(surface, times, np.linspace(-0.8, 0.5, 801))


def test_prices_and_forwards():
    """Identity: a call less a put is the discounted forward less the strike, at any time; forwards and discount factors
    are those of the expiries there, and log-linear between."""
    surface = crossing()
    strike, time = np.array([80.0, 100.0, 120.0]), 0.07
    call, put = surface.price(strike, time), surface.price(strike, time, is_call=False)
    np.testing.assert_allclose(call - put, surface.discount(time) * (surface.forward(time) - strike), rtol=1e-9)
    np.testing.assert_allclose(surface.forward([0.01, 0.05, 0.075, 0.1]), [100, 100, 10100**0.5, 101], rtol=1e-12)
    np.testing.assert_allclose(surface.discount([0.0, 0.025, 0.05, 0.1]), [1, 0.99**0.5, 0.99, 0.99], rtol=1e-12)
    expected = black_scholes(
        surface.forward(time), strike, time, surface.implied_volatility(np.log(strike / surface.forward(time)), time)
    )
    np.testing.assert_allclose(call, surface.discount(time) * np.asarray(expected.price), rtol=1e-9)


def test_refusals():
    """Behaviour: what cannot be fitted or asked is told with the rule."""
    surface = crossing()
    for years in (0.0, -1.0, 0.11, np.nan):
        with pytest.raises(ValueError, match="years must lie above 0 and up to the last expiry, 0.1, got"):
            surface.total_variance(0.0, years)
    with pytest.raises(ValueError, match="slices must be in the order of their years"):
        dataclasses.replace(surface, slices=surface.slices[::-1])
    with pytest.raises(ValueError, match="slices must be one at least, got none"):
        ChainSurface("X", np.datetime64("2029-12-01"), ())
    with pytest.raises(ValueError, match="chain must have an expiry with 5 quotes"):
        chain_surface.fit([])
    with pytest.raises(ValueError, match="smiles must be one of svi, ssvi, got 'sabr'"):
        chain_surface.fit([], smiles="sabr")
    with pytest.raises(ValueError, match="quotes must be of one expiry at least, got none"):
        ssvi.fit([], [])


def test_ssvi_smile():
    """Identity: its derivatives are difference quotients."""
    smile, k, step = SSVISmile(SHAPE, 0.01), np.linspace(-0.5, 0.5, 11), 1e-4
    up, middle, down = (smile(k + s * step).value for s in (1, 0, -1))
    np.testing.assert_allclose(smile(k).slope, (up - down) / (2 * step), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(smile(k).curvature, (up - 2 * middle + down) / step**2, rtol=1e-4, atol=1e-6)


def stored(folder, style="E"):
    """A store with a day's chain of two expiries, as a vendor's file brings it."""
    day, rows = np.datetime64("2019-05-24"), []
    for theta, expiry in ((0.002, "2019-06-21"), (0.006, "2019-08-16")):
        each = expiry_of(theta, 0.1, forward=2800.0)
        for side, right in enumerate("CP"):
            quotes = {"strike": each.strike, "bid": each.bid[side].round(2), "ask": each.ask[side].round(2)}
            rows.append(pd.DataFrame(quotes).assign(right=right, expiry=expiry))
    fixed = {"quote_date": str(day), "underlying": "SPX", "root": "SPX", "underlying_price": 2800.0, "style": style}
    pd.concat(rows).assign(**fixed).to_csv(folder / "chain.csv", index=False)
    assert main(["data", "import", "--format", "generic", str(folder / "chain.csv"), "--store", str(folder / "s")]) == 0
    return str(folder / "s")


def test_the_command(tmp_path, capsys):
    """Behaviour: `hedgerl data surface` prints a line for each expiry, and leaves a picture and the parameters from
    which the surface can be made again."""
    store = stored(tmp_path)
    assert main(["data", "surface", store, "--date", "2019-05-24", "--out", str(tmp_path / "o")]) == 0
    told = capsys.readouterr().out
    assert "2019-06-21" in told
    assert "between bid and ask" in told
    assert "0 butterflies and 0 calendar spreads" in told
    assert (tmp_path / "o" / "spx_2019-05-24_svi.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "o" / "spx_2019-05-24_svi.json").read_text())
    first = content["expiries"][0]
    level = SVI(tuple(first["smile"]["parameters"]))(np.zeros(1)).value[0]
    assert (level / first["years"]) ** 0.5 == pytest.approx(first["at_the_money"], rel=1e-9)
    assert content["inside"] > 0.97


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--date", "2019-05-25"], "has no quotes of SPX on 2019-05-25; the nearest day is 2019-05-24"),
        (["--date", "2019-05-24", "--underlying", "SPY"], "has no options on 'SPY' (it has: SPX)"),
        (["--date", "2019-05-24", "--smiles", "heston"], "smiles must be one of svi, ssvi, got 'heston'"),
        (["--date", "2019-05-24", "--at", "noon"], "at must be a time of day such as 16:15, got 'noon'"),
        (["--date", "soon"], "date must be a date or YYYY-MM-DD, got 'soon'"),
        ([], "the following arguments are required: --date"),
    ],
)
def test_the_command_refuses(tmp_path, capsys, arguments, message):
    """Behaviour: one line with the rule, exit status 2, and nothing written."""
    store = stored(tmp_path)
    capsys.readouterr()
    assert main(["data", "surface", store, *arguments, "--out", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_american_options_of_a_store_need_a_rate(tmp_path, capsys):
    """Behaviour: told with its rule; with a rate they are fitted."""
    store = stored(tmp_path, style="A")
    given = ["data", "surface", store, "--date", "2019-05-24", "--out", str(tmp_path)]
    assert main(given) == 2
    assert "rate must be given where options are American" in capsys.readouterr().err
    assert main([*given, "--rate", "0.0"]) == 0


@pytest.mark.slow
@pytest.mark.skipif("HEDGERL_DATA" not in os.environ, reason="HEDGERL_DATA does not name a folder of market data")
@pytest.mark.parametrize("day", ["2011-01-05", "2019-05-24", "2020-03-20"])
def test_index_chains(day):
    """Golden: of the S&P 500's closes at least 97 % of the quotes lie within bid and ask, without any arbitrage."""
    folder = Path(os.environ["HEDGERL_DATA"], "options", "parquet")
    name = {
        "2011": "spx_chain_20110103_20110107_ivolatility",
        "2019": "spx_chain_daily_20190425_20190722_cboe",
        "2020": "spx_chain_20200320_cboe",
    }[day[:4]]
    chain = pd.read_parquet(folder / f"{name}.parquet")
    surface = chain_surface.fit(expiries(chain[chain["quote_date"] == day]), "SPX", day)
    errors = surface.errors()
    assert sum(each.inside * each.quotes for each in errors) / sum(each.quotes for each in errors) > 0.97
    assert surface.arbitrage()[1:] == (0, 0)
    assert_convex_and_growing(surface, np.sort([*surface.years, *(0.97 * surface.years)]), np.linspace(-0.7, 0.4, 1101))
