"""Books of real contracts: prices to the cent, missing quotes, settlement and rolls, the identities of all books."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hedgerl.data.chains import import_files
from hedgerl.envs import Execution, Listing, OptionBook, Position, ShortOption
from hedgerl.envs.scenario import scenario
from hedgerl.envs.transition import Rollout
from hedgerl.execution import Commission, HalfSpread, QuotedSpread
from hedgerl.sim import QuotedHistory

DAYS = ("2019-03-04", "2019-03-05", "2019-03-06", "2019-03-07")
FAR, NEAR = "2019-04-05", "2019-03-06"
CALL = Listing(name="call", tenor=32 / 365)
FREE = Execution(costs=(QuotedSpread(),))


def quotes(**changed: Any) -> list[tuple[Any, ...]]:
    """Four days of XYZ: a month's call struck at 100, and two others that are always quoted."""
    spot = dict(zip(DAYS, (100.0, 101.0, 102.0, 101.0), strict=True))
    call = dict(zip(DAYS, ((2.0, 2.2), (2.5, 2.6), (3.0, 3.4), (2.4, 2.5)), strict=True)) | changed.get("call", {})
    rows = []
    for day in DAYS:
        rows += [(day, spot[day], FAR, 100.0, "C", *call[day])] if call[day] else []
        rows += [(day, spot[day], FAR, 104.0, "C", 0.9, 1.0), (day, spot[day], FAR, 97.0, "P", 0.9, 1.0)]
    return rows


def play(market: Any, targets: list[list[float]], execution: Execution = FREE, **book: Any) -> tuple[Rollout, Any]:
    """The rollout of these targets, and its scenario."""
    batch = scenario(market, hedges=(CALL,), **book)
    rollout = Rollout(batch, execution, record=True)
    for target in targets:
        rollout.act(np.array([target]))
    return rollout, batch


