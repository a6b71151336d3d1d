"""What the tests of the simulators share: standard errors, how many of them, and formulas written a second time.

How many standard errors
------------------------
All seeds are fixed, so a test that passes today passes tomorrow. The number k decides two other things: what bias stays
unseen, and how often an innocent change of the draws (another block size, another order of the streams) turns a test
red.

SIGMAS = 4, for means that are compared cell by cell (each step, bin, contract or pair of times). One cell lies beyond
4 s.e. once in 16,000, so a test of 100 cells gives a false alarm once in 160 reseedings and one of 1,000 cells once in
16 (less, as neighbouring cells are correlated). Simulators go wrong by tens of standard errors or not at all, so
nothing is gained by a smaller k and the alarm bell would ring for nothing.

GOLDEN_SIGMAS = 3, against golden numbers with a standard error of their own, taken together with ours: few cells, and
the accuracy that is promised to users.

Both assume that the mean of the sample is normal. Where the variable itself is log-normal with a large log variance
(rough variance at eta = 1.9), the sample's standard error is too small more often than not, so the tests either take
logarithms, which are exactly normal, or a smaller eta.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import ndtr

SIGMAS = 4.0
GOLDEN_SIGMAS = 3.0


def z_scores(samples: Any, expected: Any = 0.0) -> np.ndarray:
    """(mean - expected) / standard error along the last axis, which holds independent paths."""
    values = np.asarray(samples, dtype=np.float64)
    error = values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1])
    assert (error > 0).all(), "a sample without spread has no standard error"
    return (values.mean(axis=-1) - expected) / error


def assert_mean(samples: Any, expected: Any = 0.0, *, sigmas: float = SIGMAS) -> None:
    """The mean over the last axis lies within `sigmas` standard errors of `expected` in every cell."""
    assert_z(z_scores(samples, expected), sigmas=sigmas)


def assert_z(z: Any, *, sigmas: float = SIGMAS) -> None:
    """No z-score beyond `sigmas`; the message names the worst cell and how many there are."""
    scores = np.atleast_1d(np.asarray(z, dtype=np.float64))
    assert scores.size
    assert np.isfinite(scores).all()
    worst = np.unravel_index(np.abs(scores).argmax(), scores.shape)
    assert np.abs(scores).max() <= sigmas, (
        f"cell {tuple(int(i) for i in worst)} of {scores.shape} is {scores[worst]:+.2f} s.e. off; "
        f"{(np.abs(scores) > sigmas).sum()} of {scores.size} cells lie beyond {sigmas:g}"
    )


def undiscounted_black(forward: Any, strike: Any, total_variance: Any, is_call: Any) -> np.ndarray:
    """Black's formula in the forward and the total variance, written for the tests with scipy's normal distribution."""
    forward, total_variance = np.asarray(forward, dtype=np.float64), np.asarray(total_variance, dtype=np.float64)
    sign = np.where(is_call, 1.0, -1.0)
    root = np.sqrt(np.maximum(total_variance, 1e-300))
    d1 = np.log(forward / strike) / root + 0.5 * root
    return sign * (forward * ndtr(sign * d1) - strike * ndtr(sign * (d1 - root)))


def black_implied_volatility(price: float, forward: float, strike: float, years: float, is_call: bool) -> float:
    """Implied volatility of an undiscounted price by bisection (Brent): slow, sure, and not the package's."""

    def excess(volatility: float) -> float:
        return float(undiscounted_black(forward, strike, volatility**2 * years, is_call)) - price

    return float(brentq(excess, 1e-4, 10.0, xtol=1e-12))


def controlled(values: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """`values` (n,) less their regression on `controls` (k, n), whose true means are zero: same mean, less spread."""
    centred = controls - controls.mean(axis=1, keepdims=True)
    slopes, *_ = np.linalg.lstsq(centred.T, values - values.mean(), rcond=None)
    return values - slopes @ controls


def mixed_smile(
    effective_forward: Any,
    own_variance: Any,
    controls: Any,
    *,
    forward: float,
    strikes: Any,
    years: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Implied volatilities and their standard errors, by conditioning on the variance path (Romano & Touzi 1997).

    Given the variance path, the terminal spot is log-normal with forward `effective_forward` (n,) and variance of its
    logarithm `own_variance` (n,). `controls` (k, n) have mean zero. Out-of-the-money options are averaged.
    """
    effective_forward, own_variance = np.asarray(effective_forward, np.float64), np.asarray(own_variance, np.float64)
    volatilities, errors = [], []
    for strike in np.atleast_1d(strikes):
        is_call = bool(strike >= forward)
        sample = controlled(
            undiscounted_black(effective_forward, strike, own_variance, is_call), np.asarray(controls, np.float64)
        )
        price, error = sample.mean(), sample.std(ddof=1) / np.sqrt(sample.size)
        volatility = black_implied_volatility(price, forward, strike, years, is_call)
        bump = 1e-4
        up, down = (
            float(undiscounted_black(forward, strike, (volatility + shift) ** 2 * years, is_call))
            for shift in (bump, -bump)
        )
        volatilities.append(volatility)
        errors.append(error * 2 * bump / (up - down))
    return np.array(volatilities), np.array(errors)


def golden(name: str) -> list[dict[str, str]]:
    """The rows of golden/<name>; lines that start with # are its source note."""
    lines = (Path(__file__).parent / "golden" / name).read_text().splitlines()
    return list(csv.DictReader(line for line in lines if line and not line.startswith("#")))


@pytest.fixture(scope="session")
def tools() -> SimpleNamespace:
    """The functions above, for test modules (which pytest's importlib mode keeps from importing this one)."""
    functions: tuple[Callable[..., Any], ...] = (
        z_scores,
        assert_mean,
        assert_z,
        undiscounted_black,
        black_implied_volatility,
        controlled,
        mixed_smile,
        golden,
    )
    return SimpleNamespace(
        SIGMAS=SIGMAS, GOLDEN_SIGMAS=GOLDEN_SIGMAS, **{function.__name__: function for function in functions}
    )
