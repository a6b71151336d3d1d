"""Simulated markets: path generators, the market they make, data sets on disk."""

from hedgerl.sim.garch import GARCH
from hedgerl.sim.gbm import BlackScholes
from hedgerl.sim.heston import Heston
from hedgerl.sim.model import Model
from hedgerl.sim.paths import Paths
from hedgerl.sim.perturbation import LogUniform, Uniform
from hedgerl.sim.rbergomi import ForwardVarianceCurve, RoughBergomi
from hedgerl.sim.sabr import SABR

__all__ = [
    "GARCH",
    "SABR",
    "BlackScholes",
    "ForwardVarianceCurve",
    "Heston",
    "LogUniform",
    "Model",
    "Paths",
    "RoughBergomi",
    "Uniform",
]
