"""Costs by hand, funding by hand, and a ledger that adds up."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hedgerl.envs import Execution
from hedgerl.execution import (
    Commission,
    Funding,
    HalfSpread,
    Ledger,
    Proportional,
    Quotes,
    SquareRootImpact,
    linear_cost,
)

QUOTES = Quotes(
    spot=np.array([100.0, 50.0]),
    volatility=np.array([0.2, 0.4]),
    mid=np.array([[100.0, 4.0], [50.0, 3.0]]),
    vega=np.array([[0.0, 11.0], [0.0, 7.0]]),
    is_option=np.array([0.0, 1.0]),
    multiplier=np.array([1.0, 100.0]),
)
TRADE = np.array([[10.0, -300.0], [-4.0, 100.0]])


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (Commission(per_contract=0.65, per_share_fee=0.005), [[0.05, 1.95], [0.02, 0.65]]),
        (Commission(per_contract=0.65, per_share_fee=0.005, applies_to="options"), [[0.0, 1.95], [0.0, 0.65]]),
        (Proportional(rate=0.01), [[10.0, 12.0], [2.0, 3.0]]),
        (Proportional(rate=0.01, applies_to="underlying"), [[10.0, 0.0], [2.0, 0.0]]),
        (HalfSpread(price=0.02), [[0.2, 6.0], [0.08, 2.0]]),
        (HalfSpread(bps=10.0, applies_to="underlying"), [[1.0, 0.0], [0.2, 0.0]]),
        (HalfSpread(volatility_points=0.5), [[0.0, 16.5], [0.0, 3.5]]),
        (HalfSpread(price=0.02, base_volatility=0.2), [[0.2, 6.0], [0.16, 4.0]]),
    ],
)
def test_linear_costs_by_hand(cost, expected):
    """Golden: 10 shares and 3 contracts sold, 4 shares sold and 1 contract, each cent written out.

    Catches a fee per contract charged per share, a spread that ignores volatility, and a cost on the wrong instrument.
    """
    np.testing.assert_allclose(cost.amount(TRADE, QUOTES), expected, rtol=1e-12, atol=1e-15)
    # the cost of one share more, which hedges with a band read, says the same
    np.testing.assert_allclose(linear_cost((cost,), QUOTES) * abs(TRADE), expected, rtol=1e-12, atol=1e-15)


def test_impact_by_hand():
    """Golden: a tenth of the daily volume at 20 %: sigma_day S q sqrt(q / V); three halves in the quantity."""
    impact = SquareRootImpact(coefficient=0.8, daily_volume=100.0, applies_to="underlying")
    expected = 0.8 * 0.2 / math.sqrt(252.0) * 100.0 * 10.0 * math.sqrt(0.1)
    np.testing.assert_allclose(impact.amount(TRADE, QUOTES)[0], [expected, 0.0], rtol=1e-12, atol=0)
    np.testing.assert_allclose(impact.amount(4 * TRADE, QUOTES), 8 * impact.amount(TRADE, QUOTES), rtol=1e-12, atol=0)
    assert not linear_cost((impact,), QUOTES).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Proportional(rate=-0.01), "rate must not be negative, got -0.01"),
        (lambda: HalfSpread(bps=math.nan), "bps must be a finite number, got nan"),
        (lambda: HalfSpread(base_volatility=0.0), "base_volatility must be positive, got 0.0"),
        (
            lambda: Commission(per_contract=1.0, applies_to="stock"),
            "applies_to must be one of underlying, options, all, got 'stock'",
        ),
        (lambda: SquareRootImpact(daily_volume=0.0), "daily_volume must be positive, got 0.0"),
        (lambda: Funding(margin_spread=-0.1), "margin_spread must not be negative, got -0.1"),
        (lambda: Funding(rate=math.inf), "rate must be a finite number, got inf"),
        (lambda: Execution(costs=(0.01,)), "costs must hold costs of hedgerl.execution, got 0.01"),
    ],
)
def test_bad_costs_are_refused(make, message):
    """Catches a subsidy: a negative cost would pay the hedger for trading."""
    with pytest.raises(ValueError, match=message):
        make()


def test_costs_may_be_named_and_taken_out():
    """A configuration names its costs and sets one to null."""
    spread = HalfSpread(bps=1.0)
    assert Execution(costs={"spread": spread, "commission": None}).costs == (spread,)  # type: ignore[arg-type]


def test_funding_by_hand():
    """Golden: 1,000 of cash and a loan of 500 over half a year, 10 shares held and 4 sold short.

    Catches margin on money that was not borrowed, a rate that is not compounded, dividends with the wrong sign.
    """
    cash, shares, spot = np.array([1000.0, -500.0]), np.array([10.0, -4.0]), np.array([100.0, 50.0])
    lines = dict(Funding(margin_spread=0.02, borrow_cost=0.03).lines(cash, shares, spot, 0.5, 0.04, 0.01))
    np.testing.assert_allclose(lines["interest"], cash * math.expm1(0.02), rtol=1e-12, atol=0)
    loan = -500.0 * (math.exp(0.5 * 0.06) - math.exp(0.5 * 0.04))
    np.testing.assert_allclose(lines["margin"], [0.0, loan], rtol=1e-12, atol=0)
    np.testing.assert_allclose(lines["dividends"], shares * spot * math.expm1(0.005), rtol=1e-12, atol=0)
    np.testing.assert_allclose(lines["borrow"], [0.0, -200.0 * math.expm1(0.015)], rtol=1e-12, atol=0)


def test_funding_rate_by_path_and_of_its_own():
    """Twin: a rate by path is a number at a time; the funding's own rate takes the market's place."""
    cash = np.array([1000.0, -500.0])
    by_path = dict(Funding(margin_spread=0.02).lines(cash, None, cash, 0.5, np.array([0.04, 0.01]), 0.0))
    for path, rate in enumerate((0.04, 0.01)):
        alone = dict(Funding(margin_spread=0.02, rate=rate).lines(cash, None, cash, 0.5, 0.5, 0.0))
        for line in ("interest", "margin"):
            assert by_path[line][path] == pytest.approx(alone[line][path], rel=1e-14)
    assert Funding().lines(cash, None, cash, 0.5, 0.0, 0.0) == []


def test_ledger_adds_up():
    """Identity: cash is its opening and the sum of all flows; two posts on one line and step add."""
    ledger = Ledger(np.array([5.0, 0.0]), record=True)
    for step, line, amount in ((0, "premium", 3.0), (1, "spread", -0.5), (1, "spread", -0.25), (2, "interest", 0.1)):
        ledger.post(step, line, np.array([amount, 2 * amount]))
    flows = ledger.flows(n_steps=2)
    np.testing.assert_array_equal(flows["spread"], [[0.0, 0.0], [-0.75, -1.5], [0.0, 0.0]])
    np.testing.assert_allclose(ledger.opening + sum(flows.values()).sum(axis=0), ledger.cash, rtol=1e-15, atol=0)
