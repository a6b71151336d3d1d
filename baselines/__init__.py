"""Classical hedges: each maps what a hedger sees to target holdings, by one `predict` like that of the agents."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from inspect import signature
from typing import Any

from hedgerl.baselines.base import Baseline, Policy
from hedgerl.baselines.delta import Delta
from hedgerl.baselines.dynamic_programming import DynamicProgramming
from hedgerl.baselines.gamma_scaled import GammaScaled
from hedgerl.baselines.greek_neutral import DeltaGamma, DeltaGammaVega, DeltaVega
from hedgerl.baselines.lazy import Lazy
from hedgerl.baselines.leland import Leland
from hedgerl.baselines.minimum_variance import MinimumVariance
from hedgerl.baselines.none import NoHedge
from hedgerl.baselines.objective import Objective
from hedgerl.baselines.overlay import Collar, Overlay, ProtectivePut, SyntheticForward
from hedgerl.baselines.tuned_band import TunedBand
from hedgerl.baselines.whalley_wilmott import WhalleyWilmott
from hedgerl.envs.task import Task
from hedgerl.pricing._checks import nearest

__all__ = [
    "BASELINES",
    "Baseline",
    "Collar",
    "Delta",
    "DeltaGamma",
    "DeltaGammaVega",
    "DeltaVega",
    "DynamicProgramming",
    "GammaScaled",
    "Lazy",
    "Leland",
    "MinimumVariance",
    "NoHedge",
    "Objective",
    "Overlay",
    "Policy",
    "ProtectivePut",
    "SyntheticForward",
    "TunedBand",
    "WhalleyWilmott",
    "baseline",
    "check",
    "solved",
]

SOLVED = "dynamic_programming"  # has to be solved for its task
BASELINES: dict[str, Callable[..., Baseline]] = {
    "none": NoHedge,
    "delta": Delta,
    "implied_delta": partial(Delta, which="implied"),
    "minimum_variance": partial(Delta, which="minimum_variance"),
    "minimum_variance_regression": MinimumVariance,
    "delta_gamma": DeltaGamma,
    "delta_vega": DeltaVega,
    "delta_gamma_vega": DeltaGammaVega,
    "gamma_scaled": GammaScaled,
    "lazy": Lazy,
    "leland": Leland,
    "whalley_wilmott": WhalleyWilmott,
    "tuned_band": TunedBand,
    SOLVED: DynamicProgramming,
    "synthetic_forward": SyntheticForward,
    "protective_put": ProtectivePut,
    "collar": Collar,
}


def baseline(name: str, **parameters: Any) -> Baseline:
    """The baseline of that name.

    Raises ValueError for an unknown name or parameter, naming the nearest known one.

    >>> baseline("lazy", limit=0.2)
    Lazy(limit=0.2, back_to='zero', which='model')
    """
    if name not in BASELINES:
        raise ValueError(f"baseline must be a known one, got {name!r}; the nearest is {nearest(name, BASELINES)!r}")
    make = BASELINES[name]
    fixed = make.keywords if isinstance(make, partial) else {}
    kind: Any = make.func if isinstance(make, partial) else make
    _only(name, parameters, [field for field in kind.__dataclass_fields__ if field not in fixed])
    return make(**parameters)


def solved(name: str, task: Task, **parameters: Any) -> Baseline:
    """The `baseline` of that name, solved for the task where it has to be."""
    check(name, **parameters)
    return DynamicProgramming.solve(task, **parameters) if name == SOLVED else baseline(name, **parameters)


def check(name: str, **parameters: Any) -> None:
    """Raises ValueError as `solved` does for a name or a parameter that is not known, without solving anything."""
    if name == SOLVED:
        _only(name, parameters, [given for given in signature(DynamicProgramming.solve).parameters if given != "task"])
    else:
        baseline(name, **parameters)


def _only(name: str, parameters: Iterable[str], known: Collection[str]) -> None:
    for given in parameters:
        if given not in known:
            hint = f"; the nearest is {nearest(given, known)!r}" if known else "; there is none"
            raise ValueError(f"parameter of {name} must be a known one, got {given!r}{hint}")
