"""Bad input: a ValueError that names the field, the rule and the value. Catches silent nonsense and bare tracebacks."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from hedgerl.sim import GARCH, SABR, BlackScholes, ForwardVarianceCurve, Heston, LogUniform, RoughBergomi, Uniform

GOOD: dict[type, dict[str, Any]] = {
    BlackScholes: {"volatility": 0.2},
    Heston: {"kappa": 2.0, "theta": 0.04, "sigma": 0.5, "rho": -0.7, "v0": 0.04},
    RoughBergomi: {"hurst": 0.1, "eta": 1.9, "rho": -0.9, "forward_variance": 0.04},
    SABR: {"volatility": 0.2, "volvol": 0.8, "rho": -0.5},
    GARCH: {"omega": 2e-6, "alpha": 0.02, "gamma": 0.12, "beta": 0.9},
}
NAN, INF = float("nan"), float("inf")
BAD: list[tuple[type, str, Any]] = [
    *[(BlackScholes, "volatility", value) for value in (0.0, -0.2, NAN, INF, "0.2", None, True)],
    *[(Heston, name, value) for name in ("kappa", "theta", "sigma") for value in (0.0, -1.0, NAN, INF)],
    *[(Heston, "rho", value) for value in (-1.01, -1.0, 1.0, 1.5, NAN)],
    *[(Heston, "v0", value) for value in (-0.01, NAN)],
    *[(RoughBergomi, "hurst", value) for value in (0.0, 0.5, 0.7, -0.1, NAN, "rough")],
    *[(RoughBergomi, "eta", value) for value in (-0.1, NAN, INF)],
    *[(RoughBergomi, "rho", value) for value in (-1.1, 2.0, NAN)],
    *[(RoughBergomi, "forward_variance", value) for value in (0.0, -0.04, NAN, INF)],
    *[(SABR, "volatility", value) for value in (0.0, -0.1, NAN)],
    *[(SABR, "volvol", value) for value in (-0.1, NAN)],
    *[(SABR, "rho", value) for value in (-1.1, 1.1, NAN)],
    *[(GARCH, "omega", value) for value in (0.0, -1e-6, NAN)],
    *[(GARCH, name, value) for name in ("alpha", "beta") for value in (-0.1, NAN)],
    *[(GARCH, "v0", value) for value in (0.0, -0.1, NAN)],
    *[(GARCH, "steps_per_year", value) for value in (0.0, -252.0, NAN)],
    *[(kind, "spot", value) for kind in GOOD for value in (0.0, -1.0, NAN, INF)],
    *[(kind, name, value) for kind in GOOD for name in ("rate", "dividend", "drift") for value in (NAN, INF)],
    *[(kind, "variance_risk_premium", NAN) for kind in (Heston, RoughBergomi, SABR)],
]


def rule_of(field: str) -> str:
    """What a message must match: the field first, then what must hold."""
    return rf"^{re.escape(field)}(?!\w).* (must|lie|name)"


def assert_shows(error: pytest.ExceptionInfo[ValueError], value: Any) -> None:
    """The message shows the value, on one line."""
    message = str(error.value)
    shown = {repr(value), str(value)} | ({f"{value:g}"} if isinstance(value, float) else set())
    assert any(text in message for text in shown), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("kind", "field", "value"), BAD, ids=[f"{kind.__name__}-{field}-{value}" for kind, field, value in BAD]
)
def test_model_parameters(kind: type, field: str, value: Any) -> None:
    """Behaviour: each parameter out of range, one at a time."""
    with pytest.raises(ValueError, match=rule_of(field)) as error:
        kind(**{**GOOD[kind], field: value})
    assert_shows(error, value)


@pytest.mark.parametrize("kind", GOOD)
def test_good_parameters_are_good(kind: type) -> None:
    """Behaviour: the same call without the bad value works, at the edges of the ranges too."""
    kind(**GOOD[kind])
    if "rho" in GOOD[kind]:
        for rho in (-0.999, 0.999, 0, np.float32(-0.5)):
            kind(**{**GOOD[kind], "rho": rho})
    RoughBergomi(hurst=0.499, eta=0, rho=0, forward_variance=1)
    Heston(kappa=1, theta=1, sigma=1, rho=0, v0=0)


def test_garch_that_is_not_stationary() -> None:
    """Behaviour: alpha + gamma / 2 + beta must be below 1; a negative gamma below -alpha is refused."""
    with pytest.raises(ValueError, match=r"alpha \+ gamma / 2 \+ beta must be below 1, got 1\.05"):
        GARCH(omega=1e-6, alpha=0.1, gamma=0.1, beta=0.9)
    with pytest.raises(ValueError, match=r"alpha \+ gamma must not be negative"):
        GARCH(omega=1e-6, alpha=0.1, gamma=-0.2, beta=0.8)


@pytest.mark.parametrize(
    ("times", "values"),
    [((0.0, 1.0), (0.04,)), ((), ()), ((0.0, 0.0), (0.04, 0.05)), ((1.0, 0.5), (0.04, 0.05))],
    ids=["lengths", "empty", "repeated", "unsorted"],
)
def test_forward_variance_curves(times: Any, values: Any) -> None:
    """Behaviour: grids of a curve, given by itself or as a pair."""
    with pytest.raises(ValueError, match=r"^times.* (must|increase)"):
        ForwardVarianceCurve(times, values)
    with pytest.raises(ValueError, match=r"^times.* (must|increase)"):
        RoughBergomi(hurst=0.1, eta=1.0, rho=0.0, forward_variance=(times, values))


@pytest.mark.parametrize("value", [0.0, -0.01, NAN])
def test_forward_variance_curve_values(value: float) -> None:
    """Behaviour: a curve with a value that is no variance, as numbers and as a function."""
    with pytest.raises(ValueError, match=rule_of("forward_variance")) as error:
        ForwardVarianceCurve((0.0, 1.0), (0.04, value))
    assert_shows(error, value)
    with pytest.raises(ValueError, match="forward_variance must be positive"):
        RoughBergomi(
            hurst=0.1, eta=1.0, rho=0.0, forward_variance=lambda times: np.where(times > 0.1, value, 0.04)
        ).simulate(10, 10, 1.0, 1)


GRID: dict[str, Any] = {"n_paths": 10, "n_steps": 5, "maturity": 5 / 252, "seed": 1}
BAD_CALLS: list[tuple[str, dict[str, Any], Any]] = [
    *[("n_paths", {"n_paths": value}, value) for value in (0, -1, 2.5, NAN, True, "10")],
    *[("n_steps", {"n_steps": value}, value) for value in (0, -5, 1.5)],
    *[("maturity", {"maturity": value}, value) for value in (0.0, -1.0, NAN, INF)],
    *[("seed", {"seed": value}, value) for value in (-1, 1.5, "one", True)],
    *[("substeps", {"substeps": value}, value) for value in (0, -1, 1.5)],
    *[("backend", {"backend": value}, value) for value in ("gpu", "torch", None)],
    *[("dtype", {"dtype": value}, value) for value in ("float16", "f4", "int64")],
    *[("threads", {"threads": value}, value) for value in (0, -1, 1.5)],
    ("perturb", {"perturb": {"volatilty": (0.1, 0.2)}}, "volatilty"),
    ("perturb", {"perturb": {"spot": (0.1, 0.2)}}, "spot"),
    ("perturb['volatility']", {"perturb": {"volatility": 0.1}}, 0.1),
    ("perturb['volatility']", {"perturb": {"volatility": (0.1, 0.2, 0.3)}}, (0.1, 0.2, 0.3)),
    ("volatility", {"perturb": {"volatility": (-0.1, 0.2)}}, -0.1),
    ("volatility", {"perturb": {"volatility": (0.0, 0.2)}}, 0.0),
    ("low", {"perturb": {"volatility": (0.3, 0.2)}}, 0.3),
    ("n_paths", {"n_paths": 7, "antithetic": True}, 7),
]


@pytest.mark.parametrize(
    ("field", "change", "value"), BAD_CALLS, ids=[f"{name}-{value}" for name, _, value in BAD_CALLS]
)
def test_simulate_arguments(field: str, change: dict[str, Any], value: Any) -> None:
    """Behaviour: each argument of `simulate` out of range, one at a time."""
    with pytest.raises(ValueError, match=rule_of(field)) as error:
        BlackScholes(volatility=0.2).simulate(**{**GRID, **change})
    assert_shows(error, value)


@pytest.mark.parametrize(
    ("times", "rule"),
    [
        ([], "at least two"),
        ([0.0], "at least two"),
        ([[0.0, 1.0]], "one-dimensional"),
        ([0.1, 0.2], "start at 0"),
        ([0.0, 0.2, 0.1], "increase"),
        ([0.0, 0.2, 0.2], "increase"),
        ([0.0, NAN, 0.3], "finite"),
        ([0.0, 0.1, INF], "finite"),
    ],
    ids=["empty", "one", "matrix", "late", "unsorted", "repeated", "nan", "infinite"],
)
@pytest.mark.parametrize("kind", GOOD)
def test_time_grids(kind: type, times: Any, rule: str) -> None:
    """Behaviour: an empty, unsorted or unfinished grid, for every model."""
    with pytest.raises(ValueError, match=rf"^times must .*{rule}.*, got "):
        kind(**GOOD[kind]).simulate(10, times=times, seed=1)


def test_grid_given_twice_or_not_at_all() -> None:
    """Behaviour: exactly one of (n_steps, maturity) and times."""
    model = BlackScholes(volatility=0.2)
    for change in ({"n_steps": 5}, {"maturity": 1.0}, {}):
        with pytest.raises(ValueError, match="n_steps and maturity must both be given"):
            model.simulate(10, seed=1, **change)
    with pytest.raises(ValueError, match="times must not be given together with n_steps or maturity"):
        model.simulate(10, 5, 1.0, 1, times=[0.0, 1.0])


@pytest.mark.parametrize("kind", GOOD)
def test_noise_of_wrong_shape_or_not_finite(kind: type) -> None:
    """Behaviour: the message states both shapes, in the order (n_noise, n_steps * substeps, n_paths)."""
    model = kind(**GOOD[kind])
    good = (model.n_noise, 5, 10)
    for shape in ((5, 10), (model.n_noise + 1, 5, 10), (model.n_noise, 10, 5), (model.n_noise, 5, 11)):
        with pytest.raises(ValueError, match=r"^noise must have shape") as error:
            model.simulate(10, 5, 5 / 252, noise=np.zeros(shape))
        assert str(good) in str(error.value)
        assert str(shape) in str(error.value)
    bad = np.zeros(good)
    bad[0, 2, 3] = NAN
    with pytest.raises(ValueError, match="noise must be finite"):
        model.simulate(10, 5, 5 / 252, noise=bad)


def test_noise_with_what_draws_noise() -> None:
    """Behaviour: noise excludes a seed, antithetic pairs and perturbation rather than ignore them."""
    model = BlackScholes(volatility=0.2)
    noise = np.zeros((1, 5, 10))
    for change in ({"seed": 0}, {"antithetic": True}, {"perturb": {"volatility": (0.1, 0.2)}}):
        with pytest.raises(ValueError, match="noise must not be given together with"):
            model.simulate(10, 5, 5 / 252, noise=noise, **change)


@pytest.mark.parametrize(("kind", "low", "high"), [(Uniform, 0.3, 0.2), (LogUniform, 0.3, 0.2), (Uniform, NAN, 1.0),
                                                   (LogUniform, 0.0, 1.0), (LogUniform, -1.0, 1.0)])  # fmt: skip
def test_distributions(kind: type, low: float, high: float) -> None:
    """Behaviour: bounds in the wrong order, or not positive where a logarithm is taken."""
    with pytest.raises(ValueError, match=r"^low must .*, got "):
        kind(low, high)


def test_perturbed_parameter_that_breaks_a_joint_rule() -> None:
    """Behaviour: bounds that are fine one by one but not together (a persistence of 1) are refused, not simulated."""
    model = GARCH(omega=2e-6, alpha=0.02, gamma=0.12, beta=0.85)
    with pytest.raises(ValueError, match="must be below 1"):
        model.simulate(10, 5, 5 / 252, 1, perturb={"beta": (0.8, 0.95)})
    with pytest.raises(ValueError, match="must be below 1"):
        model.simulate(2_000, 5, 5 / 252, 1, perturb={"beta": (0.8, 0.91), "alpha": (0.0, 0.08)})


@pytest.mark.parametrize("returns", [np.zeros((300, 2)), np.zeros(100), np.append(np.zeros(300), NAN)])
def test_returns_that_cannot_be_fitted(returns: np.ndarray) -> None:
    """Behaviour: too few returns, a table, or NaN."""
    with pytest.raises(ValueError, match=r"^returns must .*, got "):
        GARCH.fit(returns)
