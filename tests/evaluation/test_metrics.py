"""Measures of a P&L sample against closed forms and against the definition written out."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from hedgerl.evaluation import cvar, summarise


def test_cvar_of_a_normal_sample():
    """Golden: CVaR of N(m, s) at level a is -m + s pdf(z_a) / (1 - a). Catches a quantile returned for a tail mean."""
    normal = NormalDist()
    pnl = 0.3 + 2.0 * np.array([normal.inv_cdf((i + 0.5) / 100_000) for i in range(100_000)])
    expected = -0.3 + 2.0 * normal.pdf(normal.inv_cdf(0.95)) / 0.05
    assert cvar(pnl, 0.95) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", [7, 20, 238])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95])
def test_cvar_minimises_the_rockafellar_uryasev_objective(size, confidence):
    """Twin: CVaR = min over c of c + E[max(loss - c, 0)] / (1 - confidence), attained at an observation.

    Catches a tail cut to whole observations, which is wrong wherever (1 - confidence) n is not a whole number.
    """
    losses = np.random.default_rng(3).standard_t(3, size)
    objective = [c + np.maximum(losses - c, 0.0).mean() / (1.0 - confidence) for c in losses]
    assert cvar(-losses, confidence) == pytest.approx(min(objective), rel=1e-12)


def test_cvar_is_not_the_mean_absolute_pnl():
    """Behaviour: gains do not count. Catches `cvar` under which abs or mse hides."""
    pnl = np.array([-1.0, 0.0, 0.0, 0.0, 1000.0])
    assert cvar(pnl, 0.8) == pytest.approx(1.0, rel=1e-12)


def test_summary_by_hand():
    """Golden: four months by hand; sd with n - 1."""
    summary = summarise([1.0, 2.0, 3.0, 6.0], cost=[0.1, 0.1, 0.2, 0.4], premium=[2.0] * 4, confidence=0.75)
    assert (summary.count, summary.mean, summary.cvar, summary.premium) == (4, 3.0, -1.0, 2.0)
    assert summary.sd == pytest.approx(math.sqrt(14 / 3), rel=1e-12)
    assert summary.mean_se == pytest.approx(math.sqrt(14 / 3) / 2, rel=1e-12)
    assert summary.cost == pytest.approx(0.2, rel=1e-12)


@pytest.mark.parametrize(
    ("pnl", "confidence", "rule"),
    [
        ([], 0.95, "pnl must be a non-empty sample of finite numbers"),
        ([1.0, math.nan], 0.95, "pnl must be a non-empty sample of finite numbers"),
        ([1.0, 2.0], 1.0, r"confidence must lie in \(0, 1\), got 1.0"),
    ],
)
def test_bad_input(pnl, confidence, rule):
    """Catches a NaN that sorts to one end and disappears from the tail."""
    with pytest.raises(ValueError, match=rule):
        cvar(pnl, confidence)


def test_one_month_has_no_deviation():
    """Catches a standard error of NaN in the table."""
    with pytest.raises(ValueError, match="pnl must have at least two observations, got 1"):
        summarise([1.0], [0.0], [1.0])
