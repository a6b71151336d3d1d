"""Identity and limit tests: what a hedge promises holds after every trade, and its limits are other hedges."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hedgerl.baselines import (
    BASELINES,
    Collar,
    Delta,
    DeltaGamma,
    DeltaGammaVega,
    DeltaVega,
    GammaScaled,
    Lazy,
    Leland,
    MinimumVariance,
    NoHedge,
    Overlay,
    ProtectivePut,
    SyntheticForward,
    TunedBand,
    WhalleyWilmott,
    baseline,
)
from hedgerl.baselines.base import DELTAS, trades_underlying
from hedgerl.baselines.tuned_band import rollout_pnl
from hedgerl.baselines.whalley_wilmott import band
from hedgerl.envs import Execution, Limits, Listing, ShortOption, SpyOverlay
from hedgerl.sim import BlackScholes

# the synthetic forward wants both options at one strike, the dynamic programme is solved for one task
EVERYWHERE = sorted(set(BASELINES) - {"synthetic_forward", "dynamic_programming"})


@pytest.mark.parametrize("book", ["underlying", "options", "one option", "overlay", "book", "kept"])
@pytest.mark.parametrize("name", EVERYWHERE)
def test_every_hedge_works_in_every_task(kit, books, name, book):
    """Catches a hedge that reads what a task does not show, gives the wrong shape, NaN, or an exploding position."""
    task, scenario = books[book]
    size = np.maximum(abs(scenario.position).sum(-1).max(0), 1.0) + abs(scenario.shares)
    for _, _, target in kit.walk(baseline(name), task, scenario):
        assert target.shape == (200, len(task.instruments))
        assert np.isfinite(target).all()
        assert (abs(target) <= 12.0 * size[:, None]).all()


@pytest.mark.parametrize("which", sorted(DELTAS))
@pytest.mark.parametrize("book", ["underlying", "options", "book"])
def test_delta_is_neutral_after_the_trade(kit, books, which, book):
    """Catches a delta hedge with the wrong sign, of the liabilities alone, or of one step before."""
    task, scenario = books[book]
    for _, seen, target in kit.walk(Delta(which), task, scenario):
        owed, _, each = (seen[name] for name in DELTAS[which])
        np.testing.assert_allclose(owed + (target * each).sum(-1), 0.0, rtol=0, atol=1e-9 * task.size)


@pytest.mark.parametrize("which", sorted(DELTAS))
def test_options_that_are_kept_are_hedged_too(kit, books, which):
    """Catches hedges that forget the contracts kept when their place rolled: a gamma hedge then buys the same gamma
    every day. Net delta and gamma are summed here from the scenario's own contracts."""
    task, scenario = books["kept"]
    kept, some = scenario.kept, False
    per_share = {
        "model": kept.delta,
        "implied": scenario.kept_bs_delta,
        "minimum_variance": kept.delta + kept.vega * kept.slope,
    }[which]
    for rollout, seen, target in kit.walk(DeltaGamma(which), task, scenario):
        step, some = rollout.step, some or bool(rollout.kept.any())
        owed, seen_kept, each = (seen[name] for name in DELTAS[which])
        held = (rollout.kept * per_share[step]).sum(-1)
        np.testing.assert_allclose(seen_kept, held, rtol=0, atol=1e-9 * task.size)
        np.testing.assert_allclose(owed + held + (target * each).sum(-1), 0.0, rtol=0, atol=1e-9 * task.size)
        owed = seen["liability_gamma"] + (rollout.kept * kept.gamma[step]).sum(-1)
        net = owed + (target * seen["hedge_gamma"]).sum(-1)
        assert (abs(net) <= 0.02 * abs(owed) + 1e-9).all()
    assert some


def test_no_hedge_is_worse_than_none_where_options_are_kept(books):
    """Behaviour: every hedge that trades reduces the deviation of a client book hedged with daily listings."""
    task, scenario = books["kept"]
    bare = rollout_pnl(NoHedge(), task, scenario).std()
    deltas = ("delta", "implied_delta", "minimum_variance", "minimum_variance_regression", "gamma_scaled", "lazy")
    bands, options = ("leland", "whalley_wilmott", "tuned_band"), ("delta_gamma", "delta_vega", "delta_gamma_vega")
    for name in (*deltas, *bands, *options):
        assert rollout_pnl(baseline(name), task, scenario).std() < 0.5 * bare, name