def test_bought_at_the_ask_and_sold_at_the_bid(by_hand):
    """Golden: a contract is bought at 2.20, half of it sold at 2.50, the rest unwound at 2.40: +22.5 to the cent.

    Catches half a spread on one side only, one of another day, and an unwinding at mid.
    """
    rollout, batch = play(by_hand(quotes()).market(np.array([0]), 3), [[0.0, 100.0], [0.0, 50.0], [0.0, 50.0]])
    assert batch.hedges.symbols == (("XYZ 2019-04-05 100 C",),)
    record = rollout.result()
    np.testing.assert_allclose(record.cash[:, 0], [-220.0, -220 + 125, -95.0, -95 + 120], rtol=0, atol=1e-9)
    np.testing.assert_allclose(record.total_cost, [100 * 0.1 + 50 * 0.05 + 50 * 0.05], rtol=0, atol=1e-9)
    np.testing.assert_allclose(record.pnl, [25.0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(batch.hedges.price[:, 0, 0], [2.1, 2.55, 3.2, 0.0], rtol=0, atol=1e-12)


def test_what_is_not_quoted_is_held(by_hand):
    """Golden: without a quote on the second day nothing is traded then, and shares take the place of its delta.

    Catches a trade at a mark that nobody quoted, and a mark taken from the day after.
    """
    history = by_hand(quotes(call={DAYS[1]: None}))
    rollout, batch = play(history.market(np.array([0]), 3), [[0.0, 100.0], [0.0, 0.0], [0.0, 0.0]])
    record = rollout.result()
    np.testing.assert_array_equal(batch.hedges.quoted[:, 0], [True, False, True, True])
    np.testing.assert_array_equal(record.holdings[:, 0, 1], [100.0, 100.0, 0.0, 0.0])
    delta = float(batch.hedges.delta[1, 0, 0])
    assert 0.5 < delta < 0.8
    np.testing.assert_allclose(record.holdings[:, 0, 0], [0.0, -100 * delta, 0.0, 0.0], rtol=1e-12, atol=0)
    bought, sold = -220.0, 300.0  # at the ask of the first day, the bid of the third
    np.testing.assert_allclose(record.pnl, [bought + sold - 100 * delta * (102.0 - 101.0)], rtol=0, atol=1e-9)
    assert 1.5 < float(batch.hedges.price[1, 0, 0]) < 3.5


def test_surface_trades_at_the_smile(by_hand):
    """Golden: under missing = surface the same trade is made, at the smile's mid less twice half the typical spread.

    Catches a trade for nothing where there is no quote.
    """
    history = by_hand(quotes(call={DAYS[1]: None}), missing="surface", missing_spread=2.0)
    rollout, batch = play(history.market(np.array([0]), 3), [[0.0, 100.0], [0.0, 0.0], [0.0, 0.0]])
    record = rollout.result()
    price = float(batch.hedges.price[1, 0, 0])
    np.testing.assert_allclose(record.cash[1, 0], -220.0 + 100.0 * (price - 2.0 * 0.05), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(record.holdings[:, 0, 1], [100.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("bad", [(0.0, 2.6), (2.6, 2.6)])
def test_one_sided_and_locked_quotes_are_not_traded(by_hand, bad):
    """Golden: a quote without a bid or without a spread leaves the position as it is; its mark lies within it."""
    history = by_hand(quotes(call={DAYS[1]: bad}))
    rollout, batch = play(history.market(np.array([0]), 3), [[0.0, 100.0], [0.0, 0.0], [0.0, 0.0]])
    assert rollout.result().holdings[1, 0, 1] == 100.0
    assert bad[0] <= float(batch.hedges.price[1, 0, 0]) <= bad[1]


def test_forced_sale_without_a_quote_pays(by_hand):
    """Golden: what must be unwound on a day without its quote is sold at the smile's mid less the typical half-spread.

    Catches an unwinding that is free, or one that fails, where there is no quote.
    """
    rollout, batch = play(by_hand(quotes(call={DAYS[3]: None})).market(np.array([0]), 3), [[0.0, 100.0]] * 3)
    record = rollout.result()
    np.testing.assert_allclose(record.costs["spread"][:, 0], [10.0, 0.0, 0.0, 5.0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        record.cash[-1, 0], -220.0 + 100.0 * float(batch.carried[-1, 0, 1]) - 5.0, rtol=0, atol=1e-9
    )


def test_settlement_and_roll_by_hand(by_hand):
    """Golden: a call of two days settles at the third day's price; its place goes to the next contract, bought at its
    own ask.

    Catches a payoff at a stale price, an expiry a day off, and a position carried into the new contract.
    """
    short = [(day, s, NEAR, 101.0, "C", 1.0, 1.1) for day, s in zip(DAYS[:2], (100.0, 101.0), strict=True)]
    place = Listing(name="call", tenor=2 / 365, roll_every=2 / 365, moneyness=1.01)
    window = by_hand(quotes() + short, tenor_tolerance=20.0).market(np.array([0]), 3)
    batch = scenario(window, hedges=(place,), trades_underlying=False)
    assert batch.hedges.symbols[0][0] == f"XYZ {NEAR} 101 C"
    rollout = Rollout(batch, FREE, record=True)
    for _ in range(3):
        rollout.act(np.array([[100.0]]))
    record = rollout.result()
    np.testing.assert_allclose(
        record.flows["option settlement"][:, 0], [0, 0, 100 * (102.0 - 101.0), 0], atol=1e-9, rtol=0
    )
    assert batch.hedges.symbols[0][1] == "XYZ 2019-04-05 104 C"
    np.testing.assert_allclose(record.pnl, [-110.0 + 100.0 - 100.0 + 90.0], rtol=0, atol=1e-9)


def test_wealth_is_what_is_held(source):
    """Identity: random targets on chains with holes: cash + holdings x mids + liabilities is wealth at every step, cash
    the sum of all lines, and every trade of a quoted contract is paid at its own bid or ask.

    Catches a line that is not posted, a roll at the new contract's price, a mark that moves cash.
    """
    task = ShortOption(
        market=source,
        quantity=100.0,
        n_steps=15,
        hedge_options=(Listing(name="a", tenor=30 / 252), Listing(name="b", tenor=10 / 252, roll_every=5 / 252)),
        execution=Execution(
            costs=(QuotedSpread(), HalfSpread(bps=1.0, applies_to="underlying"), Commission(per_contract=0.65))
        ),
    )
    rng = np.random.default_rng(5)
    for start in (0, 7, 20):
        batch: Any = task.history(np.array([start]))
        rollout = Rollout(batch, task.execution, record=True)
        gained = [rollout.act(rng.normal(size=(1, 3)) * 100.0) for _ in range(15)]
        record = rollout.result()
        lines = np.cumsum(sum(record.flows.values()), axis=0)
        np.testing.assert_allclose(record.cash, lines, rtol=0, atol=1e-9)
        np.testing.assert_allclose(record.pnl, sum(gained), rtol=0, atol=1e-9)
        options = record.trades[:, :, 1:]
        paid = (np.abs(options) * batch.hedges.half_spread[:-1]).sum(axis=-1)
        forced = (np.abs(record.closed[:, :, 1:]) * batch.hedges.carried_half_spread).sum(axis=-1)
        shares = 1e-4 * (np.abs(record.trades[:, :, 0]) * batch.spot[:-1]).sum() + 1e-4 * float(
            np.abs(record.closed[-1, :, 0] * batch.spot[-1]).sum()
        )
        np.testing.assert_allclose(record.costs["spread"].sum(), paid.sum() + forced.sum() + shares, rtol=1e-10, atol=0)
        held = ~(batch.hedges.tradable | ~batch.hedges.alive)
        assert held.any()
        for step, column in np.argwhere(held[:-1]):
            assert options[step, 0, column] == 0.0


def test_nothing_knows_tomorrow(source, tmp_path, simulated):
    """Identity: with every quote and spot after a day changed, contracts and marks up to that day are the same bytes.

    Catches a mark that interpolates in time, a contract chosen by what is quoted later, a slope of the whole sample.
    """
    rows = pd.read_csv(simulated.parent / "quotes.csv")
    cut = str(source.dates[30])
    later = rows["quote_date"] > cut
    for name in ("bid", "ask"):
        rows.loc[later, name] = (rows.loc[later, name] * 1.1 + 0.5).clip(upper=rows.loc[later, "underlying_price"])
    rows.loc[later, "underlying_price"] *= 1.01
    file = tmp_path / "other.csv"
    rows.to_csv(file, index=False)
    import_files("generic", [file], tmp_path / "store")
    other = QuotedHistory(store=str(tmp_path / "store"), underlying="XYZ", rate=0.03, dividend=0.01)
    task = ShortOption(market=source, quantity=100.0, n_steps=14, hedge_options=(Listing(name="a", tenor=30 / 252),))
    one, two = (dataclasses.replace(task, market=market).history(np.array([22])) for market in (source, other))
    assert one.hedges.slope[0].any()
    for which in ("hedges", "liabilities"):
        a, b = getattr(one, which), getattr(two, which)
        assert a.symbols == b.symbols
        for name in ("price", "delta", "gamma", "vega", "theta", "volatility", "half_spread", "slope"):
            np.testing.assert_array_equal(getattr(a, name)[:9], getattr(b, name)[:9], err_msg=name)
    np.testing.assert_array_equal(one.volatility[:9], two.volatility[:9])
    assert abs(one.hedges.price[9:13] - two.hedges.price[9:13]).min() > 0.0


def test_a_spread_that_is_not_quoted_is_refused():
    """Catches options that trade free in a market of model marks because nobody quoted a spread."""
    from hedgerl.sim import BlackScholes

    task = ShortOption(market=BlackScholes(volatility=0.2), n_steps=3, hedge_options=(CALL,), execution=FREE)
    with pytest.raises(ValueError, match="model_volatility_points must be given where a market has no quotes"):
        Rollout(task.scenario(4, seed=1), FREE).act(np.zeros((4, 2)))
    given = Execution(costs=(QuotedSpread(model_volatility_points=0.2),))
    as_ever = Execution(costs=(HalfSpread(volatility_points=0.2, applies_to="options"),))
    gains = [Rollout(task.scenario(4, seed=1), each).act(np.full((4, 2), 100.0)) for each in (given, as_ever)]
    np.testing.assert_array_equal(*gains)


def test_clients_and_portfolios_have_real_contracts(source):
    """Identity: a book of clients: what is owed is listed each on its day, and the book's P&L is that of its lines."""
    given = (Position(quantity=-50.0, option=Listing(tenor=20 / 252, moneyness=0.98)),)
    task = OptionBook(
        market=source,
        n_steps=10,
        portfolio=given,
        arrivals=2.0,
        client_option=Listing(name="client", tenor=20 / 252),
        hedge_options=(Listing(name="h", tenor=20 / 252),),
        execution=FREE,
    )
    batch = task.history(np.array([3]), seed=4)
    strikes = {symbol for column in batch.liabilities.symbols for symbol in column}
    assert len(strikes) > 2
    assert batch.liabilities.alive[0, 0]
    rollout = Rollout(batch, FREE, record=True)
    gained = sum(rollout.act(np.zeros((1, 2))) for _ in range(10))
    np.testing.assert_allclose(rollout.result().pnl, gained, rtol=0, atol=1e-9)
    np.testing.assert_allclose(gained, sum(batch.premium + batch.settlement) + 0.0, rtol=0, atol=100.0)  # and interest


REAL = os.environ.get("HEDGERL_DATA")


@pytest.mark.skipif(not REAL, reason="HEDGERL_DATA does not name a folder of market data")
def test_spreads_of_5_february_2018(tmp_path):
    """Golden: a call on the S&P 500 was quoted 10 points wide on 5 February 2018, and another had no bid.

    Catches typical spreads in place of the day's own, and a sale to nobody.
    """
    folder = Path(str(REAL)) / "options" / "parquet"
    rows = pd.concat(pd.read_parquet(file) for file in sorted(folder.glob("spxw_chain_2018*")))
    rows["quote_date"] = pd.to_datetime(rows["quote_date"])
    rows = rows[rows["quote_date"].between("2018-01-31", "2018-02-08")]
    file = tmp_path / "spx.csv"
    rows.drop(columns=["iv", "delta", "gamma"], errors="ignore").to_csv(file, index=False)
    import_files("generic", [file], tmp_path / "store")
    history = QuotedHistory(store=str(tmp_path / "store"), underlying="SPX", at="16:15", tenor_tolerance=0.5)
    first = int(np.searchsorted(history.dates, np.datetime64("2018-02-01")))
    places = [Listing(name=f"{ratio}", moneyness=ratio, tenor=20 / 252) for ratio in (0.97, 1.0)]
    batch: Any = scenario(history.market(np.array([first]), 3), hedges=places)
    assert batch.hedges.symbols == (("SPXW 2018-02-28 2735 C",), ("SPXW 2018-02-28 2820 C",))
    np.testing.assert_allclose(batch.hedges.half_spread[2, 0, 0], 0.5 * (30.0 - 20.0), rtol=1e-12, atol=0)
    assert batch.hedges.half_spread[0, 0, 0] < 1.5
    np.testing.assert_array_equal(batch.hedges.tradable[2], [True, False])  # nobody bid for the second
    assert 0.0 < batch.hedges.price[2, 0, 1] < 10.0
