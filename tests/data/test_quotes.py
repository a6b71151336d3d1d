"""Forward prices, discount factors, implied volatilities and the VIX of quotes, made by a formula and real."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hedgerl.data import chains as chains_of_vendors
from hedgerl.data.quotes import expiries, out_of_the_money, settlement
from hedgerl.data.vix import vix
from hedgerl.pricing import american_price, black_scholes

DAY = pd.Timestamp("2019-05-24")  # a Friday
REAL = os.environ.get("HEDGERL_DATA")
real = pytest.mark.skipif(not REAL, reason="HEDGERL_DATA does not name a folder of market data")


def chain(volatility=0.2, rate=0.03, dividend=0.01, spot=2800.0, spread=0.02, tick=0.05, day=DAY, weeks=(1, 4, 5, 26)):
    """Quotes of options on Fridays, Black-Scholes at a volatility (of log moneyness and years, or a number)."""
    rows = []
    now = np.datetime64(day, "m") + np.timedelta64(16 * 60 + 15, "m")
    for week in weeks:
        date = np.datetime64(day, "D") + np.timedelta64(7 * week, "D")
        root = "SPX" if 15 <= pd.Timestamp(date).day <= 21 else "SPXW"
        years = float((settlement(root, date) - now) / np.timedelta64(525_600, "m"))
        strike = np.arange(1500.0, 4000.0, 25.0)
        k = np.log(strike / spot) - (rate - dividend) * years
        sigma = volatility(k, years) if callable(volatility) else volatility + 0.0 * k
        for right in "CP":
            price = black_scholes(spot, strike, years, sigma, rate=rate, dividend=dividend, is_call=right == "C").price
            half = np.maximum(spread * price, tick)
            frame = pd.DataFrame({"strike": strike, "bid": np.maximum(price - half, 0.0), "ask": price + half})
            rows.append(frame.assign(right=right, root=root, expiry=pd.Timestamp(date)))
    return pd.concat(rows).assign(quote_date=day, underlying_price=spot, underlying="SPX")


def test_forward_and_discount_of_a_formula():
    """Identity: what quotes were made with is found again, the rate of a week only as far as parity can tell it."""
    found = expiries(chain())
    assert [each.root for each in found] == ["SPXW", "SPX", "SPXW", "SPXW"]
    for each in found:
        assert each.forward == pytest.approx(2800.0 * np.exp(0.02 * each.years), rel=1e-7)
        assert each.discount == pytest.approx(np.exp(-0.03 * each.years), rel=1e-5)
        assert each.spot == 2800.0


def test_forward_of_noisy_quotes_is_within_its_error():
    """Statistical: mids rounded and moved by a fifth of the spread: over 40 chains the forward's errors over the
    standard errors given are of mean 0 and of a size between .5 and 1.5."""
    rng = np.random.default_rng(1)
    scores = []
    for _ in range(40):
        quotes = chain(weeks=(4,), spread=0.01)
        moved = 0.2 * (quotes["ask"] - quotes["bid"]) * rng.normal(size=len(quotes))
        quotes["bid"], quotes["ask"] = (quotes["bid"] + moved).clip(0.0).round(2), (quotes["ask"] + moved).round(2)
        (each,) = expiries(quotes, rate=0.03)
        scores.append((each.forward - 2800.0 * np.exp(0.02 * each.years)) / each.forward_error)
    assert abs(np.mean(scores)) < 4 * np.std(scores) / 40**0.5
    assert 0.5 < np.std(scores) < 1.5


def test_a_stale_pair_moves_nothing():
    """Behaviour: one call that is 30 points off at the money hardly moves the forward. Catches least squares."""
    quotes = chain(weeks=(4,)).reset_index(drop=True)
    (clean,) = expiries(quotes, rate=0.03)
    wrong = quotes.index[(quotes["strike"] == 2800.0) & (quotes["right"] == "C")]
    quotes.loc[wrong, ["bid", "ask"]] += 30.0
    (stale,) = expiries(quotes, rate=0.03)
    assert stale.forward == pytest.approx(clean.forward, abs=0.5)


def test_volatilities_out_of_the_money():
    """Identity: the volatility that quotes were made with lies at the mid, and between those of bid and ask."""
    (each,) = expiries(chain(lambda k, years: 0.2 - 0.3 * k, weeks=(5,)))
    found = out_of_the_money(each, bounds=0.25)
    k = np.log(found["strike"] / each.forward)
    assert np.abs(k).max() <= 0.25
    np.testing.assert_array_equal(found["is_call"], found["strike"] >= each.forward)
    usual = found["mid"] > 1.0
    np.testing.assert_allclose(found["volatility"][usual], (0.2 - 0.3 * k)[usual], rtol=0, atol=1e-4)
    assert (found["volatility_bid"][usual] < found["volatility"][usual]).all()
    assert (found["volatility"][usual] < found["volatility_ask"][usual]).all()


def test_expired_options_and_lonely_strikes_are_left_out():
    """Behaviour: an SPX option expires at the open of its day, one of SPXW at the close."""
    quotes = chain(weeks=(1, 4)).assign(quote_date=pd.Timestamp("2019-05-31"))
    assert [each.date for each in expiries(quotes)] == [np.datetime64("2019-06-21")]
    early = expiries(quotes, at="09:00")
    assert [each.date for each in early] == [np.datetime64("2019-05-31"), np.datetime64("2019-06-21")]
    assert early[0].years == pytest.approx(7 / 24 / 365)
    assert expiries(quotes[quotes["right"] == "C"]) == []


def american_chain(rate, dividend, volatility=0.2, years_of=(30, 180), spot=400.0):
    """Quotes of American options by the tree."""
    rows = []
    for days in years_of:
        strike = np.arange(300.0, 500.0, 5.0)
        years = float(days / 365 - 15 / 525_600)  # from 16:15 to 16:00
        for right in "CP":
            price = american_price(
                spot, strike, years, volatility, rate=rate, dividend=dividend, is_call=right == "C", steps=401
            )
            half = np.maximum(0.01 * price, 0.01)
            frame = pd.DataFrame({"strike": strike, "bid": np.maximum(price - half, 0.0), "ask": price + half})
            rows.append(frame.assign(right=right, root="SPY", expiry=DAY + pd.Timedelta(days=days), style="A"))
    return pd.concat(rows).assign(quote_date=DAY, underlying_price=spot, underlying="SPY")


@pytest.mark.parametrize(("rate", "dividend"), [(0.05, 0.015), (0.01, 0.04), (0.0, 0.0)])
def test_american_options_become_european(rate, dividend):
    """Identity: of American quotes by a tree, the forward price and the volatility that they were made with are found,
    with the rate given. As they are, in the money they would imply others.
    """
    found = expiries(american_chain(rate, dividend), rate=rate)
    assert len(found) == 2
    for each in found:
        assert each.forward == pytest.approx(400.0 * np.exp((rate - dividend) * each.years), rel=2e-4)
        assert each.discount == pytest.approx(np.exp(-rate * each.years), rel=1e-12)
        near = np.abs(each.log_moneyness) < 0.15
        for place, is_call in enumerate((True, False)):
            implied = each.implied(each.mid[place], np.full(each.strike.size, is_call))
            np.testing.assert_allclose(implied[near & np.isfinite(each.mid[place])], 0.2, rtol=0, atol=0.003)


def test_a_deep_american_quote_is_left_out():
    """Behaviour: a call deep in the money that is worth no more than exercising it does not stop the chain."""
    quotes = american_chain(0.05, 0.0, years_of=(7,))
    deep = quotes.iloc[:1].assign(strike=250.0, right="C", bid=150.0, ask=150.1)
    (with_it,), (without,) = expiries(pd.concat([deep, quotes]), rate=0.05), expiries(quotes, rate=0.05)
    assert with_it.forward == pytest.approx(without.forward, rel=1e-6)
    assert np.isnan(with_it.bid[0, 0])


def test_american_options_need_a_rate():
    """Behaviour: parity does not tell the rate of American options, so that it must be given."""
    with pytest.raises(ValueError, match="rate must be given where options are American"):
        expiries(american_chain(0.02, 0.01))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda quotes: quotes.drop(columns="root"), "chain must have a column root, got strike, bid"),
        (lambda quotes: pd.concat([quotes, quotes.assign(quote_date=pd.Timestamp("2019-05-28"))]), "of one quote_date"),
    ],
)
def test_refuses_what_is_no_chain(change, message):
    """Behaviour: the rule and what was given."""
    with pytest.raises(ValueError, match=message):
        expiries(change(chain()))
    with pytest.raises(ValueError, match=r"at must be a time of day such as 16:15, got 'noon'"):
        expiries(chain(), at="noon")


@pytest.mark.parametrize("weeklies", [None, False])
def test_vix_of_a_flat_smile(weeklies):
    """Limit: of one volatility at all strikes and expiries the VIX is that volatility, within a strip's error of .1."""
    found = vix(chain(0.2, weeks=(2, 4, 5, 8)), lambda years: 0.03, weeklies=weeklies)
    if weeklies is False:
        with_monthly = chain(0.2, weeks=(4, 8)).assign(root="SPX")
        found = vix(with_monthly, lambda years: 0.03, weeklies=False)
    assert found.value == pytest.approx(20.0, abs=0.1)


