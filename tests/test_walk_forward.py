"""The walk-forward from configuration to report, on synthetic history."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from hedgerl import backtest, cli, walk_forward
from hedgerl.agents.agent import Agent
from hedgerl.data import DailySeries
from hedgerl.evaluation import compare
from hedgerl.sim import GARCH, History
from hedgerl.training.resampled import _blocks, resampled
from hedgerl.walk_forward import WalkForwardConfig

DAYS = 252 * 4
QUICK = [
    *("data=file", "data.name=garch", "task.hedge_options=[]", "task.n_steps=6", "agents=[]", "bootstrap=100"),
    *("train_months=12", "every=3", "refit.iterations=3", "refit.batch_paths=64"),
    *("training.days=2000", "training.validation_paths=64", "baselines=[delta,minimum_variance,tuned_band]"),
]
NAME = "deep hedging, refitted"
LISTED = "{_target_: hedgerl.envs.Listing, name: two-month call, tenor: 0.16666666666666666, multiplier: 100.0}"


@pytest.fixture(scope="session")
def series() -> DailySeries:
    """Four years of GARCH with a VIX a fifth above its volatility."""
    model = GARCH(omega=4e-6, alpha=0.02, gamma=0.12, beta=0.88, drift=0.05)
    paths = model.simulate(1, DAYS - 1, (DAYS - 1) / 252, seed=11, backend="numpy")
    dates = np.arange(np.datetime64("2001-01-01"), np.datetime64("2006-01-01"))
    weekdays = dates[np.is_busday(dates)][:DAYS]
    return DailySeries("garch", weekdays, paths.spot[:, 0], vix=120.0 * np.sqrt(paths.variance[:, 0]))


@pytest.fixture(scope="session")
def file(series, tmp_path_factory) -> Path:
    """The series as a file."""
    return written(series, tmp_path_factory.mktemp("data") / "garch.csv")


def written(series: DailySeries, path: Path) -> Path:
    """The series as CSV, all digits."""
    assert series.vix is not None
    columns = zip(series.dates, series.close.tolist(), series.vix.tolist(), strict=True)
    rows = [f"{day},{close!r},{vix!r}" for day, close, vix in columns]
    path.write_text("\n".join(["Date,Close,VIX", *rows]) + "\n")
    return path


def configured(file: Path, *overrides: str) -> WalkForwardConfig:
    """The configuration of a command line."""
    with initialize_config_module("hedgerl.conf", version_base="1.3"):
        quick = [each for each in QUICK if not (each.startswith("refit.") and "refit=none" in overrides)]
        composed = compose("walk_forward", overrides=[*quick, f"data.series.path={file}", *overrides])
    typed = OmegaConf.to_object(composed)
    assert isinstance(typed, WalkForwardConfig)
    return typed


@pytest.fixture(scope="session")
def finished(file, tmp_path_factory):
    """A run that was left alone: (its folder, its study)."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    return folder, walk_forward.run(configured(file), folder)


def same_report(first: Path, second: Path) -> bool:
    """Whether two runs' reports have the same bytes."""
    names = ("results.json", "results.csv", "report.html", "charts/1_garch_folds.png", "charts/1_garch_equity.png")
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_report_has_every_fold(finished):
    """Behaviour: all hedges in all folds, pooled; the numbers by fold are in the page, the JSON and the CSV."""
    folder, study = finished
    assert list(study.results) == [NAME, "delta", "minimum variance", "tuned band"]
    assert [each.name for each in study.folds] == ["2002-12", "2003-12"]
    counted = [each.results["delta"].n_episodes for each in study.folds]
    assert sum(counted) == study.results["delta"].n_episodes
    saved = json.loads((folder / "results.json").read_text())["studies"][0]
    assert [row["fold"] for row in saved["folds"]] == ["2002-12", "2003-12"]
    assert [row["policy"] for row in saved["folds"][1]["rows"]] == list(study.results)
    assert set(saved["folds"][0]["fitted"]) == {NAME, "tuned band"}
    assert saved["folds"][0]["fitted"] != saved["folds"][1]["fitted"]
    head = (folder / "results.csv").read_text().split("\n")[0].split(",")
    assert head[-2:] == ["fold", "p_value"]
    page = (folder / "report.html").read_text()
    assert page.count("<html") == 1
    assert "Better or worse, fold by fold" in page
    assert "Told apart from delta" in page


