from __future__ import annotations

import warnings

import numpy as np
import pytest

from hedgerl.pricing import black_scholes
from hedgerl.pricing.base import as_arrays, at_least, check, check_inside


def test_dtype_of_the_answer() -> None:
    """Behaviour: the widest floating array decides; Python numbers and integers do not widen."""
    single, double = np.ones(2, np.float32), np.ones(2, np.float64)
    for values, expected in (
        ({"a": 1, "b": 2.5}, np.float64),
        ({"a": single, "b": 2.5}, np.float32),
        ({"a": single, "b": np.arange(2)}, np.float32),
        ({"a": single, "b": double}, np.float64),
        ({"a": np.arange(2)}, np.float64),
        ({"a": np.ones(2, np.float16)}, np.float32),
        ({"a": [1.0, 2.0]}, np.float64),
        ({"a": np.float32(1)}, np.float32),
    ):
        assert {array.dtype for array in as_arrays(**values)[1]} == {np.dtype(expected)}, values


def test_libraries_do_not_mix() -> None:
    """Behaviour: a torch tensor beside a NumPy array is a mistake, beside a NumPy number it is not."""
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError):
        black_scholes(torch.ones(3), np.ones(3), 0.5, 0.2)
    g = black_scholes(torch.full((3,), 100.0), np.float64(100.0), 0.5, 0.2)
    assert g.price.dtype == torch.float32


def test_checks_see_nan_and_the_open_end() -> None:
    with pytest.raises(ValueError, match="x must be finite, got nan"):
        check(np, "x", np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="x must be positive, got 0.0"):
        check(np, "x", np.array([0.0, 1.0]), "positive")
    with pytest.raises(ValueError, match=r"x must lie in \(0, 1\), got 1.0"):
        check_inside(np, "x", np.array([0.5, 1.0]), 0, 1)
    check_inside(np, "x", np.array([0.0, 1.0]), 0, 1, closed=True)
    check(np, "x", np.empty(0), "positive")
    np.testing.assert_array_equal(at_least(np, np.array([-1.0, 2.0]), 0.5), [0.5, 2.0])


def test_checks_keep_gradients_quiet() -> None:
    """Behaviour: inputs that torch differentiates by raise no warning, and are still checked."""
    torch = pytest.importorskip("torch")
    value = torch.tensor([0.5, 1.0], requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(torch, "x", value, "positive")
        check_inside(torch, "x", value, 0, 1, closed=True)
    with pytest.raises(ValueError, match="x must be positive, got -1.0"):
        check(torch, "x", -value, "positive")
