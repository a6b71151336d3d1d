"""Learning agents, and policies that load anywhere. Names load on first use: torch takes seconds."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hedgerl.agents.actors import actor_of
    from hedgerl.agents.agent import Agent, Recommendation, load_bundle
    from hedgerl.agents.bundle import Card, save_bundle
    from hedgerl.agents.deep_hedging import DeepHedging
    from hedgerl.agents.marks import GreekMarks
    from hedgerl.agents.networks import PolicyModule
    from hedgerl.agents.normalise import NormalisedVecEnv
    from hedgerl.agents.onnx_export import OnnxPolicy
    from hedgerl.agents.ppo_lstm import PPOLSTM
    from hedgerl.agents.sac import make_sac
    from hedgerl.agents.shaping import AccruedVecEnv

__all__ = [
    "PPOLSTM",
    "AccruedVecEnv",
    "Agent",
    "Card",
    "DeepHedging",
    "GreekMarks",
    "NormalisedVecEnv",
    "OnnxPolicy",
    "PolicyModule",
    "Recommendation",
    "actor_of",
    "load_bundle",
    "make_sac",
    "save_bundle",
]

_HOME = {
    "PPOLSTM": "ppo_lstm",
    "AccruedVecEnv": "shaping",
    "Agent": "agent",
    "Card": "bundle",
    "DeepHedging": "deep_hedging",
    "GreekMarks": "marks",
    "NormalisedVecEnv": "normalise",
    "OnnxPolicy": "onnx_export",
    "PolicyModule": "networks",
    "Recommendation": "agent",
    "actor_of": "actors",
    "load_bundle": "agent",
    "make_sac": "sac",
    "save_bundle": "bundle",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"hedgerl.agents.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
