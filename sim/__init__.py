"""Markets, simulated and historical: path generators, windows of real history, their marks, data sets on disk."""

from __future__ import annotations

from hedgerl.sim.dataset import load, load_marks, save
from hedgerl.sim.garch import GARCH
from hedgerl.sim.gbm import BlackScholes
from hedgerl.sim.heston import Heston
from hedgerl.sim.history import HistoricalMarket, History
from hedgerl.sim.market import Market
from hedgerl.sim.model import Model
from hedgerl.sim.paths import Paths
from hedgerl.sim.perturbation import LogUniform, Uniform
from hedgerl.sim.quoted import QuotedHistory, QuotedMarket
from hedgerl.sim.rbergomi import ForwardVarianceCurve, RoughBergomi
from hedgerl.sim.sabr import SABR

__all__ = [
    "GARCH",
    "SABR",
    "BlackScholes",
    "ForwardVarianceCurve",
    "Heston",
    "HistoricalMarket",
    "History",
    "LogUniform",
    "Market",
    "Model",
    "Paths",
    "QuotedHistory",
    "QuotedMarket",
    "RoughBergomi",
    "Uniform",
    "load",
    "load_marks",
    "save",
]
