"""Parts of a simulation, joined, are the whole of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hedgerl.sim import GARCH, SABR, BlackScholes, Heston, Model, Paths, RoughBergomi
from hedgerl.sim.noise import STREAM_PATHS
from hedgerl.sim.perturbation import Uniform, draw

DAY = 1 / 252
CASES: dict[str, tuple[Model, dict[str, tuple[float, float]]]] = {  # and what may be perturbed
    "gbm": (BlackScholes(volatility=0.2), {"volatility": (0.1, 0.3), "drift": (0.0, 0.1)}),
    "heston": (Heston(kappa=2.0, theta=0.04, sigma=0.9, rho=-0.7, v0=0.04), {"kappa": (1.0, 4.0), "v0": (0.02, 0.08)}),
    "rbergomi": (
        RoughBergomi(hurst=0.1, eta=1.5, rho=-0.7, forward_variance=0.04, variance_risk_premium=-0.5),
        {"hurst": (0.05, 0.3), "eta": (0.5, 2.0), "forward_variance": (0.02, 0.06)},
    ),
    "sabr": (SABR(volatility=0.2, volvol=1.0, rho=-0.5), {"volvol": (0.5, 1.0), "rho": (-0.8, 0.0)}),
    "garch": (GARCH(omega=2e-6, alpha=0.02, gamma=0.14, beta=0.89), {"v0": (0.01, 0.04), "beta": (0.85, 0.9)}),
}
N_PATHS = 3 * STREAM_PATHS + 130
CUTS = (0, STREAM_PATHS, 3 * STREAM_PATHS, N_PATHS)


def arrays(paths: Paths) -> dict[str, np.ndarray]:
    return {"spot": paths.spot, "variance": paths.variance, **paths.parameters, **paths.state}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("antithetic", [False, True], ids=["", "antithetic"])
@pytest.mark.parametrize("perturbed", [False, True], ids=["", "perturbed"])
@pytest.mark.parametrize("name", CASES)
def test_parts_joined_are_the_whole(name: str, perturbed: bool, antithetic: bool, dtype: str) -> None:
    """Identity, to the last bit. Catches noise, draws of parameters or antithetic pairs that begin anew with each part,
    and sums whose order depends on where a part begins."""
    model, ranges = CASES[name]
    options: dict[str, Any] = {"antithetic": antithetic, "perturb": ranges if perturbed else None, "dtype": dtype}

    def simulate(**also: Any) -> Paths:
        return model.simulate(N_PATHS, 70, 70 * DAY, seed=4, backend="numpy", **options, **also)

    whole = simulate(threads=2)
    parts = [simulate(part=part, threads=1) for part in zip(CUTS, CUTS[1:], strict=False)]
    for key, expected in arrays(whole).items():
        joined = np.concatenate([arrays(part)[key] for part in parts], axis=-1)
        assert joined.dtype == expected.dtype
        np.testing.assert_array_equal(joined, expected, err_msg=key)
    assert all(part.seed == whole.seed and part.ranges == whole.ranges for part in parts)


def test_draws_begin_at_any_path() -> None:
    """Identity. Catches draws that begin at the start of the stream that the first path is in."""
    ranges = {"eta": Uniform(0.5, 2.0)}
    whole = draw(ranges, 3, 0, 2_500)["eta"]
    np.testing.assert_array_equal(draw(ranges, 3, 1_500, 900)["eta"], whole[1_500:2_400])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ((100, 2_000), "first of part must be a multiple of 1024, got 100"),
        ((-1024, 2_000), "first of part must be a whole number of at least 0, got -1024"),
        ((1024, 1024), "stop of part must lie above first and be at most n_paths = 2000, got 1024, 1024"),
        ((0, 2_001), "stop of part must lie above first and be at most n_paths = 2000, got 0, 2001"),
    ],
)
def test_what_is_no_part(part: tuple[int, int], message: str) -> None:
    """Catches other paths in place of those that are asked for."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        CASES["gbm"][0].simulate(2_000, 2, 0.1, seed=1, backend="numpy", part=part)


def test_noise_from_outside_has_no_parts() -> None:
    """Catches noise that is given for a part and used as if for the whole."""
    with pytest.raises(ValueError, match=r"^noise must not be given together with part$"):
        CASES["gbm"][0].simulate(2, 3, 0.1, noise=np.zeros((1, 3, 2)), backend="numpy", part=(0, 2))


@pytest.mark.gpu
def test_parts_on_a_device_are_whole_blocks() -> None:
    """Identity, as above. Catches a part that begins within a block that CuPy draws at once."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.is_available():
        pytest.skip("CuPy finds no CUDA device")
    model, ranges = CASES["heston"]
    n_paths, block = 70_000, 65_536
    options: dict[str, Any] = {"seed": 4, "backend": "cupy", "perturb": ranges, "antithetic": True}
    whole = model.simulate(n_paths, 3, 3 * DAY, **options)
    parts = [model.simulate(n_paths, 3, 3 * DAY, part=part, **options) for part in ((0, block), (block, n_paths))]
    for key, expected in arrays(whole).items():
        joined = np.concatenate([arrays(part)[key].get() for part in parts], axis=-1)
        np.testing.assert_array_equal(joined, expected.get(), err_msg=key)
    with pytest.raises(ValueError, match=r"^first of part must be a multiple of 65536, got 1024$"):
        model.simulate(n_paths, 3, 3 * DAY, part=(1024, n_paths), **options)
