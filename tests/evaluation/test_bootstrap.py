"""Paired bootstrap: pairing, coverage, blocks, determinism."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hedgerl.evaluation import Result, paired_differences
from hedgerl.evaluation.bootstrap import COLUMNS, resamples

MakeResult = Callable[..., Result]


def test_identity_a_constant_difference_has_no_error(make_result: MakeResult) -> None:
    """What befalls both policies cancels, however much it varies."""
    pnl = np.random.default_rng(0).normal(0.0, 50.0, 200)
    table = paired_differences({"a": make_result(pnl), "b": make_result(pnl + 2.0)}, "a", n_resamples=100)
    assert tuple(table.columns) == COLUMNS
    row = table.set_index("metric").loc["mean"]
    assert row["difference"] == pytest.approx(2.0)
    assert row["low"] == pytest.approx(2.0)
    assert row["high"] == pytest.approx(2.0)
    assert table.set_index("metric").loc["sd", "se"] == pytest.approx(0.0, abs=1e-12)


def test_statistical_coverage_of_mean_and_deviation(make_result: MakeResult) -> None:
    """400 samples of 120 pairs of normals: 95 % intervals hold the truth in 95 %, less 1 % that a bootstrap of this
    size is known to lose, within 4 standard errors (.011 each)."""
    held = np.zeros(2)
    n_experiments = 400
    for experiment in range(n_experiments):
        rng = np.random.default_rng([17, experiment])
        common = rng.normal(size=120)
        a = make_result(common + 0.5 * rng.normal(size=120))
        b = make_result(common + 1.0 * rng.normal(size=120) + 0.3)
        table = paired_differences(
            {"a": a, "b": b}, "a", metrics=("mean", "sd"), n_resamples=300, seed=experiment
        ).set_index("metric")
        truth = np.array([0.3, 2.0**0.5 - 1.25**0.5])
        held += (table["low"].to_numpy() <= truth) & (truth <= table["high"].to_numpy())
    assert held / n_experiments == pytest.approx(0.94, abs=4 * 0.011)


def test_standard_error_is_that_of_theory(make_result: MakeResult) -> None:
    x = np.random.default_rng(1).normal(size=(2, 1000))
    table = paired_differences(
        {"a": make_result(x[0]), "b": make_result(x[1])}, "a", metrics=["mean"], n_resamples=2000
    )
    expected = (x[1] - x[0]).std() / 1000**0.5
    assert table["se"][0] == pytest.approx(expected, rel=4 / (2 * 2000) ** 0.5)
    assert table["high"][0] - table["low"][0] == pytest.approx(2 * 1.96 * expected, rel=0.12)


def test_blocks_keep_neighbours_and_widen_intervals(make_result: MakeResult) -> None:
    draws, counts = next(resamples(10, 50, 3, block=5))
    assert draws.shape == counts.shape == (50, 10)
    assert (counts.sum(axis=1) == 10).all()
    assert ((np.diff(draws[:, :5], axis=1) % 10) == 1).all()
    x = np.repeat(np.random.default_rng(2).normal(size=200), 10)  # ten windows that overlap wholly
    pair = {"a": make_result(0.0 * x), "b": make_result(x)}
    single, blocked = (
        paired_differences(pair, "a", metrics=["mean"], n_resamples=500, block=block)["se"][0] for block in (1, 40)
    )
    assert blocked / single == pytest.approx(10**0.5, rel=0.25)


def test_resamples_do_not_depend_on_how_many_at_a_time() -> None:
    whole = [draws for draws, _ in resamples(7, 20, 5, at_a_time=20)]
    parts = [draws for draws, _ in resamples(7, 20, 5, at_a_time=3)]
    np.testing.assert_array_equal(np.concatenate(whole), np.concatenate(parts))


def test_same_seed_same_table(make_result: MakeResult) -> None:
    x = np.random.default_rng(1).normal(size=(2, 50))
    pair = {"a": make_result(x[0]), "b": make_result(x[1])}
    first, again, other = (paired_differences(pair, "a", n_resamples=50, seed=seed) for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first.equals(other)


def test_errors(make_result: MakeResult) -> None:
    a, b = make_result([1.0, 2.0, 3.0]), make_result([1.0, 2.0])
    with pytest.raises(ValueError, match="reference must be one of a, got 'delta'"):
        paired_differences({"a": a}, "delta")
    with pytest.raises(ValueError, match="same episodes, got lengths {'a': 3, 'b': 2}"):
        paired_differences({"a": a, "b": b}, "a")
    with pytest.raises(ValueError, match="metric must be one of"):
        paired_differences({"a": a, "b": a}, "a", metrics=["sortino"])
    with pytest.raises(ValueError, match="confidence must lie in"):
        paired_differences({"a": a, "b": a}, "a", confidence=95)
