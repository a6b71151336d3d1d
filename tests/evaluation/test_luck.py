"""Luck and skill: by hand, and on Black-Scholes, where exposure earns nothing in the mean."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from hedgerl.baselines import Delta, Lazy
from hedgerl.envs import Execution, ShortOption
from hedgerl.evaluation import Result, compare, luck_and_skill
from hedgerl.execution import HalfSpread
from hedgerl.sim import BlackScholes

MakeResult = Callable[..., Result]


def test_by_hand(make_result: MakeResult) -> None:
    """Difference 2, 0, 4, -2; cost saved 1 each time; gain 1, -1, 3, -3."""
    lazy = make_result([2.0, 0.0, 4.0, -2.0], "lazy", cost=[1.0, 1.0, 1.0, 1.0])
    delta = make_result([0.0, 0.0, 0.0, 0.0], "delta", cost=[2.0, 2.0, 2.0, 2.0])
    got = luck_and_skill(lazy, delta)
    assert (got.difference, got.cost_saved, got.exposure_gain) == (1.0, 1.0, 0.0)
    assert got.difference_sd == pytest.approx(math.sqrt(20 / 3))
    assert got.luck_share == pytest.approx(1.0)
    assert got.skill_share == pytest.approx(0.0)
    assert got.beats == 0.5
    assert got.episodes_needed == math.ceil(1.6448536**2 * 20 / 3) == 19
    assert got.beats_over(18) < 0.95 <= got.beats_over(19)
    assert got.row()["lazy"] == "lazy"


def test_statistical_black_scholes_exposure_is_luck() -> None:
    """6,000 paths: the gain from exposure is zero within 4 standard errors, costs saved are far from it."""
    task = ShortOption(market=BlackScholes(volatility=0.2), execution=Execution(costs=(HalfSpread(bps=10.0),)))
    results = compare({"delta": Delta(), "lazy": Lazy(limit=0.15)}, task, 6000, seed=3, resamples=5).results
    got = luck_and_skill(results["lazy"], results["delta"])
    assert abs(got.exposure_z) < 4
    assert got.cost_saved > 50 * got.cost_saved_se
    assert got.difference == pytest.approx(got.cost_saved + got.exposure_gain, abs=1e-12)
    assert got.luck_share + got.skill_share == pytest.approx(1.0)
    assert got.luck_share > 0.8
    # the normal law of sums against sums of episodes as they came
    sums = (results["lazy"].pnl - results["delta"].pnl).reshape(-1, 12).sum(axis=1)
    assert (sums > 0).mean() == pytest.approx(got.beats_over(12), abs=4 * 0.5 / math.sqrt(sums.size))


def test_limits(make_result: MakeResult) -> None:
    """The same hedger twice: nothing to tell apart. A dearer one: never ahead but by luck."""
    same = luck_and_skill(make_result([1.0, 2.0]), make_result([1.0, 2.0]))
    assert math.isnan(same.luck_share)
    assert math.isinf(same.episodes_needed)
    assert same.beats_over(10) == 0.0
    assert same.row()["luck_share"] is None
    assert same.row()["episodes_needed"] is None
    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    dear = luck_and_skill(make_result(x, cost=np.full(50, 1.0)), make_result(0.0 * x))
    assert dear.beats_over(100) < 0.5


def test_errors(make_result: MakeResult) -> None:
    with pytest.raises(ValueError, match="same episodes"):
        luck_and_skill(make_result([1.0, 2.0]), make_result([1.0]))
    with pytest.raises(ValueError, match="same paths"):
        luck_and_skill(make_result([1.0, 2.0], unhedged=[1.0, 2.0]), make_result([1.0, 2.0]))
    with pytest.raises(ValueError, match="confidence must lie"):
        luck_and_skill(make_result([1.0, 2.0]), make_result([1.0, 2.0]), confidence=0.5)
