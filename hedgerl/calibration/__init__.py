"""Models fitted to the option quotes of one day."""

from __future__ import annotations

from hedgerl.calibration.chain import Carry, Slice, carry, slices
from hedgerl.calibration.fit import Fit, Parameter, Pricer, Profile, profile, solve
from hedgerl.calibration.heston import HestonPricer
from hedgerl.calibration.models import MODELS, Settings, configuration, monte_carlo_errors
from hedgerl.calibration.rbergomi import RoughBergomiPricer
from hedgerl.calibration.sabr import SabrPricer

__all__ = [
    "MODELS",
    "Carry",
    "Fit",
    "HestonPricer",
    "Parameter",
    "Pricer",
    "Profile",
    "RoughBergomiPricer",
    "SabrPricer",
    "Settings",
    "Slice",
    "carry",
    "configuration",
    "monte_carlo_errors",
    "profile",
    "slices",
    "solve",
]
