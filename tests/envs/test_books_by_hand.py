"""Whole episodes whose every cent is written out."""

from __future__ import annotations

import numpy as np
import pytest

from hedgerl.data import sp500_series
from hedgerl.envs import Execution, Limits, Listing, OptionBook, Position, ShortOption
from hedgerl.envs.scenario import scenario
from hedgerl.envs.transition import Rollout
from hedgerl.execution import Commission, Funding, HalfSpread, Proportional
from hedgerl.pricing import Greeks
from hedgerl.sim import BlackScholes, History


class Quoted:
    """A market of one path whose option is worth intrinsic value plus so much for each step that is left."""

    dividend = 0.0

    def __init__(self, spot: list[float], rate: float = 0.0, per_step: float = 1.0) -> None:
        self.times = np.arange(len(spot)) / 4.0
        self.spot = np.array(spot)[:, None]
        self.variance = np.full_like(self.spot, 0.04)
        self.rate, self.per_step = rate, per_step

    def rate_at(self, step: int) -> float:
        return self.rate

    def mark(self, option, step: int) -> Greeks:
        sign = 1.0 if option.is_call else -1.0
        left = (option.expiry_years - self.times[step]) * 4.0
        price = np.maximum(sign * (self.spot[step] - option.strike), 0.0) + self.per_step * left
        return Greeks(price, 0.5 * sign + 0.0 * price, 0.0 * price, 2.0 + 0.0 * price, -4.0 + 0.0 * price)


def test_short_call_by_hand():
    """Golden: a call struck at 102 is sold at 2, spot 100 -> 104 -> 110, half a share held, 10 bp.

    Catches a premium never paid, a stale price on the last step, settlement a step late, and a cost on one leg only.
    """
    market = Quoted([100.0, 104.0, 110.0])
    sold = Listing(moneyness=1.02, tenor=0.5)
    batch = scenario(market, hedges=(), liabilities=(sold,), quantities=(-1.0,))
    rollout = Rollout(batch, Execution(costs=(HalfSpread(bps=10.0),)), record=True)
    first = rollout.act(np.array([[0.5]]))
    second = rollout.act(np.array([[0.5]]))
    # option: 2 -> 2 + 1 -> 8
    np.testing.assert_allclose(first, [0.5 * 4.0 - 1.0 - 0.05], rtol=0, atol=1e-12)
    np.testing.assert_allclose(second, [0.5 * 6.0 - 5.0 - 0.055], rtol=0, atol=1e-12)
    record = rollout.result()
    np.testing.assert_allclose(record.cash[:, 0], [2 - 50.05, 2 - 50.05, 2 - 50.05 - 8 + 54.945], rtol=0, atol=1e-12)
    np.testing.assert_allclose(record.holdings[:, 0, 0], [0.5, 0.5, 0.0], rtol=0, atol=0)
    np.testing.assert_allclose(record.pnl, [2 - 8 + 5 - 0.105], rtol=0, atol=1e-12)
    np.testing.assert_allclose(record.total_cost, [0.105], rtol=0, atol=1e-12)
    np.testing.assert_allclose(record.flows["premium"][:, 0], [2.0, 0.0, 0.0], rtol=0, atol=0)
    np.testing.assert_allclose(record.flows["settlement"][:, 0], [0.0, 0.0, -8.0], rtol=0, atol=0)