def test_delta_counts_options_that_are_held(kit, books):
    """Catches a delta hedge that forgets the holdings: here it takes over a book of 0.7 shares of an option."""
    task, scenario = books["one option"]
    seen = kit.seen_at(task, scenario, Delta().observation)
    seen["holdings"] = np.tile([0.2, 0.7], (200, 1))
    target = Delta().target(seen)
    np.testing.assert_array_equal(target[:, 1], 0.7)
    net = seen["liability_delta"] + target[:, 0] + 0.7 * seen["hedge_delta"][:, 1]
    np.testing.assert_allclose(net, 0.0, rtol=0, atol=1e-12)


def test_without_the_underlying_delta_is_hedged_with_options(kit):
    """Catches a delta hedge that does nothing in the overlay. Trades of 100 contracts a step reach it in two steps."""
    task = SpyOverlay(market=BlackScholes(volatility=0.2), n_steps=40, maturity=40 / 252)
    scenario = task.scenario(300, seed=2)
    for rollout, seen, target in kit.walk(Delta(), task, scenario):
        before = seen["liability_delta"] + (seen["holdings"] * seen["hedge_delta"]).sum(-1)
        net = seen["liability_delta"] + (rollout.feasible(target) * seen["hedge_delta"]).sum(-1)
        assert not trades_underlying(seen)
        if rollout.step % 21 > 1:  # not just after a roll
            # 10^-4 of what was to be hedged, over the sum of squared deltas, which is at least a half
            assert (abs(net) <= 2.1e-4 * abs(before) + 1e-6).all()
        assert (target[:, 0] <= 1e-9).all()  # calls sold
        assert (target[:, 1] >= -1e-9).all()  # puts bought


def test_delta_gamma_takes_net_gamma_and_net_delta_to_zero(kit, books):
    """Catches a gamma hedge with the wrong sign or without its own delta in the share hedge."""
    task, scenario = books["one option"]
    for rollout, seen, target in kit.walk(DeltaGamma(damping=1e-7), task, scenario):
        if rollout.step > 15:
            break  # gamma of the option sold then outgrows `most`
        delta = seen["liability_delta"] + (target * seen["hedge_delta"]).sum(-1)
        gamma = seen["liability_gamma"] + (target * seen["hedge_gamma"]).sum(-1)
        np.testing.assert_allclose(delta, 0.0, rtol=0, atol=1e-9)
        capped = abs(target[:, 1]) > 4.999
        assert capped.mean() < 0.1
        np.testing.assert_allclose(gamma[~capped], 0.0, rtol=0, atol=1e-7)


def test_damping_leaves_little_gamma(kit, books):
    """Catches a default damping that turns the hedge into half a hedge."""
    task, scenario = books["one option"]
    seen = kit.seen_at(task, scenario, DeltaGamma().observation, step=3)
    gamma = seen["liability_gamma"] + (DeltaGamma().target(seen) * seen["hedge_gamma"]).sum(-1)
    assert np.quantile(abs(gamma / seen["liability_gamma"]), 0.9) < 0.02


def test_two_options_take_gamma_and_vega_to_zero(kit, books):
    """Catches Greeks mixed up between rows, or options between columns."""
    task, scenario = books["options"]
    seen = kit.seen_at(task, scenario, DeltaGammaVega().observation)
    target = DeltaGammaVega(damping=1e-8, most=1e6).target(seen)
    for greek in ("delta", "gamma", "vega"):
        net = seen[f"liability_{greek}"] + (target * seen[f"hedge_{greek}"]).sum(-1)
        np.testing.assert_allclose(net / abs(seen[f"liability_{greek}"]), 0.0, rtol=0, atol=1e-6)


