"""The bundled S&P 500 series and its trailing volatility."""

from __future__ import annotations

import numpy as np
import pytest

from hedgerl.data import sp500_series
from hedgerl.data.volatility import ewma_volatility


def test_series():
    """Golden: the index closed at 1228.10 on its first and 2506.85 on its last day. Catches the column of opens."""
    series = sp500_series()
    assert (str(series.dates[0]), str(series.dates[-1])) == ("1999-01-04", "2018-12-31")
    assert series.close[0] == pytest.approx(1228.10, abs=0.01)
    assert series.close[-1] == pytest.approx(2506.85, abs=0.01)
    assert series.dates.shape == series.close.shape == (5031,)
    assert (np.diff(series.dates).astype(int) > 0).all()


def test_volatility_does_not_look_ahead():
    """Identity: what is known at day t does not change with later closes. Catches a window that includes tomorrow."""
    closes = sp500_series().close[:300]
    known = ewma_volatility(closes)
    other = closes.copy()
    other[201:] *= np.linspace(1.1, 3.0, other.size - 201)
    np.testing.assert_array_equal(ewma_volatility(other)[:201], known[:201])
    assert ewma_volatility(other)[201] != known[201]  # and it does use the return into the day itself


def test_volatility_of_a_constant_move():
    """Golden: daily moves of +-1 % give 1 % x sqrt(252), from the first defined day on; NaN before."""
    closes = 100.0 * np.exp(0.01 * (np.arange(60) % 2))
    volatility = ewma_volatility(closes, span_days=10)
    assert np.isnan(volatility[:10]).all()
    np.testing.assert_allclose(volatility[10:], 0.01 * np.sqrt(252.0), rtol=1e-12, atol=0)


def test_volatility_weights():
    """Golden: one 2 % move after 1 % moves enters with weight 2 / (span + 1)."""
    returns = np.array([0.01] * 21 + [0.02])
    closes = np.exp(np.cumsum(np.append(0.0, returns)))
    expected = np.sqrt(252 * (20 / 22 * 0.01**2 + 2 / 22 * 0.02**2))
    assert ewma_volatility(closes, 21)[-1] == pytest.approx(expected, rel=1e-12)


def test_too_short_or_bad_span():
    """Catches a volatility that is NaN throughout."""
    with pytest.raises(ValueError, match="closes must hold more than span_days = 21 values, got 10"):
        ewma_volatility(np.ones(10))
    with pytest.raises(ValueError, match="span_days must be a whole number of at least 1, got 0"):
        ewma_volatility(np.ones(10), 0)
