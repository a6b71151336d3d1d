from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import special

from hedgerl.pricing import normal


def test_float32_cdf_matches_double_precision_everywhere() -> None:
    """Golden (scipy's ndtr): a mistyped coefficient, or a jump where the two fits meet at 1.25."""
    x = np.linspace(-16, 16, 2_000_001).astype(np.float32)
    exact = special.ndtr(x.astype(np.float64))
    got = normal.cdf(x)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, exact, rtol=0, atol=1e-7)
    near, far = (x > -5) & (x < 0), (x > -12.5) & (x < 0)
    np.testing.assert_allclose(got[near], exact[near], rtol=1e-6, atol=0)
    np.testing.assert_allclose(got[far], exact[far], rtol=5e-6, atol=0)


def test_float32_upper_tail_is_the_lower_one() -> None:
    """Identity: sf computed as 1 - cdf would be 0 beyond 5.5."""
    x = np.linspace(0, 12, 1001).astype(np.float32)
    np.testing.assert_array_equal(normal.sf(x), normal.cdf(-x))
    assert (normal.sf(x) > 0).all()
    np.testing.assert_allclose(normal.cdf(x) + normal.sf(x), 1, rtol=0, atol=1.2e-7)


def test_cdf_keeps_shape_and_edge_values() -> None:
    """Limit: infinities, NaN, strided and empty input, and arrays longer than one block."""
    edges = np.array([-np.inf, np.inf, 0.0, np.nan], np.float32)
    np.testing.assert_array_equal(normal.cdf(edges), np.array([0, 1, 0.5, np.nan], np.float32))
    x = np.random.default_rng(0).standard_normal((40_001, 2)).astype(np.float32)
    assert normal.cdf(x).shape == x.shape
    np.testing.assert_array_equal(normal.cdf(x[::3, 0]), normal.cdf(x)[::3, 0])
    assert normal.cdf(np.empty((0, 3), np.float32)).shape == (0, 3)
    assert float(normal.cdf(0.0)) == 0.5
    assert normal.cdf(np.float32(0.0)).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_twin(twin: Any, dtype: Any) -> None:
    """Twin: the same numbers from every library, in the same dtype."""
    x = np.linspace(-9, 9, 501).astype(dtype)
    for function in (normal.cdf, normal.sf, normal.pdf):
        other = twin.fetch(function(twin.send(x)))
        assert other.dtype == dtype
        np.testing.assert_allclose(other, function(x), rtol=0, atol=3e-7 if dtype == np.float32 else 1e-15)


def test_foreign_object_is_refused() -> None:
    with pytest.raises(TypeError, match="x must be a number or an array"):
        normal._library_ndtr("1")
