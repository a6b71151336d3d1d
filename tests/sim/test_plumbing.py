"""What holds the simulators together: the limit on BLAS, markets sent between processes, curves that are none."""

from __future__ import annotations

import pickle
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import threadpoolctl

from hedgerl.pricing import Option
from hedgerl.sim import GARCH, SABR, BlackScholes, Heston, Model, RoughBergomi
from hedgerl.sim.backend import single_threaded_blas

DAY = 1 / 252


def blas_threads() -> list[int]:
    """Threads of each BLAS that is loaded."""
    return [each["num_threads"] for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"]


def test_blas_is_limited_until_the_last_user_leaves() -> None:
    """Identity. Catches a first user who, leaving, unlimits BLAS under the second, and a second who limits it for ever:
    the limit is the whole process's, and each context alone would restore what it found."""
    with threadpoolctl.threadpool_limits(limits=2, user_api="blas"):  # there is something to limit on any machine
        before = blas_threads()
        if not before or max(before) < 2:
            pytest.skip("BLAS has one thread here, whatever it is asked")
        with ExitStack() as second:
            with single_threaded_blas():
                assert set(blas_threads()) == {1}
                second.enter_context(single_threaded_blas())
                assert set(blas_threads()) == {1}
            assert set(blas_threads()) == {1}
        assert blas_threads() == before


def test_blas_is_freed_after_an_error() -> None:
    """Catches a simulation that fails and leaves the process on one thread."""
    with threadpoolctl.threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        for _ in range(2):
            with pytest.raises(KeyError), single_threaded_blas(), single_threaded_blas():
                raise KeyError
            assert blas_threads() == before


@pytest.mark.parametrize(
    ("model", "perturb"),
    [
        (BlackScholes(volatility=0.2), None),
        (Heston(kappa=2.0, theta=0.04, sigma=0.5, rho=-0.7, v0=0.04), {"v0": (0.02, 0.08)}),
        (RoughBergomi(hurst=0.1, eta=1.5, rho=-0.7, forward_variance=((0.0, 0.1), (0.03, 0.05))), {"eta": (1.0, 2.0)}),
        (SABR(volatility=0.2, volvol=1.0, rho=-0.5), None),
        (GARCH(omega=2e-6, alpha=0.02, gamma=0.14, beta=0.89), {"beta": (0.85, 0.9)}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Model) else "",
)
def test_a_market_is_pickled(model: Model, perturb: Any) -> None:
    """Round trip, before and after a mark has fitted what it needs. Catches locks and caches that cannot travel."""
    paths = model.simulate(200, 3, 3 * DAY, seed=1, perturb=perturb, backend="numpy")
    market, option = model.market(paths), Option(101.0, 3 * DAY)
    fresh = pickle.loads(pickle.dumps(market))
    marks = [market.mark(option, step) for step in range(4)]
    for copy in (fresh, pickle.loads(pickle.dumps(market))):
        assert copy.paths.model == model
        assert copy.paths.ranges == paths.ranges
        for step, mark in enumerate(marks):
            for greek in ("price", "delta", "gamma", "vega", "theta"):
                np.testing.assert_array_equal(getattr(copy.mark(option, step), greek), getattr(mark, greek))


@pytest.mark.parametrize(
    "curve",
    [
        [0.04, 0.05],
        (0.04, 0.05),
        np.array([0.04, 0.05]),
        ((0.0, 0.1), (0.04, 0.05), (0.1, 0.2)),
        [],
        "0.04",
        None,
        ((0.0, 0.1), ("a", "b")),
        ((0.0, 0.1), ("0.04", "0.05")),
        ((0.0, 0.1), "ab"),
        ((0.0, 0.1), (0.04, -0.05)),
        lambda times: None,
    ],
)
def test_what_is_no_forward_variance_curve(curve: Any) -> None:
    """Catches a TypeError from deep inside, or an error that names no field, for a curve that is none."""
    with pytest.raises(ValueError, match=r"^forward_variance must "):
        RoughBergomi(hurst=0.1, eta=1.5, rho=-0.7, forward_variance=curve)


@pytest.mark.parametrize("times", [("a", "b"), "ab", (0.0, None), (0.0, float("nan")), (0.1, 0.0), (0.0,)])
def test_what_are_no_times_of_a_curve(times: Any) -> None:
    """The same for the other half of a pair."""
    with pytest.raises(ValueError, match=r"^times "):
        RoughBergomi(hurst=0.1, eta=1.5, rho=-0.7, forward_variance=(times, (0.04, 0.05)))