def test_one_option_is_the_least_squares(kit, books):
    """Catches a trade-off that is not the minimum it claims to be: no other number of options does better."""
    task, scenario = books["one option"]
    hedge = DeltaGammaVega()
    seen = kit.seen_at(task, scenario, hedge.observation, step=5)
    held = hedge.target(seen)[:, 1]
    share = seen["spot"] * hedge.spot_move

    def objective(options):
        gamma = seen["liability_gamma"] + options * seen["hedge_gamma"][:, 1]
        vega = seen["liability_vega"] + options * seen["hedge_vega"][:, 1]
        exposures = (share**2 * 0.5**0.5 * gamma) ** 2 + (hedge.volatility_move * vega) ** 2
        return exposures + (hedge.damping * share * options) ** 2

    for change in (-0.01, 0.01):
        assert (objective(held) < objective(held + change)).all()


def test_units_do_not_decide(kit, books):
    """Catches weights that depend on the unit of the price: a market quoted in cents gets the same hedge."""
    task, scenario = books["one option"]
    for hedge in (DeltaGamma(), DeltaVega(), DeltaGammaVega()):
        seen = kit.seen_at(task, scenario, hedge.observation, step=4)
        cents = dict(seen)
        for name, factor in (("spot", 100.0), ("gamma", 0.01), ("vega", 100.0), ("strike", 100.0)):
            for key in (name, f"liability_{name}", f"hedge_{name}"):
                if key in cents:
                    cents[key] = seen[key] * factor
        np.testing.assert_allclose(hedge.target(cents), hedge.target(seen), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("hedge", [DeltaGamma(), DeltaVega(), DeltaGammaVega()])
def test_faded_and_dead_options_are_left_alone(kit, books, hedge):
    """Catches positions that explode when the hedge option's gamma and vega die out: delta is hedged with shares."""
    task, scenario = books["one option"]
    seen = kit.seen_at(task, scenario, hedge.observation)
    for factor, alive in ((1e-6, 1.0), (0.0, 1.0), (0.0, 0.0)):
        faded = dict(seen)
        for name in ("hedge_gamma", "hedge_vega"):
            if name in faded:
                faded[name] = factor * seen[name]
        faded["hedge_alive"] = np.tile([1.0, alive], (200, 1))
        target = hedge.target(faded)
        assert (abs(target[:, 1]) < 2e-3).all()
        np.testing.assert_allclose(target[:, 0], -seen["liability_delta"], rtol=0, atol=2e-3)


def test_holdings_are_capped_and_delta_still_hedged(kit, books):
    """Catches a cap that leaves the delta of what it cut."""
    task, scenario = books["one option"]
    hedge = DeltaGamma(most=0.5)
    seen = kit.seen_at(task, scenario, hedge.observation)
    target = hedge.target(seen)
    np.testing.assert_allclose(abs(target[:, 1]), 0.5, rtol=1e-12)
    net = seen["liability_delta"] + (target * seen["hedge_delta"]).sum(-1)
    np.testing.assert_allclose(net, 0.0, rtol=0, atol=1e-12)


def test_limits_of_bands_and_of_costs(books):
    """Catches a band that does not close, and a Leland volatility that is off without costs."""
    for name in ("underlying", "book"):
        task, scenario = books[name]
        free = dataclasses.replace(task, execution=Execution())
        delta = rollout_pnl(Delta(), task, scenario)
        implied = rollout_pnl(Delta("implied"), task, scenario)
        scale = {"rtol": 1e-9, "atol": 1e-6}
        np.testing.assert_allclose(rollout_pnl(Lazy(limit=0.0), task, scenario), delta, **scale)
        np.testing.assert_allclose(rollout_pnl(Lazy(0.0, "limit"), task, scenario), delta, **scale)
        np.testing.assert_allclose(rollout_pnl(GammaScaled(moves=0.0), task, scenario), delta, **scale)
        for shape in ("constant", "whalley_wilmott"):
            tuned = TunedBand(scale=1.0, width=0.0, shape=shape)
            np.testing.assert_allclose(rollout_pnl(tuned, task, scenario), implied, **scale)
        np.testing.assert_allclose(rollout_pnl(WhalleyWilmott(aversion=1e30), task, scenario), implied, **scale)
        free_delta = rollout_pnl(Delta("implied"), free, scenario)
        for hedge in (Leland(), WhalleyWilmott()):
            np.testing.assert_allclose(rollout_pnl(hedge, free, scenario), free_delta, **scale)


def test_no_hedge_earns_what_the_liabilities_do(books):
    """Catches a benchmark that trades."""
    for task, scenario in books.values():
        held = rollout_pnl(NoHedge(), task, scenario)
        free = rollout_pnl(NoHedge(), dataclasses.replace(task, execution=Execution()), scenario)
        np.testing.assert_array_equal(held, free)


def test_lazy_trades_beyond_the_limit_only(kit, books):
    """Catches a limit in the wrong unit: contracts, currency or shares of one option."""
    task, scenario = books["underlying"]
    assert task.size == 100.0
    for back_to, left in (("zero", 0.0), ("limit", 10.0)):
        traded = 0
        for _, seen, target in kit.walk(Lazy(0.1, back_to), task, scenario):
            before = seen["liability_delta"] + seen["holdings"][:, 0]
            after = seen["liability_delta"] + target[:, 0]
            inside = abs(before) <= 10.0
            np.testing.assert_allclose(after[inside], before[inside], rtol=0, atol=1e-9)
            np.testing.assert_allclose(abs(after[~inside]), left, rtol=0, atol=1e-9)
            traded += int((~inside).sum())
        assert 0 < traded < 0.9 * 200 * task.n_steps


def test_gamma_scaled_waits_for_a_move_of_the_spot(kit):
    """Catches a threshold without gamma in it: after a trade the spot may move by about one standard deviation."""
    task = kit.black_scholes_task(n_steps=63, maturity=0.25)
    scenario = task.scenario(500, seed=4)
    last, moved, still = scenario.spot[0], [], []
    step_deviation = 0.2 * (0.25 / 63) ** 0.5
    for rollout, seen, target in kit.walk(GammaScaled(), task, scenario):
        if rollout.step == 30:  # then the option has gamma on most paths
            trades = abs(target[:, 0] - seen["holdings"][:, 0]) > 1e-12
            far = abs(np.log(seen["spot"] / last)) / step_deviation
            near_the_money = abs(np.log(seen["spot"] / 100.0)) < 0.05
            moved, still = far[trades & near_the_money], far[~trades & near_the_money]
        changed = abs(target[:, 0] - seen["holdings"][:, 0]) > 1e-12
        last = np.where(changed, seen["spot"], last)
    assert len(moved) > 50
    assert len(still) > 50
    assert moved.min() > 0.7
    assert still.max() < 1.3


def test_whalley_wilmott_trades_to_the_edge(kit, books):
    """Catches a hedge that goes to the middle of its band, or one that trades inside it."""
    task, scenario = books["underlying"]
    hedge = WhalleyWilmott(aversion=1e-2)
    inside_share = []
    for _, seen, target in kit.walk(hedge, task, scenario):
        half = band(seen, hedge.aversion)
        before = seen["liability_bs_delta"] + seen["holdings"][:, 0]
        after = seen["liability_bs_delta"] + target[:, 0]
        inside = abs(before) <= half
        inside_share.append(inside.mean())
        np.testing.assert_allclose(after[inside], before[inside], rtol=0, atol=1e-9)
        np.testing.assert_allclose(after[~inside], (np.sign(before) * half)[~inside], rtol=0, atol=1e-9)
    assert 0.05 < np.mean(inside_share) < 0.95


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("whalley_wilmott", lambda n: WhalleyWilmott(aversion=1.0 / n)),
        ("tuned", lambda n: TunedBand(1.2, 0.05)),
        ("tuned, shaped", lambda n: TunedBand(1.2, 0.3, "whalley_wilmott")),
        ("lazy", lambda n: Lazy(0.1)),
        ("leland", lambda n: Leland()),
        ("gamma", lambda n: GammaScaled()),
    ],
)
def test_a_book_ten_times_as_large_is_hedged_ten_times_as_much(kit, name, make):
    """Catches bands that are in options in one place and in shares in another."""
    one, ten = (kit.black_scholes_task(quantity=q) for q in (1.0, 10.0))
    scenario, larger = one.scenario(100, seed=3), ten.scenario(100, seed=3)
    np.testing.assert_allclose(
        rollout_pnl(make(10.0), ten, larger), 10.0 * rollout_pnl(make(1.0), one, scenario), rtol=1e-9, atol=1e-9
    )


