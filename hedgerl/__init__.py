"""hedgerl: learn, test and run cost-aware option hedging.

Subpackages load on first use, so `import hedgerl` and `hedgerl --version` stay instant:

>>> import hedgerl
>>> hedgerl.sim.__name__
'hedgerl.sim'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hedgerl import agents, baselines, data, envs, evaluation, execution, model_files, pricing, risk, sim
    from hedgerl.agents import Agent
    from hedgerl.evaluation import evaluate

__all__ = [
    "Agent",
    "__version__",
    "agents",
    "baselines",
    "data",
    "envs",
    "evaluate",
    "evaluation",
    "execution",
    "model_files",
    "pricing",
    "risk",
    "sim",
]


def __getattr__(name: str) -> Any:
    if name == "Agent":
        return importlib.import_module("hedgerl.agents").Agent
    if name == "evaluate":
        return importlib.import_module("hedgerl.evaluation").evaluate
    if name in __all__:
        return importlib.import_module(f"hedgerl.{name}")
    raise AttributeError(f"module 'hedgerl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
