"""Paired bootstrap: how far policies differ on the same episodes, beyond chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from hedgerl.evaluation.metrics import METRICS, Sample, check_metric
from hedgerl.evaluation.result import Result
from hedgerl.pricing._checks import in_interval, whole_number
from hedgerl.sim.noise import entropy, generator

COLUMNS = ("policy", "metric", "value", "reference", "difference", "se", "low", "high")
NOT_COMPARED = ("mean_se", "premium")  # no qualities of a policy
_CELLS = 1 << 20  # resampled episodes held at a time


def resamples(
    n: int, count: int, seed: int | None, block: int = 1, *, at_a_time: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(draws (b, n) of episodes with replacement, counts (b, n) of each episode), `count` rows in all.

    With block > 1 whole blocks of neighbours are drawn from the episodes bent to a circle, in their order (circular
    block bootstrap, Politis & Romano 1992), which keeps the dependence of consecutive or overlapping windows.
    Rows do not depend on `at_a_time`.
    """
    whole_number("n", n)
    whole_number("block", block)
    rng = generator(entropy(seed), "bootstrap", 0)
    size = max(1, _CELLS // n) if at_a_time is None else at_a_time
    places = -(-n // block)
    for first in range(0, count, size):
        rows = min(size, count - first)
        starts = rng.integers(0, n, size=(rows, places))
        if block == 1:
            draws = starts
        else:
            draws = ((starts[:, :, None] + np.arange(block)) % n).reshape(rows, -1)[:, :n]
        flat = (draws + n * np.arange(rows)[:, None]).ravel()
        yield draws, np.bincount(flat, minlength=rows * n).reshape(rows, n).astype(np.float64)


def paired_differences(
    results: Mapping[str, Result],
    reference: str,
    *,
    metrics: Sequence[str] | None = None,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    block: int | None = None,
    seed: int | None = 0,
) -> pd.DataFrame:
    """Every policy less the reference in every metric, with bootstrap intervals: a row for each pair of them.

    The results must be on the same episodes: each resample draws the same ones for all policies, so that what befalls
    both cancels. Columns: policy, metric, value, reference, difference, se (deviation over resamples), low and high
    (percentile interval at `confidence`, Efron 1979). NaN where a metric is not defined.

    block: episodes drawn together; None: that of the results (1 for simulated markets).

    Percentiles are used for all metrics alike. A studentised interval needs a standard error of each resample, which
    only the mean gives away; for tails of few episodes (CVaR 99 % of less than 1,000) every bootstrap is too narrow.

    Raises ValueError for an unknown reference or metric, and for results of different lengths.
    """
    if reference not in results:
        raise ValueError(f"reference must be one of {', '.join(results)}, got {reference!r}")
    names = [name for name in METRICS if name not in NOT_COMPARED] if metrics is None else [*map(check_metric, metrics)]
    whole_number("n_resamples", n_resamples, minimum=2)
    tail = 0.5 * (1.0 - in_interval("confidence", confidence, 0.0, 1.0))
    lengths = {name: result.n_episodes for name, result in results.items()}
    n = lengths[reference]
    if set(lengths.values()) != {n}:
        raise ValueError(f"results must be on the same episodes, got lengths {lengths}")
    samples = {name: Sample(result) for name, result in results.items()}
    length = max(1, min(results[reference].block if block is None else block, n // 2))
    others = [name for name in results if name != reference]
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in others}
    for draws, counts in resamples(n, n_resamples, seed, length):
        base = _stack(samples[reference].measure(counts, draws), names)
        for name in others:
            drawn[name].append(_stack(samples[name].measure(counts, draws), names) - base)
    whole = np.ones((1, n))
    base_values = _stack(samples[reference].measure(whole), names)[:, 0]
    rows = []
    for name in others:
        values = _stack(samples[name].measure(whole), names)[:, 0]
        changes = np.concatenate(drawn[name], axis=1)
        for metric, value, base_value, change in zip(names, values, base_values, changes, strict=True):
            se, low, high = np.nan, np.nan, np.nan
            if np.isfinite(change).all():
                se = float(change.std(ddof=1))
                low, high = (float(x) for x in np.quantile(change, [tail, 1.0 - tail]))
            rows.append((name, metric, float(value), float(base_value), float(value - base_value), se, low, high))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _stack(values: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    return np.stack([values[name] for name in names])