def test_fixed_hedges_have_the_results_of_a_backtest(file, finished):
    """Identity: what is not fitted does in folds, pooled, exactly what it does on the whole period at once. Catches
    episodes that are lost or counted twice at a boundary, and a cut that changes marks."""
    _, study = finished
    config = configured(file)
    planned = walk_forward.plan(config)
    first, last = planned.folds[0].starts[0], planned.folds[-1].starts[-1] + planned.task.n_steps
    whole = walk_forward.cut(planned.history, first, last)
    policies = {name: backtest.solved(name.replace(" ", "_"), planned.task) for name in ("delta", "minimum variance")}
    direct = compare(policies, dataclasses.replace(planned.task, market=whole), seed=1, every=3)
    for name in policies:
        np.testing.assert_array_equal(study.results[name].pnl, direct.results[name].pnl)
        assert study.results[name].metrics == direct.results[name].metrics
        assert study.results[name].block == direct.results[name].block


def altered(series: DailySeries, first: int) -> DailySeries:
    """The series with all days from index `first` on replaced by others."""
    assert series.vix is not None
    rng = np.random.default_rng(7)
    close, vix = series.close.copy(), series.vix.copy()
    left = len(series) - first
    close[first:] = close[first - 1] * np.exp(np.cumsum(0.03 * rng.standard_normal(left)))
    vix[first:] = rng.uniform(10.0, 80.0, left)
    return dataclasses.replace(series, close=close, vix=vix)


@pytest.mark.parametrize(("source", "band"), [("resampled", ["tuned band"]), ("history", [])])
def test_fits_see_nothing_after_their_window(series, file, tmp_path, source, band):
    """Identity: other days after the training window, and the fitted weights and bands are the same to the bit;
    other days inside it, and they are not. Catches any look-ahead of a fit, of levels and of normalisers."""
    choice = [f"training.source={source}", f"baselines=[delta{',tuned_band' if band else ''}]"]
    config = configured(file, *choice)
    planned = walk_forward.plan(config)
    fold = planned.folds[1]

    def fits(of: DailySeries, name: str) -> dict:
        other = configured(written(of, tmp_path / f"{name}.csv"), *choice)
        found = walk_forward.fit(other, walk_forward.plan(other), fold)
        return {label: walk_forward.described(policy) for label, policy in found.items()}

    before = {label: walk_forward.described(each) for label, each in walk_forward.fit(config, planned, fold).items()}
    assert list(before) == [NAME, *band]
    assert fits(altered(series, fold.train[1] + 1), "after") == before
    inside = fits(altered(series, fold.train[1] - 60), "inside")
    assert all(inside[label] != before[label] for label in before)


def test_actions_see_nothing_after_their_day(series, file, tmp_path):
    """Identity: other days from one on, and every episode that has ended before is as it was, whoever hedges. Catches
    look-ahead in marks, features and tests."""
    config = configured(file)
    planned = walk_forward.plan(config)
    fold = planned.folds[0]
    policies = walk_forward.fit(config, planned, fold)
    before = walk_forward.tested(config, planned, fold, policies)
    day = fold.starts[20]
    other = configured(written(altered(series, day + 1), tmp_path / "after.csv"))
    after = walk_forward.tested(other, walk_forward.plan(other), fold, policies)
    ended = np.array(fold.starts) + planned.task.n_steps <= day
    assert 10 < ended.sum() < ended.size
    for name, result in before.items():
        steps, others = result.step_pnl, after[name].step_pnl
        assert steps is not None
        assert others is not None
        np.testing.assert_array_equal(steps[:, ended], others[:, ended])
        assert (result.pnl[~ended] != after[name].pnl[~ended]).all()


def test_a_run_goes_on_where_it_was_stopped(file, finished, tmp_path):
    """Identity: with one fold of two already there the report has the bytes of a run that was left alone, and the fold
    that is there is not done again. Catches state that is carried from fold to fold, and a number from elsewhere."""
    folder, _ = finished
    mine = tmp_path / "run"
    shutil.copytree(folder, mine)
    kept, lost = mine / "folds" / "2002-12.npz", mine / "folds" / "2003-12.npz"
    lost.unlink()
    for name in ("results.json", "results.csv", "report.html"):
        (mine / name).unlink()
    stamp = kept.stat().st_mtime_ns
    walk_forward.run(configured(file), mine)
    assert same_report(folder, mine)
    assert kept.stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="holds a run of another configuration"):
        walk_forward.run(configured(file, "seed=2"), mine)