def test_vix_needs_two_expiries():
    """Behaviour: refused where nothing lies on one side of 30 days."""
    with pytest.raises(ValueError, match="expiries on either side of 30 days"):
        vix(chain(weeks=(1, 4)), lambda years: 0.03)


def rate_of(day):
    """The Treasury curve of a day as a rate of its own, continuously compounded."""
    curve = pd.read_csv(Path(REAL, "rates", "ust_par_yield_curve_1990_2020.csv"), parse_dates=["Date"])
    row = curve.set_index("Date").sort_index().loc[:day].iloc[-1]
    years = np.array([1 / 12, 0.25, 0.5, 1.0])
    percent = row[["1_MO", "3_MO", "6_MO", "1_YR"]].to_numpy(float)
    return lambda t: float(np.log1p(np.interp(t, years, percent) / 100.0))


def chains(name):
    frame = pd.read_parquet(Path(REAL, "options", "parquet", f"{name}.parquet"))
    if "snapshot" in frame:
        frame = frame[frame["snapshot"] == "close"]
    return dict(list(frame.groupby("quote_date")))


@real
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("spx_chain_20200320_cboe", 0.3), ("spx_chain_20110103_20110107_ivolatility", 0.05)],
)
def test_vix_of_real_chains(name, tolerance):
    """Golden: the official closes of the VIX."""
    official = pd.read_csv(Path(REAL, "index", "vix_daily_1990_2020.csv"))
    official = official.set_index(pd.to_datetime(official["DATE"]))["CLOSE"]
    for day, quotes in chains(name).items():
        assert vix(quotes, rate_of(day)).value == pytest.approx(official[day], abs=tolerance), day