def test_deep_options_and_the_last_step(kit):
    """Catches deltas, bands or volatilities that go wrong where an option is all but decided."""
    for moneyness, held in ((0.5, 1.0), (2.0, 0.0)):
        task = kit.black_scholes_task(moneyness=moneyness)
        scenario = task.scenario(50, seed=1)
        for hedge in (Delta(), Delta("implied"), Leland(), GammaScaled(), MinimumVariance(), TunedBand(1.5, 0.0)):
            for _, _, target in kit.walk(hedge, task, scenario):
                np.testing.assert_allclose(target[:, 0], held, rtol=0, atol=1e-6)
        for _, _, target in kit.walk(WhalleyWilmott(), task, scenario):
            np.testing.assert_allclose(target[:, 0], held, rtol=0, atol=1e-3)
    task = kit.black_scholes_task()
    scenario = task.scenario(2_000, seed=1)
    decided = abs(np.log(scenario.spot[-2] / 100.0)) > 0.06  # 5 standard deviations of the last day
    for hedge in (Delta(), Leland(), DeltaGammaVega(), MinimumVariance()):
        target = list(kit.walk(hedge, task, scenario))[-1][2]
        np.testing.assert_allclose(target[decided, 0], scenario.spot[-2, decided] > 100.0, rtol=0, atol=0.01)