def test_rolled_put_by_hand():
    """Golden: two contracts of a one-step put: bought at 1, settled, bought anew at the new strike.

    Catches holdings re-struck to the new at-the-money option, a payoff of the wrong strike, and fees at settlement.
    """
    market = Quoted([100.0, 90.0, 95.0])
    put = Listing(name="put", tenor=0.25, roll_every=0.25, is_call=False)
    batch = scenario(market, hedges=(put,), trades_underlying=False, shares=200.0)
    np.testing.assert_array_equal(batch.hedges.strike[:2, 0, 0], [100.0, 90.0])
    np.testing.assert_array_equal(batch.carried[:, 0, 0], [0.0, 10.0, 0.0])
    rollout = Rollout(batch, Execution(costs=(Commission(per_contract=0.65),)), record=True)
    held = np.array([[200.0]])  # two contracts
    first = rollout.act(held)
    assert not rollout.holdings.any()  # settled
    second = rollout.act(held)
    # shares -2000, then +1000; puts cost 200 each time, pay 2000, then nothing
    np.testing.assert_allclose(first, [-2000 + 2000 - 200 - 1.3], rtol=0, atol=1e-9)
    np.testing.assert_allclose(second, [1000 - 200 - 1.3], rtol=0, atol=1e-9)
    record = rollout.result()
    np.testing.assert_allclose(record.flows["option settlement"][:, 0], [0.0, 2000.0, 0.0], rtol=0, atol=0)
    np.testing.assert_allclose(record.flows["options"][:, 0], [-200.0, -200.0, 0.0], rtol=0, atol=0)
    np.testing.assert_allclose(record.pnl, first + second, rtol=0, atol=1e-9)


def test_roll_before_expiry_is_sold_at_its_quote():
    """Golden: a two-step call rolled after one: the old contract is sold at its mid, costs and all, the new one bought.

    Catches a roll that is free, or that sells the new contract in place of the old.
    """
    market = Quoted([100.0, 104.0, 104.0])
    call = Listing(name="call", tenor=0.5, roll_every=0.25)
    batch = scenario(market, hedges=(call,))
    execution = Execution(costs=(Proportional(rate=0.01, applies_to="options"),))
    rollout = Rollout(batch, execution, record=True)
    first = rollout.act(np.array([[0.0, 100.0]]))  # bought at 2, sold at 4 + 1
    np.testing.assert_allclose(first, [300.0 - 2.0 - 5.0], rtol=0, atol=1e-9)
    second = rollout.act(np.array([[0.0, 100.0]]))  # bought at 2 again, worth 1 at the end
    np.testing.assert_allclose(second, [-100.0 - 2.0 - 1.0], rtol=0, atol=1e-9)
    record = rollout.result()
    np.testing.assert_allclose(record.closed[:, 0, 1], [0.0, -100.0, -100.0], rtol=0, atol=0)
    np.testing.assert_allclose(record.trades[:, 0, 1], [100.0, 100.0], rtol=0, atol=0)
    np.testing.assert_allclose(record.total_cost, [10.0], rtol=0, atol=1e-9)


def test_unwinding_may_be_free():
    """Golden: with unwind off the last sale is at mid, the others still pay."""
    batch = scenario(Quoted([100.0, 100.0, 100.0]), hedges=())
    costs = (HalfSpread(bps=10.0),)
    paid = []
    for unwind in (True, False):
        rollout = Rollout(batch, Execution(costs=costs, unwind=unwind))
        paid.append(float(rollout.act(np.array([[1.0]]))[0] + rollout.act(np.array([[2.0]]))[0]))
    assert paid == pytest.approx([-0.4, -0.2], abs=1e-12)


def test_limits_by_hand():
    """Golden: at most 3 contracts a step, 5 held, whole ones: 2.6 -> 3, 8 -> 5 (the trade limit leaves 6)."""
    call = Listing(name="call", tenor=1.0)
    batch = scenario(Quoted([100.0] * 5), hedges=(call,), trades_underlying=False)
    rollout = Rollout(batch, Execution(limits=Limits(trade=3.0, holding=5.0, whole=True)))
    held = []
    for target in (260.0, 800.0, -800.0, 40.0):
        rollout.act(np.array([[target]]))
        held.append(float(rollout.holdings[0, 0]))
    assert held == [300.0, 500.0, 200.0, 0.0]


def test_interest_is_earned_on_what_is_left():
    """Golden: a loan to buy a share costs the rate and the margin over each quarter."""
    batch = scenario(Quoted([100.0, 100.0, 100.0], rate=0.08), hedges=())
    rollout = Rollout(batch, Execution(funding=Funding(margin_spread=0.04)), record=True)
    rollout.act(np.array([[1.0]]))
    rollout.act(np.array([[1.0]]))
    assert float(rollout.result().pnl[0]) == pytest.approx(100.0 - 100.0 * np.exp(0.12 * 0.5), rel=1e-12)


