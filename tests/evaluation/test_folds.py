"""Windows that are fitted on and tested on, and what many hedges' differences say together."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from hedgerl.evaluation import Result, measure, paired_differences
from hedgerl.evaluation.folds import FoldResults, WalkForward, pooled, simultaneous, split

DATES = np.arange(np.datetime64("2001-01-01"), np.datetime64("2011-01-01"))
DATES = DATES[np.is_busday(DATES)]
USABLE = (250, DATES.size - 1)


def folds(**given):
    """Folds of the dates above, with some arguments others."""
    arguments = {"every": 5, "train_months": 24, "test_months": 12, "embargo_days": 5, **given}
    usable = arguments.pop("usable", USABLE)
    return split(DATES, usable, 21, **arguments)


@pytest.mark.parametrize("every", [1, 5, 21])
@pytest.mark.parametrize("expanding", [False, True])
@pytest.mark.parametrize("embargo", [0, 7])
def test_every_episode_is_tested_once_and_after_what_was_fitted(every, expanding, embargo):
    """Identity: the test starts of all folds are the grid from the first test on, in order; the last day of training
    lies exactly the embargo and a day before the first of them: no training episode shares a day with a test."""
    found = folds(every=every, expanding=expanding, embargo_days=embargo)
    starts = np.concatenate([fold.starts for fold in found])
    first = int(np.searchsorted(DATES, np.datetime64("2003-12-17")))  # 24 months after day 250
    np.testing.assert_array_equal(starts, np.arange(first, DATES.size - 21, every))
    for fold in found:
        assert fold.starts[0] - fold.train[1] == embargo + 1
        begun = USABLE[0] if expanding else max(USABLE[0], fold.starts[0] - 522)  # two years of weekdays
        assert begun - every - 2 <= fold.train[0] <= begun + every + 2
    assert len(found) == 7
    assert found[0].name == "2003-12"
    months = [pd.Timestamp(DATES[fold.starts[0]]) for fold in found]
    assert all(
        (late - early).days in range(365 - 2 * every, 367 + 2 * every)
        for early, late in zip(months, months[1:], strict=False)
    )


def test_an_early_first_test_cuts_the_first_windows_short():
    """Behaviour: training begins with the history, and rolls when there is enough of it."""
    found = folds(first_test=np.datetime64("2002-07-01"))
    assert [fold.train[0] for fold in found[:2]] == [USABLE[0], USABLE[0]]
    assert DATES[found[2].train[0]] == np.datetime64("2002-07-01")
    assert DATES[found[0].starts[0]] == np.datetime64("2002-07-01")


def test_a_short_rest_belongs_to_the_fold_before():
    """Behaviour: a last window of one episode is no fold of its own, and no episode is lost."""
    last = int(np.searchsorted(DATES, np.datetime64("2009-12-17"))) + 21  # a start on the first day of the last window
    found = folds(every=1, usable=(250, last))
    assert len(found) == 6
    assert found[-1].starts[-1] == last - 21


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_months": 200}, "train_months = 200 must leave 2 test episodes of 21 days"),
        ({"first_test": np.datetime64("2010-12-20")}, "first_test = 2010-12-20 must leave 2 test episodes"),
        ({"embargo_days": 600}, "must leave 43 days to fit on, two episodes of 21, got 0 before 2003-12-17"),
        ({"train_months": 1}, "must leave 43 days to fit on"),
        ({"test_months": 0}, "test_months must be a whole number of at least 1, got 0"),
        ({"every": 21, "test_months": 1}, "test_months must hold 2 test episodes, got test_months = 1 with every = 21"),
        ({"every": 0}, "every must be a whole number of at least 1, got 0"),
    ],
)
def test_windows_that_do_not_fit(given, message):
    """Catches an empty training window, or no test, that would only show later."""
    with pytest.raises(ValueError, match=message):
        folds(**given)


def result(pnl: np.ndarray, name: str = "delta", every: int = 5, block: int = 1) -> Result:
    """A result on history with this P&L, all other columns made up."""
    n = pnl.size
    rng = np.random.default_rng(n)
    names = ("unhedged", "cost", "turnover", "trades", "win_days", "max_drawdown", "ulcer", "pain", "premium")
    columns = {each: np.abs(rng.standard_normal(n)) for each in names}
    columns |= {"hedging_error_mean": np.zeros(n), "hedging_error_square": np.ones(n)}
    days = np.datetime64("2005-01-03") + every * np.arange(n)
    frame = pd.DataFrame({"pnl": pnl, **columns, "start": days, "end": days + 21})
    steps = np.tile(pnl / 10, (10, 1))
    made = Result(name, "task", "market", "history", {}, frame, steps, every=every, block=block, years=10 / 252)
    return dataclasses.replace(made, metrics=measure(made))


def test_pooled_folds_are_one_result():
    """Identity: folds cut from a result and pooled have its measures, equity curve and dependence among them."""
    rng = np.random.default_rng(5)
    whole = result(rng.standard_normal(90), block=9)  # overlap 2, 45 windows without: 2 x 45^(1/3) = 7.1
    parts = []
    for cut in (slice(0, 30), slice(30, 75), slice(75, 90)):
        steps = whole.step_pnl
        assert steps is not None
        part = dataclasses.replace(
            whole, episodes=whole.episodes.iloc[cut].reset_index(drop=True), step_pnl=steps[:, cut], block=3
        )
        parts.append({"delta": dataclasses.replace(part, metrics=measure(part))})
    together = pooled(parts)["delta"]
    assert together.block == 7
    wanted = measure(dataclasses.replace(whole, block=7))
    assert together.metrics == pytest.approx(wanted, rel=1e-12, nan_ok=True)


def hedges(n: int, shifts: dict[str, float], seed: int) -> dict[str, Result]:
    """A reference and hedges that differ from it by noise and a shift of the mean."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(n)
    made = {"delta": result(base)}
    for name, shift in shifts.items():
        made[name] = result(base + shift + 0.3 * rng.standard_normal(n), name)
    return made


