"""hedgerl: learn, test and run cost-aware option hedging.

Subpackages load on first use, so `import hedgerl` and `hedgerl --version` stay instant:

>>> import hedgerl
>>> hedgerl.sim.__name__
'hedgerl.sim'
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hedgerl import baselines, data, evaluation, execution, pricing, sim

__all__ = ["__version__", "baselines", "data", "evaluation", "execution", "pricing", "sim"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"hedgerl.{name}")
    raise AttributeError(f"module 'hedgerl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