def test_last_liability_is_bought_back_at_its_mark():
    """Golden: an option of four steps sold in an episode of two ends at its mark."""
    market = Quoted([100.0, 100.0, 101.0])
    sold = Listing(tenor=1.0)
    batch = scenario(market, hedges=(), liabilities=(sold,), quantities=(-10.0,))
    rollout = Rollout(batch, Execution())
    total = rollout.act(np.zeros((1, 1))) + rollout.act(np.zeros((1, 1)))
    np.testing.assert_allclose(total, [10.0 * (4.0 - 3.0)], rtol=0, atol=1e-12)


def test_whole_lots_stay_whole_under_broken_limits():
    """Catches a limit of 2.5 contracts that leaves half a contract in a book of whole ones."""
    task = ShortOption(market=BlackScholes(volatility=0.2), n_steps=4, hedge_options=(Listing(name="a", tenor=0.1),))
    rollout = Rollout(task.scenario(3, seed=1), Execution(limits=Limits(trade=2.5, holding=4.5, whole=True)))
    for most in (2.0, 4.0):
        rollout.act(1000.0 + 0.0 * rollout.holdings)
        np.testing.assert_array_equal(rollout.held, np.tile([most, 100 * most], (3, 1)))


def test_what_is_no_contract_is_refused():
    """Catches a traceback from deep inside where a task is given numbers for options."""
    market = BlackScholes(volatility=0.2)
    for make in (
        lambda: ShortOption(market=market, hedge_options=[3]),
        lambda: OptionBook(market=market, hedge_options=(0.1,)),
        lambda: OptionBook(market=market, portfolio=[Listing()]),
        lambda: OptionBook(market=market, client_option=0.1),
        lambda: Position(option="call"),
    ):
        with pytest.raises(ValueError, match=r"must be of hedgerl\.envs\.(Listing|Position), got"):
            make()


def test_clients_of_history_are_fresh_without_a_seed():
    """Catches the same clients in every batch: the windows were fresh without a seed, the clients those of seed 0."""
    history = History(sp500_series(), start="2005-01-01", end="2007-01-01")
    task = OptionBook(market=history, n_steps=5, arrivals=2.0)
    first, second, third, again = (task.scenario(50, seed).position for seed in (None, None, 7, 7))
    assert (first != second).any()
    np.testing.assert_array_equal(third, again)


def test_kept_contracts_by_hand():
    """Golden: a three-step call listed anew each step, one bought each time; the old ones are held until they expire.

    Catches a kept contract marked at the new strike, sold in the roll, or left without its payoff.
    """
    market = Quoted([100.0, 104.0, 104.0, 108.0, 108.0])
    call = Listing(name="call", tenor=0.75, roll_every=0.25, keep=True)
    batch = scenario(market, hedges=(call,), trades_underlying=False)
    assert batch.kept_from == ((1, 0), (2, 0), (3, 0))
    rollout = Rollout(batch, Execution(costs=(Commission(per_contract=1.0),)), record=True)
    gains = [float(rollout.act(np.array([[100.0]]))[0]) for _ in range(4)]
    # marks: struck at 100: 3, 6, 5, 8 (expired); at 104: 3, 2, 5, 4 (expired); at 104 again: 3, 6, 5; at 108: 3, 2
    expected = [300 - 1, -100 - 100 - 1, 300 + 300 + 300 - 1, -100 - 100 - 100 - 1 - 2]
    np.testing.assert_allclose(gains, expected, rtol=0, atol=1e-9)
    record = rollout.result()
    np.testing.assert_array_equal(record.kept[:, 0], [[0, 0, 0], [100, 0, 0], [100, 100, 0], [0, 100, 100], [0, 0, 0]])
    np.testing.assert_allclose(record.flows["option settlement"][:, 0], [0, 0, 0, 800, 400], rtol=0, atol=1e-9)
    np.testing.assert_allclose(record.pnl, [sum(expected)], rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.diff(record.wealth[:, 0]).sum() + record.wealth[0, 0], sum(expected), rtol=1e-12)