def test_another_seed_is_another_training(file, finished):
    """Behaviour: the seed reaches the training, and the band does not need one. Catches a fit with its own seed."""
    _, study = finished
    config = configured(file, "seed=2")
    planned = walk_forward.plan(config)
    fits = walk_forward.fit(config, planned, planned.folds[0])
    assert walk_forward.described(fits[NAME]) != study.folds[0].fitted[NAME]
    assert walk_forward.described(fits["tuned band"]) == study.folds[0].fitted["tuned band"]


@pytest.mark.slow
def test_killed_and_resumed_by_two_workers(file, finished, tmp_path):
    """Identity: kill -9 in the middle loses at most the fold at hand, and `resume` with its own workers ends with the
    numbers of a run in one process that was left alone."""
    folder, _ = finished
    mine = tmp_path / "run"
    command = [sys.executable, "-m", "hedgerl.cli", "walk-forward"]
    arguments = [*QUICK, f"data.series.path={file}", f"hydra.run.dir={mine}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, *arguments], env=environment, stderr=subprocess.DEVNULL)
    for _ in range(1200):
        if (mine / "folds" / "2002-12.npz").exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [each.name for each in (mine / "folds").glob("[!.]*")] == ["2002-12.npz"]
    assert not (mine / "results.json").exists()
    assert cli.main(["walk-forward", f"resume={mine}", "workers=2"]) == 0
    ours, theirs = (json.loads((each / "results.json").read_text()) for each in (mine, folder))
    assert ours.pop("command") != theirs.pop("command")
    assert ours == theirs


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train_months=60"], "train_months = 60 must leave 2 test episodes of 6 days, got a history of 2001-12-18"),
        (["embargo_days=300"], "embargo_days and train_months must leave 13 days to fit on"),
        (["embargo_days=-1"], "embargo_days must be a whole number of at least 0, got -1"),
        (["first_test=soon"], "first_test must be a date or YYYY-MM-DD, got 'soon'"),
        (["baselines=[delta,tuned_bant]"], "got 'tuned_bant'; the nearest is 'tuned_band'"),
        (["baselines=[{name: tuned_band, widht: 0.1}]"], "got 'widht'; the nearest is 'width'"),
        (["baselines=[dynamic_programming]"], "baselines must not name dynamic_programming on history"),
        (["reference=lazy"], "reference must be the label of one of the baselines"),
        (["training.source=dreams"], "training.source must be one of resampled, history, got 'dreams'"),
        (["training.widen=0.5"], "training.widen must be at least 1, got 0.5"),
        (["objective.name=luck"], "objective.name must be one of cvar, mean_std, entropic, variance, got 'luck'"),
        (["measure=luck"], "measure must be one of"),
        (["measure=premium"], "measure must be one that can be better or worse, got 'premium'"),
        (["name=delta"], "name must be a label of its own, got 'delta', which is one of the baselines"),
        (["workers=0"], "workers must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_configuration(file, overrides, message):
    """Catches a setting that only fails, or misleads, minutes later."""
    with pytest.raises(Exception, match=message):
        walk_forward.plan(configured(file, *overrides))


def test_the_command_line_says_in_one_line_what_is_wrong(file, tmp_path, capsys):
    """Behaviour: exit status 2 and one line, before a fold is begun."""
    arguments = ["walk-forward", *QUICK, f"data.series.path={file}", f"hydra.run.dir={tmp_path / 'run'}"]
    for extra in ("embargo_days=300", "seed=2 resume=nowhere", f"resume={tmp_path}"):
        wanted = ["walk-forward", extra] if extra.startswith("resume") else [*arguments, *extra.split()]
        assert cli.main(wanted) == cli.FAILURE
        printed = capsys.readouterr().err.strip()
        assert printed.startswith("hedgerl: error: ")
        assert "\n" not in printed
    assert not (tmp_path / "run" / "folds").exists()


def test_training_begins_from_a_saved_network(file):
    """Limit: at a learning rate of almost nothing the fitted network acts as the saved one does, to rounding. Catches a
    normaliser that is fitted anew under trained weights, and a start that is not taken."""
    start = ["training.start=deep_hedging_short_option", "training.start_rate=1e-9", "refit.iterations=1"]
    config = configured(file, *start, "baselines=[delta]", f"task.hedge_options=[{LISTED}]")
    shipped = Agent.load("deep_hedging_short_option")
    planned = walk_forward.plan(config)
    fitted = walk_forward.fit(config, planned, planned.folds[0])
    planned = dataclasses.replace(planned, agents={"shipped": shipped})
    results = walk_forward.tested(config, planned, planned.folds[0], fitted)
    np.testing.assert_allclose(results[NAME].pnl, results["shipped"].pnl, rtol=0.0, atol=1e-5)
    assert np.abs(results[NAME].pnl - results["delta"].pnl).max() > 1e-2
    with pytest.raises(ValueError, match="training.start must be a policy with the network of refit"):
        walk_forward.plan(configured(file, "training.start=deep_hedging_short_option"))  # of another book


def test_without_a_network_baselines_alone_are_walked(file):
    """Behaviour: refit=none trains nothing; a band with numbers of its own is not fitted, nor is one with half."""
    config = configured(file, "refit=none", "baselines=[delta,{name: tuned_band, label: wide, width: 0.1}]")
    planned = walk_forward.plan(config)
    assert planned.fitted(config) == []
    assert walk_forward.fit(config, planned, planned.folds[0]) == {}
    results = walk_forward.tested(config, planned, planned.folds[0], {})
    assert list(results) == ["delta", "wide"]


def test_resampled_days_move_as_those_of_the_window(series):
    """Statistical: over 60,000 days (about 2,400 independent months) realised over implied variance, and the
    correlation of returns with changes of the VIX, are those of the window within 5 % and 0.03; the drift is gone."""
    history = History(series)
    long = resampled(history, 60_000, seed=3, widen=1.5).series
    first = history.levels.first
    assert first is not None
    assert long.vix is not None
    assert series.vix is not None

    def told(close: np.ndarray, vix: np.ndarray) -> tuple[float, float]:
        moves = np.diff(np.log(close))
        scaled = moves / (vix[:-1] / 100.0 / np.sqrt(252))
        return float(scaled.var()), float(np.corrcoef(scaled, np.diff(np.log(vix)))[0, 1])

    window, made = told(series.close[first:], series.vix[first:]), told(long.close, long.vix)
    assert made[0] == pytest.approx(window[0], rel=0.05)
    assert made[1] == pytest.approx(window[1], abs=0.03)
    growth = long.close[1:] / long.close[:-1] - 1.0
    assert abs(growth.mean()) < 3.0 * growth.std() / np.sqrt(growth.size)
    narrow = resampled(history, 60_000, seed=3, widen=1.0).series.vix
    assert narrow is not None
    assert np.ptp(np.log(long.vix)) > np.ptp(np.log(narrow)) + 0.3  # of 2 log 1.5 = 0.8, where the level is reached
    again = resampled(history, 60_000, seed=3, widen=1.5).series
    np.testing.assert_array_equal(long.close, again.close)


def test_resampled_without_a_vix_keeps_clusters(series):
    """Statistical: without a VIX, squared returns stay correlated from day to day as in the window, within 0.1, and
    the history can be hedged on. Catches days drawn one by one."""
    history = History(dataclasses.replace(series, vix=None))
    long = resampled(history, 60_000, seed=3, widen=1.0)
    assert long.series.vix is None

    def clusters(close: np.ndarray) -> float:
        square = np.diff(np.log(close)) ** 2
        return float(np.corrcoef(square[1:], square[:-1])[0, 1])

    assert clusters(long.series.close) == pytest.approx(clusters(series.close[251:]), abs=0.1)
    assert long.starts(10).size > 5000


def test_blocks_are_runs_of_days():
    """Statistical: 10,000 draws, blocks of 10 days in the mean: nine of ten steps go to the next day, with a standard
    error of 0.003."""
    drawn = _blocks(500, 10_000, 10.0, np.random.default_rng(1))
    follows = (np.diff(drawn) % 500 == 1).mean()
    assert abs(follows - 0.9) < 0.012
    assert set(drawn.tolist()) == set(range(500))
