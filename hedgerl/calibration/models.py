"""The models that can be calibrated, and how a fit becomes a market's configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hedgerl.calibration.chain import Carry, Slice
from hedgerl.calibration.fit import Fit, Pricer, moved_by_noise
from hedgerl.calibration.heston import HestonPricer
from hedgerl.calibration.rbergomi import RoughBergomiPricer
from hedgerl.calibration.sabr import SabrPricer
from hedgerl.pricing._checks import nearest

SEEDS = (2, 3, 4)  # of the Monte Carlo, beside 1: as many as it takes to see its error
_STEP = 1e-6  # years from a level of the forward variance to the next: lines between points are then steps
_DIGITS = 6


@dataclass(frozen=True)
class Settings:
    """Of a Monte Carlo."""

    n_paths: int = 32_768
    steps_per_year: int = 252


@dataclass(frozen=True)
class Calibrated:
    """A model as calibration knows it."""

    title: str
    target: str
    make: Callable[[Sequence[Slice], Settings, int], Pricer]
    is_simulated: bool
    needs: tuple[str, ...]  # what one expiry cannot tell
    profile: str  # the parameter that is told worst
    days: tuple[float, float]
    notes: Mapping[str, str]  # of parameters in a configuration


def _heston(slices: Sequence[Slice], settings: Settings, seed: int) -> Pricer:
    return HestonPricer(slices)


def _rbergomi(slices: Sequence[Slice], settings: Settings, seed: int) -> Pricer:
    return RoughBergomiPricer(slices, settings.n_paths, settings.steps_per_year, seed)


def _sabr(slices: Sequence[Slice], settings: Settings, seed: int) -> Pricer:
    return SabrPricer(slices, settings.n_paths, settings.steps_per_year, seed)


MODELS = {
    "heston": Calibrated(
        "Heston",
        "hedgerl.sim.Heston",
        _heston,
        False,
        ("kappa", "theta"),
        "kappa",
        (10.0, 400.0),
        {
            "kappa": "speed of mean reversion, per year",
            "theta": "long-run variance per year",
            "sigma": "volatility of variance, per year",
            "rho": "correlation of spot and variance",
            "v0": "variance per year at the start",
        },
    ),
    "rbergomi": Calibrated(
        "rough Bergomi",
        "hedgerl.sim.RoughBergomi",
        _rbergomi,
        True,
        ("hurst",),
        "hurst",
        (10.0, 400.0),
        {
            "hurst": "Hurst exponent",
            "eta": "volatility of the log variance, per year^H",
            "rho": "correlation of spot and variance",
            "forward_variance": "[times in years, variance per year]: constant from expiry to expiry",
        },
    ),
    "sabr": Calibrated(
        "SABR",
        "hedgerl.sim.SABR",
        _sabr,
        True,
        (),
        "volvol",
        (15.0, 60.0),
        {
            "volatility": "at the start, per square root of a year",
            "volvol": "volatility of the volatility, per square root of a year",
            "rho": "correlation of spot and volatility",
        },
    ),
}


def model(name: str) -> Calibrated:
    """The model of a name. Raises ValueError offering the nearest."""
    if name not in MODELS:
        raise ValueError(
            f'market "{name}" cannot be calibrated; did you mean {nearest(name, MODELS)}? (known: {", ".join(MODELS)})'
        )
    return MODELS[name]


def identified(kind: Calibrated, slices: Sequence[Slice], held: Mapping[str, float]) -> None:
    """Raises ValueError where the expiries are too few for what is sought."""
    missing = [name for name in kind.needs if name not in held]
    if len(slices) == 1 and missing:
        flags = " ".join(f"--hold {name}=VALUE" for name in missing)
        raise ValueError(
            f"{kind.title}: one expiry ({slices[0].label}) does not identify {' and '.join(missing)}; hold "
            f"{'it' if len(missing) == 1 else 'them'} ({flags}), or take more expiries with --days"
        )
    quotes, free = sum(each.k.size for each in slices), len(kind.make(slices, Settings(), 1).parameters) - len(held)
    if quotes <= free:
        raise ValueError(f"{kind.title}: {quotes} quotes are too few for {free} parameters")


def configuration(kind: Calibrated, fit: Fit, constants: Carry) -> dict[str, Any]:
    """The market as a configuration has it; spot 100, as everywhere."""
    values = {name: _rounded(value) for name, value in fit.values.items()}
    levels = [value for name, value in values.items() if name.startswith("forward_variance_")]
    shape: dict[str, Any] = {name: value for name, value in values.items() if not name.startswith("forward_variance_")}
    if levels:
        times = [0.0]
        for each in fit.slices[:-1]:
            times += [round(each.years - _STEP, 9), round(each.years, 9)]
        shape["forward_variance"] = [
            [*times, round(fit.slices[-1].years, 9)],
            [level for level in levels for _ in range(2)],
        ]
    return {"_target_": kind.target, **shape} | {
        "spot": 100.0,
        "rate": _rounded(constants.rate),
        "dividend": _rounded(constants.dividend),
        "drift": None,
        "variance_risk_premium": 0.0,
    }


def monte_carlo_errors(kind: Calibrated, fit: Fit, settings: Settings) -> dict[str, float]:
    """Standard deviation over seeds of the Monte Carlo, of each parameter that is free; empty where there is none."""
    if not kind.is_simulated:
        return {}
    others = moved_by_noise(fit, [kind.make(fit.slices, settings, seed) for seed in SEEDS], steps=6)
    spread = np.std([fit.point, *(each.point for each in others)], axis=0, ddof=1)
    names = [each.name for each in fit.pricer.parameters]
    without = fit.held | fit.at_bound
    return {name: float(value) for name, value in zip(names, spread, strict=True) if name not in without}


def profile_values(kind: Calibrated, fit: Fit) -> np.ndarray:
    """Where the worst-told parameter is held in turn."""
    here = fit.values[kind.profile]
    if kind.profile == "hurst":
        return np.unique(np.clip(here * np.array([0.25, 0.5, 1.0, 1.75, 2.5]), 0.005, 0.45))
    return here * np.array([0.4, 0.65, 1.0, 1.5, 2.5])


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
