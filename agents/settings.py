"""Tasks as JSON and back. Only the classes named here are ever made: nothing in a file can name another."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hedgerl.envs import TASKS, Execution, Limits, Listing, Position, Task
from hedgerl.execution import Commission, Funding, HalfSpread, Proportional, QuotedSpread, SquareRootImpact
from hedgerl.pricing._checks import nearest
from hedgerl.sim import GARCH, SABR, BlackScholes, ForwardVarianceCurve, Heston, LogUniform, RoughBergomi, Uniform

CLASSES: dict[str, Any] = TASKS | {
    kind.__name__: kind
    for kind in (Listing, Position, Execution, Limits, Funding, Commission, HalfSpread, Proportional)
    + (QuotedSpread, SquareRootImpact, GARCH, SABR, BlackScholes, Heston, RoughBergomi, ForwardVarianceCurve)
    + (Uniform, LogUniform)
}
_NOT_SAVED = "not saved"


@dataclass(frozen=True)
class NotSaved:
    """Stands for a market that a card can name and no more: real history, or a model with a function in it."""

    name: str

    def starts(self, n_steps: int, every: int | None = None) -> Any:
        """Raises ValueError: there are no paths here."""
        raise ValueError(f"the market of this task ({self.name}) is not saved with the policy: give the task one")

    def market(self, starts: Any, n_steps: int) -> Any:
        """Raises ValueError: there are no paths here."""
        return self.starts(n_steps)


def described(task: Task) -> dict[str, Any]:
    """The task as JSON has it: {"class": name, field: value, ..}, and the same for what its fields hold.

    Raises ValueError for a value that cannot be written down, such as a cost of a class of one's own.
    """
    content = {item.name: getattr(task, item.name) for item in dataclasses.fields(task) if item.name != "market"}
    try:
        market = _encoded(task.market, "market")
    except ValueError:
        name = getattr(task.market, "name", None)
        market = {"class": _NOT_SAVED, "name": name if isinstance(name, str) else type(task.market).__name__}
    return {"class": task.name, "market": market} | {name: _encoded(value, name) for name, value in content.items()}


def task_of(description: Any) -> Task:
    """The task that `described` wrote down. Raises ValueError for any other content."""
    made = _decoded(description, "task")
    if not isinstance(made, Task):
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {description!r:.80}")
    return made


def plain(value: Any, where: str) -> Any:
    """The value as JSON has it, a number that is not finite as None. Raises ValueError naming what JSON lacks."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, np.generic):
        return plain(value.item(), where)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, np.ndarray):
        return plain(value.tolist(), where)
    raise ValueError(f"{where} must be something that JSON has, got {value!r:.80}")


def _encoded(value: Any, where: str) -> Any:
    if type(value) is CLASSES.get(type(value).__name__):
        fields = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        return {"class": type(value).__name__} | {
            name: _encoded(item, f"{where}.{name}") for name, item in fields.items()
        }
    if isinstance(value, Mapping):
        return {str(key): _encoded(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_encoded(item, f"{where}[{index}]") for index, item in enumerate(value)]
    return plain(value, where)


def _decoded(value: Any, where: str) -> Any:
    if isinstance(value, list):
        return tuple(_decoded(item, f"{where}[{index}]") for index, item in enumerate(value))
    if not isinstance(value, dict):
        return value
    if "class" not in value:
        return {key: _decoded(item, f"{where}.{key}") for key, item in value.items()}
    name = value["class"]
    content = {key: _decoded(item, f"{where}.{key}") for key, item in value.items() if key != "class"}
    if name == _NOT_SAVED:
        return NotSaved(str(content.get("name")))
    if not isinstance(name, str) or name not in CLASSES:
        raise ValueError(f"{where} must be of a class that hedgerl has, got {name!r:.80}")
    known = [item.name for item in dataclasses.fields(CLASSES[name])]
    for key in content:
        if key not in known:
            raise ValueError(f"{where} is a {name}, which has no {key!r}; the nearest is {nearest(key, known)!r}")
    try:
        return CLASSES[name](**content)
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{where} is no {name}: {error}") from error