@real
def test_implied_volatility_of_a_vendor():
    """Golden: on the closes of 2019 on which the vendor's calls and puts agree, our volatilities are its own within 5
    basis points in the median."""
    errors = []
    for day, quotes in chains("spx_chain_daily_20190425_20190722_cboe").items():
        if day not in pd.to_datetime(["2019-05-21", "2019-05-24", "2019-07-03"]):
            continue
        for each in expiries(quotes):
            found = out_of_the_money(each)
            own = quotes[(quotes["root"] == each.root) & (quotes["expiry"] == pd.Timestamp(each.date))]
            theirs = own.pivot_table(index="strike", columns="right", values="iv").reindex(found["strike"])
            theirs = np.where(found["is_call"], theirs["C"], theirs["P"])
            good = (theirs > 0.01) & np.isfinite(found["volatility"]) & (each.years > 7 / 365)
            errors.append((found["volatility"] - theirs)[good])
    assert np.median(np.abs(np.concatenate(errors))) < 5e-4


def test_from_a_vendors_file_to_the_vix(tmp_path):
    """Identity: quotes that go through a file and the store give the forwards and the VIX that they give themselves."""
    quotes = chain(0.2, weeks=(2, 4, 5, 8))
    file = tmp_path / "quotes.csv"
    quotes.to_csv(file, index=False, float_format="%.6f")
    chains_of_vendors.import_files("generic", [file], tmp_path / "store")
    stored = chains_of_vendors.Store(tmp_path / "store").chain("SPX", "2019-05-24")
    assert len(stored) == len(quotes)
    forwards = ([each.forward for each in expiries(given)] for given in (stored, quotes))
    np.testing.assert_allclose(*forwards, rtol=1e-7)
    assert vix(stored, lambda years: 0.03).value == pytest.approx(vix(quotes, lambda years: 0.03).value, abs=1e-4)
