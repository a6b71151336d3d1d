"""Backtests on stored quotes, from episodes to the command."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from hedgerl import cli
from hedgerl.baselines import solved
from hedgerl.envs import Execution, Listing, ShortOption
from hedgerl.evaluation import compare
from hedgerl.execution import HalfSpread, QuotedSpread

COSTS = Execution(costs=(QuotedSpread(), HalfSpread(bps=1.0, applies_to="underlying")))


@pytest.fixture
def task(source) -> ShortOption:
    """A fortnight's call, hedged with the underlying and a call of a month."""
    month = Listing(name="month", tenor=22 / 252)
    return ShortOption(market=source, n_steps=10, quantity=100.0, hedge_options=(month,), execution=COSTS)


def test_hedging_pays_on_quotes(task):
    """Behaviour: on chains of a simulated market with holes delta hedging halves the deviation at least, delta-gamma
    hedging costs more spread than it; no hedge costs nothing.

    Catches Greeks of the wrong sign or contract, and options that trade free.
    """
    policies = {name: solved(name, task) for name in ("none", "delta", "delta_gamma")}
    found = compare(policies, task, every=2, resamples=100)
    metrics: Any = found.metrics
    assert metrics.loc["delta", "sd"] < 0.5 * metrics.loc["none", "sd"]
    assert metrics.loc["delta_gamma", "cost_spread"] > metrics.loc["delta", "cost_spread"] > 0.0
    assert metrics.loc["none", "cost"] == 0.0
    assert found.marks == "quotes"
    episodes = found.results["delta"].episodes
    np.testing.assert_allclose(episodes.filter(like="attribution_").sum(axis=1), episodes["pnl"], rtol=0, atol=1e-9)
    assert (np.diff(episodes["start"]) > np.timedelta64(0)).all()
    starts = task.market.starts(task.n_steps, every=2)
    refused = [note for note in found.notes if note.startswith("Refused")]
    assert len(episodes) < starts.size or not refused
    assert found.notes[0].startswith("Market quotes: ")
    assert "37 days with quotes from 2019-03-04" in found.notes[1]


def test_refused_episodes_are_told(task):
    """Golden: terms that no contract meets refuse every episode, in a line that names the nearest; some that most
    miss leave the others and count the refusals.

    Catches an empty report, and episodes that vanish.
    """
    nowhere = dataclasses.replace(task, moneyness=1.5)
    with pytest.raises(ValueError, match="n_steps must leave 2 episodes of quotes, got 0 of .*the nearest is XYZ"):
        compare({"none": solved("none", nowhere)}, nowhere, every=3)
    rare = dataclasses.replace(task, market=dataclasses.replace(task.market, moneyness_tolerance=0.008), moneyness=1.01)
    found = compare({"none": solved("none", rare)}, rare, every=1)
    count = found.results["none"].n_episodes
    total = rare.market.starts(10, every=1).size
    assert 2 <= count < total
    (note,) = [each for each in found.notes if each.startswith("Refused")]
    assert note.startswith(f"Refused: {total - count} of {total} episodes: no contract near a call at ")
    with pytest.raises(ValueError, match="chunk must be 1 on quotes"):
        compare({"none": solved("none", task)}, task, chunk=4)


def test_command(simulated, tmp_path, monkeypatch, capsys):
    """Behaviour: the command writes a report that names the quotes, leaves the tuned band out aloud, and has a line for
    what it cannot do.

    Catches a configuration group that does not fit its class.
    """
    monkeypatch.chdir(tmp_path)
    given = ["backtest", "data=quotes", f"data.store={simulated}", "data.underlying=XYZ", "data.dividend=0.01"]
    given += ["market=none", "task=short_option", "execution=quoted", "task.n_steps=10", "every=6", "agents=[]"]
    given += ["bootstrap=100", "baselines=[none,delta,tuned_band]", "task.hedge_options=[]"]
    assert cli.main(given) in (0, None)
    output = capsys.readouterr()
    assert "tuned band: left out" in output.err
    (folder,) = (tmp_path / "runs").iterdir()
    content = json.loads((folder / "results.json").read_text())
    (study,) = content["studies"]
    assert study["market"] == "XYZ quotes"
    assert any(note.startswith("Market quotes: ") for note in study["notes"])
    assert study["policies"] == ["none", "delta"]
    for change, message in (
        ("data.underlying=ABC", "underlying must be one that"),
        ("data.store=nowhere", "no store of option data"),
        ("task.n_steps=36", "n_steps must leave 2 windows"),
    ):
        assert cli.main([*given, change]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