def test_overlays_hold_their_size_through_rolls(kit):
    """Catches an overlay that is gone after the first expiry, or that follows the market."""
    task = SpyOverlay(market=BlackScholes(volatility=0.2), n_steps=63, maturity=0.25)
    scenario = task.scenario(100, seed=1)
    for hedge, wanted in (
        (SyntheticForward(), (-10_000.0, 10_000.0)),
        (Collar(), (-10_000.0, 10_000.0)),
        (ProtectivePut(), (0.0, 10_000.0)),
        (Overlay(calls=-0.5), (-5_000.0, 0.0)),
    ):
        for _, _, target in kit.walk(hedge, task, scenario):
            np.testing.assert_array_equal(target, np.tile(wanted, (100, 1)))


def test_synthetic_forward_takes_all_risk(kit):
    """Identity: shares and a synthetic forward at one strike are worth the strike. Catches a size in contracts."""
    free = Execution(limits=Limits(trade=100.0, holding=200.0))
    task = SpyOverlay(market=BlackScholes(volatility=0.3), n_steps=42, maturity=42 / 252, execution=free)
    pnl = rollout_pnl(SyntheticForward(), task, task.scenario(100, seed=1))
    np.testing.assert_allclose(pnl, 0.0, rtol=0, atol=0.1)  # of 1,000,000; marks are float32


def test_protective_put_bounds_the_loss():
    """Identity: what is lost over a life of the put is at most its premium. Catches calls taken for puts."""
    task = SpyOverlay(market=BlackScholes(volatility=0.3), n_steps=21, maturity=21 / 252)
    scenario = task.scenario(2_000, seed=1)
    pnl = rollout_pnl(ProtectivePut(), task, scenario)
    least = -10_000.0 * scenario.mid[0, :, 1] - 100 * 0.65
    np.testing.assert_allclose(pnl.min(), least[0], rtol=1e-6)
    assert (pnl >= least - 0.1).all()


def test_synthetic_forward_wants_one_strike(kit, books):
    """Catches a collar sold as a forward."""
    task, scenario = books["overlay"]
    apart = dataclasses.replace(task, moneyness=(1.05, 0.95))
    seen = kit.seen_at(apart, apart.scenario(10, seed=1), SyntheticForward().observation)
    with pytest.raises(ValueError, match="must have one strike"):
        SyntheticForward().target(seen)
    assert Collar().target(seen).shape == (10, 2)


def test_minimum_variance_needs_no_slope_where_volatility_stands_still(kit):
    """Limit: under Black-Scholes both minimum variances are the delta. Catches a slope out of rounding errors."""
    task = ShortOption(market=BlackScholes(volatility=0.2), hedge_options=(Listing(),))
    scenario = task.scenario(300, seed=6)
    delta = rollout_pnl(Delta(), task, scenario)
    np.testing.assert_allclose(rollout_pnl(Delta("minimum_variance"), task, scenario), delta, rtol=0, atol=1e-9)
    np.testing.assert_allclose(rollout_pnl(MinimumVariance(), task, scenario), delta, rtol=0, atol=2e-3)
