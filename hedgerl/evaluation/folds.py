"""Walk-forward: windows of history to fit on, windows to test on, and what the tests come to together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from hedgerl.evaluation.bootstrap import resamples
from hedgerl.evaluation.comparison import LEAST_EPISODES, Study
from hedgerl.evaluation.metrics import Sample, check_metric, measure
from hedgerl.evaluation.result import Result, plain
from hedgerl.pricing._checks import in_interval, whole_number


@dataclass(frozen=True)
class Fold:
    """Days as indices into a series. A test episode belongs to the fold in whose test window it starts."""

    name: str  # year and month in which the test window begins
    train: tuple[int, int]  # the first and the last day that a training episode may hold
    starts: tuple[int, ...]  # days on which test episodes start, oldest first


def split(
    dates: np.ndarray,
    usable: tuple[int, int],
    n_steps: int,
    *,
    every: int,
    train_months: int,
    test_months: int,
    embargo_days: int,
    first_test: np.datetime64 | None = None,
    expanding: bool = False,
) -> list[Fold]:
    """Windows to fit on and to test on, one after another, so that every test episode is counted once.

    The test episodes are those that start every `every` days from `first_test` on; a test window has those that start
    within its `test_months`, and the last of them may run into the next one. A training window ends `embargo_days` + 1
    days before the first of them starts: all training episodes lie inside it, so that no day of them is a test's (they
    are purged), and `embargo_days` whole days lie between (Lopez de Prado 2018, "Advances in Financial Machine
    Learning", section 7.4). It begins `train_months` before the test window, or, `expanding`, always on the first
    usable day. A last window with fewer than two test episodes becomes part of the one before.

    Parameters
    ----------
    dates : (n_days,) datetime64[D]
    usable : the first and the last day that an episode may hold, indices
    first_test : None: `train_months` after the first usable day. An earlier one cuts the first training windows short.

    Raises ValueError naming the argument, where a test window has fewer than two episodes, and where a training window
    does not leave room for two that do not overlap.
    """
    for name, value, least in (
        ("train_months", train_months, 1),
        ("test_months", test_months, 1),
        ("embargo_days", embargo_days, 0),
        ("every", every, 1),
    ):
        whole_number(name, value, minimum=least)
    first, last = usable
    begin = _later(dates[first], train_months) if first_test is None else first_test
    grid = np.arange(max(first, int(np.searchsorted(dates, begin))), last - n_steps + 1, every)
    if grid.size < LEAST_EPISODES:
        asked = f"train_months = {train_months}" if first_test is None else f"first_test = {begin}"
        raise ValueError(
            f"{asked} must leave {LEAST_EPISODES} test episodes of {n_steps} days, got a history of {dates[first]} to "
            f"{dates[last]}: shorten the windows or give a longer series"
        )
    windows: list[tuple[np.datetime64, np.ndarray]] = []
    number = 0
    while (start := _later(begin, number * test_months)) <= dates[grid[-1]]:
        number += 1
        own = grid[(dates[grid] >= start) & (dates[grid] < _later(begin, number * test_months))]
        windows.append((start, own))
    if len(windows) > 1 and windows[-1][1].size < LEAST_EPISODES:
        _, rest = windows.pop()
        windows[-1] = (windows[-1][0], np.concatenate([windows[-1][1], rest]))
    for start, own in windows:
        if own.size < LEAST_EPISODES:
            raise ValueError(
                f"test_months must hold {LEAST_EPISODES} test episodes, got test_months = {test_months} with every = "
                f"{every}: {own.size} from {start} on"
            )
    folds = []
    for start, own in windows:
        after = int(own[0]) - 1 - embargo_days
        before = first if expanding else max(first, int(np.searchsorted(dates, _later(start, -train_months))))
        if after - before < 2 * n_steps:
            raise ValueError(
                f"embargo_days and train_months must leave {2 * n_steps + 1} days to fit on, two episodes of "
                f"{n_steps}, got {max(0, after - before + 1)} before {dates[own[0]]} with "
                f"embargo_days = {embargo_days} and "
                f"train_months = {train_months}"
            )
        folds.append(Fold(str(start)[:7], (before, after), tuple(own.tolist())))
    return folds


def _later(day: np.datetime64, months: int) -> np.datetime64:
    moved = pd.Timestamp(day) + pd.DateOffset(months=months)
    return np.datetime64(moved.date(), "D")


@dataclass(frozen=True, eq=False)
class FoldResults:
    """What one fold has come to."""

    name: str
    train: tuple[str, str]  # first and last day, YYYY-MM-DD
    test: tuple[str, str]  # the first episode's start and the last one's end
    results: dict[str, Result]
    fitted: dict[str, Any] = field(default_factory=dict)  # what was fitted to the window, by policy


@dataclass(frozen=True, eq=False)
class WalkForward(Study):
    """A study whose episodes are the tests of all folds, in their order.

    `simultaneous`: of `measure`, see the function of that name.
    """

    folds: tuple[FoldResults, ...] = ()
    measure: str = "cvar_95"
    simultaneous: pd.DataFrame = field(default_factory=pd.DataFrame)

    def fold_rows(self) -> list[dict[str, Any]]:
        """The windows, what was fitted to them, and a flat record of each policy's measures, as JSON knows it."""
        return [
            {
                "fold": each.name,
                "train": list(each.train),
                "test": list(each.test),
                "episodes": next(iter(each.results.values())).n_episodes,
                "fitted": each.fitted,
                "rows": Study(self.market, self.task, self.kind, each.results).rows(),
            }
            for each in self.folds
        ]

    def simultaneous_rows(self) -> list[dict[str, Any]]:
        """A flat record for each row of `simultaneous`; None for no number."""
        records = self.simultaneous.to_dict(orient="records")
        return [{str(key): plain(value) for key, value in record.items()} for record in records]


def pooled(parts: Sequence[Mapping[str, Result]]) -> dict[str, Result]:
    """The results of all folds, policy by policy, as one over their episodes in order.

    Folds must follow one another at the distance of their episodes: then a hedge that is not fitted has exactly the
    results that it has without folds.
    """
    together = {}
    for name, first in parts[0].items():
        own = [part[name] for part in parts]
        frame = pd.concat([each.episodes for each in own], ignore_index=True)
        assert first.every is not None
        steps = np.concatenate([each.step_pnl for each in own if each.step_pnl is not None], axis=1)
        overlap = max(1.0, steps.shape[0] / first.every)
        block = max(1, round(overlap * (len(frame) / overlap) ** (1 / 3)))
        whole = replace(first, episodes=frame, step_pnl=steps, block=block, metrics={}, note="")
        together[name] = replace(whole, metrics=measure(whole))
    return together


SIMULTANEOUS = ("policy", "metric", "value", "reference", "difference", "se", "low", "high", "p_value")


def simultaneous(
    results: Mapping[str, Result],
    reference: str,
    metric: str,
    *,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int | None = 0,
) -> pd.DataFrame:
    """Each policy less the reference in one metric, as many policies were tried: columns `SIMULTANEOUS`.

    With J policies beside the reference, d their differences on the same resampled episodes (block bootstrap) and se
    their deviations,

        low, high = d_j -+ c se_j,    c the `confidence` quantile of max_j |d*_j - d_j| / se_j,

    hold all at once; p_value is that of Romano & Wolf (2005), stepwise: the chance of a |d_j| / se_j as large as this
    or larger among the policies that are not yet told apart, were there no difference. NaN where the metric is not
    defined; a policy that is the reference in all but name has p_value 1.

    The step-down keeps its level where the bootstrap does. Of a tail it is too narrow: among ten hedges of one law with
    750 episodes that overlap, a CVaR 95 % had a p_value of 5 % or less in 12 % of 250 trials (a mean in 8 %), with 150
    episodes without overlap in 15 % (6 %). A p_value of a CVaR between 1 and 5 % says little.

    Raises ValueError for an unknown reference or metric.
    """
    if reference not in results:
        raise ValueError(f"reference must be one of {', '.join(results)}, got {reference!r}")
    check_metric(metric)
    whole_number("n_resamples", n_resamples, minimum=2)
    in_interval("confidence", confidence, 0.0, 1.0)
    others = [name for name in results if name != reference]
    samples = {name: Sample(result) for name, result in results.items()}
    n = samples[reference].n
    length = max(1, min(results[reference].block, n // 2))
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in others}
    for draws, counts in resamples(n, n_resamples, seed, length):
        base = samples[reference].measure(counts, draws)[metric]
        for name in others:
            drawn[name].append(samples[name].measure(counts, draws)[metric] - base)
    values = {name: result.metrics[metric] for name, result in results.items()}
    value = np.array([values[name] for name in others])
    difference = value - values[reference]
    if not others:
        return pd.DataFrame(columns=list(SIMULTANEOUS))
    changes = np.stack([np.concatenate(drawn[name]) for name in others])  # (J, b)
    se = changes.std(axis=1, ddof=1)
    known = np.isfinite(se) & np.isfinite(difference)
    moving = known & (se > 0.0)
    scale = np.where(moving, se, 1.0)
    chance = np.where(moving[:, None], np.abs(changes - difference[:, None]) / scale[:, None], 0.0)
    critical = float(np.quantile(chance.max(axis=0), confidence))
    reach = np.where(known, critical * np.where(known, se, 0.0), np.nan)
    size = np.where(moving, np.abs(difference) / scale, 0.0)
    p_value = np.full(len(others), np.nan)
    before = 0.0
    order = np.argsort(-size, kind="stable")
    for place, which in enumerate(order):
        if known[which]:
            largest = chance[order[place:]].max(axis=0)
            before = max(before, (1.0 + float((largest >= size[which]).sum())) / (1.0 + n_resamples))
            p_value[which] = before if moving[which] else 1.0
    columns = (
        others,
        [metric] * len(others),
        value,
        [values[reference]] * len(others),
        difference,
        np.where(known, se, np.nan),
        difference - reach,
        difference + reach,
        p_value,
    )
    return pd.DataFrame(dict(zip(SIMULTANEOUS, columns, strict=True)))