def test_one_hedge_alone_has_the_usual_interval():
    """Limit: with one hedge beside the reference nothing is adjusted: the deviation is that of `paired_differences` on
    the same resamples, and the interval is 1.96 of it up to what 2,000 resamples say of a normal quantile."""
    made = hedges(200, {"other": 0.1}, seed=1)
    row = simultaneous(made, "delta", "mean", n_resamples=2000, seed=3).iloc[0]
    usual = paired_differences(made, "delta", metrics=["mean"], n_resamples=2000, seed=3).iloc[0]
    assert row["difference"] == usual["difference"]
    assert row["se"] == pytest.approx(usual["se"], rel=1e-12)
    assert row["high"] - row["difference"] == pytest.approx(1.96 * row["se"], rel=0.06)


def test_many_hedges_make_intervals_wider_and_p_values_larger():
    """Identity: among nine more hedges the same difference has a wider interval and no smaller p-value; one that is the
    reference itself is never told apart; a large difference stays found."""
    few = hedges(120, {"large": 0.6, "small": 0.06}, seed=2)
    many = few | hedges(120, dict.fromkeys("abcdefg", 0.0), seed=2)
    many["same"] = result(few["delta"].pnl, "same")
    alone = simultaneous(few, "delta", "mean", n_resamples=500).set_index("policy")
    beside = simultaneous(many, "delta", "mean", n_resamples=500).set_index("policy")
    width = beside["high"] - beside["low"]
    assert width["small"] > 1.1 * (alone["high"] - alone["low"])["small"]
    assert beside["p_value"]["small"] >= alone["p_value"]["small"]
    assert beside["p_value"]["large"] < 0.01
    assert beside["p_value"]["same"] == 1.0
    assert not beside.loc[["same"], ["difference", "low", "high"]].to_numpy().any()


def test_false_discoveries_are_rare_however_many_are_tried():
    """Statistical: 6 hedges no better than the reference, 60 times: some p-value is under 5 % in some 3 of them
    (binomial, sd 1.7; a bootstrap of 60 episodes is a little bold: 7 were seen), some difference beyond 1.96 standard
    errors in many more (14 were). Catches p-values that do not count how many were tried."""
    found = plain = 0
    for seed in range(60):
        made = hedges(60, dict.fromkeys("abcdef", 0.0), seed=100 + seed)
        rows = simultaneous(made, "delta", "mean", n_resamples=200, seed=seed)
        found += bool((rows["p_value"] < 0.05).any())
        plain += bool(((rows["difference"] / rows["se"]).abs() > 1.96).any())
    assert found <= 9 < plain


def test_rows_of_folds_stand_beside_those_of_all():
    """Identity: a flat row for each policy over all folds, and in each fold with its windows."""
    made = hedges(40, {"other": 0.0}, seed=4)
    window = ("2005-01-03", "2005-12-30")
    part = FoldResults("2006-01", window, window, made, {"other": {"scale": 1.0}})
    study = WalkForward("market", "task", "history", made, "delta", folds=(part,))
    (row,) = study.fold_rows()
    assert (row["fold"], row["episodes"], row["train"]) == ("2006-01", 40, list(window))
    assert [each["policy"] for each in row["rows"]] == [each["policy"] for each in study.rows()] == ["delta", "other"]


def test_unknown_names_are_refused():
    """Catches a comparison with nobody."""
    made = hedges(20, {"other": 0.0}, seed=5)
    with pytest.raises(ValueError, match="reference must be one of delta, other, got 'gamma'"):
        simultaneous(made, "gamma", "mean")
    with pytest.raises(ValueError, match="metric must be one of"):
        simultaneous(made, "delta", "luck")
