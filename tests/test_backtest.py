"""The backtest from configuration to report."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from hedgerl import backtest
from hedgerl.backtest import BacktestConfig

QUICK = ["task.backend=numpy", "baselines=[none,delta,leland]", "bootstrap=100", "n_paths=400"]


def configured(*overrides: str) -> BacktestConfig:
    """The configuration of a command line."""
    with initialize_config_module("hedgerl.conf", version_base="1.3"):
        typed = OmegaConf.to_object(compose("backtest", overrides=[*QUICK, *overrides]))
    assert isinstance(typed, BacktestConfig)
    return typed


def test_report_of_a_simulated_market_and_of_history(tmp_path, capsys):
    """Behaviour: the table names both markets, the report is there, results.json holds the config."""
    studies = backtest.run(configured("market=black_scholes", "task.hedge_options=[]", "seed=3"), tmp_path)
    printed = capsys.readouterr().out
    assert [study.kind for study in studies] == ["simulated", "history"]
    for study in studies:
        assert study.market in printed
        assert list(study.results) == ["none", "delta", "leland"]
        assert study.results["delta"].metrics["sd"] < 0.5 * study.results["none"].metrics["sd"]
    assert set(studies[1].regimes) == {"2008 crisis", "2017 quiet", "2020 crash", "2022 rate rises"}
    assert studies[1].regimes["2008 crisis"]["delta"].n_episodes > 20
    assert studies[1].regimes["2020 crash"]["delta"].n_episodes == 0  # the series ends in 2018
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["config"]["seed"] == 3
    assert (tmp_path / "report.html").read_text().count("<html") == 1


def test_cost_is_paid_out_of_the_profit(tmp_path):
    """Identity: the same paths at a cost: the mean falls by exactly the mean cost. Catches an unpaid cost."""
    base = ["market=black_scholes", "data=none", "task.hedge_options=[]"]
    free = backtest.run(configured(*base, "execution=free"), tmp_path / "free")[0].results["delta"].metrics
    dear = backtest.run(configured(*base, "execution.costs.underlying.bps=10"), tmp_path / "dear")[0].results["delta"]
    assert dear.metrics["cost"] > 0.05
    assert dear.metrics["mean"] == pytest.approx(free["mean"] - dear.metrics["cost"], abs=1e-9)


def test_history_does_not_look_ahead(tmp_path, monkeypatch):
    """Identity: changing the future of the series leaves every earlier episode as it was."""
    base = ["market=black_scholes", "task.hedge_options=[]", "n_paths=2"]
    before = backtest.run(configured(*base), tmp_path / "before")[1].results["leland"]
    planned = backtest.plan(configured(*base))
    task = list(planned.tasks.values())[-1]
    closes = task.market.series.close.copy()
    rng = np.random.default_rng(1)
    closes[-400:] = closes[-401] * np.exp(np.cumsum(0.02 * rng.standard_normal(400)))
    object.__setattr__(task.market.series, "close", closes)
    monkeypatch.setattr(backtest, "plan", lambda config: planned)
    after = backtest.run(configured(*base), tmp_path / "after")[1].results["leland"]
    untouched = (before.episodes["end"] < np.datetime64("2017-05-01")).to_numpy()
    np.testing.assert_array_equal(before.pnl[untouched], after.pnl[untouched])
    assert (before.pnl[~untouched] != after.pnl[~untouched]).mean() > 0.9


def test_same_seed_same_bytes(tmp_path):
    """Identity: two runs write the same bytes; another seed does not."""
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        backtest.run(
            configured("market=heston", "task.hedge_options=[]", f"seed={seed}", "n_paths=64"), tmp_path / name
        )
    first, second, third = ((tmp_path / name / "results.json").read_bytes() for name in "abc")
    assert first == second
    assert first != third


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["n_paths=1"], "n_paths must be a whole number of at least 2, got 1"),
        (["bootstrap=3"], "bootstrap must be a whole number of at least 100, got 3"),
        (["market=black_scholes", "task.moneyness=0.0"], "moneyness must be positive, got 0"),
        (
            ["market=black_scholes", "baselines=[delta,delta]"],
            "baselines must have labels of their own, got delta, delta",
        ),
        (["market=black_scholes", "baselines=[3]"], "baselines must be names, or mappings with a name, got 3"),
        (["+regimes.lost=[2008-01-01]"], "regimes must each be .first day, last day., got lost"),
    ],
)
def test_bad_configuration(overrides, message, tmp_path):
    """Catches a setting that only fails, or misleads, minutes later."""
    with pytest.raises(Exception, match=message):
        backtest.plan(configured(*overrides))
