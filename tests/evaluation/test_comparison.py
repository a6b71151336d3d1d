"""Studies: regimes, flat rows, strict JSON."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from hedgerl.baselines import Delta, NoHedge
from hedgerl.envs import Execution, ShortOption
from hedgerl.evaluation import METRICS, Result, Study, compare, cut_regimes, measure, within
from hedgerl.sim import BlackScholes

MakeResult = Callable[..., Result]


@pytest.fixture
def dated(make_result: MakeResult) -> Result:
    """Ten episodes of two days, each starting on the first day of a month of 2020 and ending on the 20th."""
    pnl = np.arange(10.0) ** 2
    start = pd.to_datetime([f"2020-{month:02d}-01" for month in range(1, 11)])
    steps = np.stack([0.25 * pnl, 0.75 * pnl])
    fields = {"step_pnl": steps, "every": 2}
    return make_result(pnl, kind="history", start=start, end=start + pd.Timedelta(days=19), fields=fields)


def test_a_regime_is_the_episodes_inside_it(dated: Result) -> None:
    part = within(dated, "2020-03-01", "2020-05-20")
    assert part.pnl.tolist() == [4.0, 9.0, 16.0]
    assert part.metrics["mean"] == pytest.approx(29 / 3)
    assert part.step_pnl is not None
    assert part.step_pnl.sum(axis=0).tolist() == part.pnl.tolist()
    assert within(dated, "2020-03-02", "2020-05-20").n_episodes == 2
    assert within(dated, "2020-03-01", "2020-05-19").n_episodes == 2


def test_a_regime_of_all_is_all(dated: Result) -> None:
    assert within(dated, "2020-01-01", "2020-12-31").metrics == pytest.approx(measure(dated), nan_ok=True)


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        ("2020-03-01", "2020-03-31", "crash: only one episode lies"),
        ("2008-01-01", "2008-12-31", "crash: no episode lies"),
    ],
)
def test_too_few_episodes_say_so(dated: Result, start: str, end: str, said: str) -> None:
    regimes = cut_regimes({"delta": dated}, {"crash": (start, end)})
    result = regimes["crash"]["delta"]
    assert result.metrics == {}
    assert result.note.startswith(said)
    rows = Study(market="m", task="t", kind="history", results={"delta": dated}, regimes=regimes).rows()
    assert [row["regime"] for row in rows] == ["all", "crash"]
    assert "mean" not in rows[1]
    assert said in rows[1]["note"]


def test_regimes_need_dates_and_order(make_result: MakeResult, dated: Result) -> None:
    with pytest.raises(ValueError, match="regimes need episodes with dates"):
        within(make_result([1.0, 2.0]), "2020-01-01", "2020-12-31")
    with pytest.raises(ValueError, match="must not end before it starts, got crash"):
        cut_regimes({"delta": dated}, {"crash": ("2020-12-31", "2020-01-01")})


def test_rows_and_json_of_a_comparison() -> None:
    task = ShortOption(market=BlackScholes(volatility=0.2), execution=Execution())
    comparison = compare({"none": NoHedge(), "delta": Delta()}, task, 200, seed=1, resamples=50)
    study = comparison.study(market="calm", task="a call", notes=("by hand",))
    assert study.policies == ("none", "delta")
    assert list(study.metrics.columns) == list(METRICS)
    rows = study.rows()
    assert [(row["market"], row["task"], row["policy"], row["episodes"]) for row in rows] == [
        ("calm", "a call", "none", 200),
        ("calm", "a call", "delta", 200),
    ]
    assert rows[0]["cost_to_reference"] is None  # delta hedging is free here
    content = json.loads(study.to_json())
    assert content["notes"] == ["by hand"]
    assert {row["metric"] for row in content["differences"]} < set(METRICS)
    assert all(row["against"] == "delta" and row["policy"] == "none" for row in content["differences"])
    pd.DataFrame(rows).to_csv()


def test_a_reference_that_is_absent_is_the_first() -> None:
    task = ShortOption(market=BlackScholes(volatility=0.2))
    assert compare({"none": NoHedge()}, task, 20, seed=1).differences.empty
    assert compare({"none": NoHedge()}, task, 20, seed=1, reference=None).reference is None
    assert compare({"a": NoHedge(), "b": Delta()}, task, 20, seed=1, resamples=5).reference == "a"
