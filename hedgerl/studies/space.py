"""Search spaces: which keys of a configuration a study may set, and to what."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hedgerl.pricing._checks import nearest

BASELINE = "baseline."  # begins the keys that are parameters of a baseline
_BOUNDS = ("low", "high", "log", "step")


def read(space: Any) -> dict[str, BaseDistribution]:
    """Key -> distribution, of a mapping from key to a list of choices or to {low, high, log, step}.

    Whole numbers at both ends make whole numbers. A key that is null is left out: so a preset's key is taken back.
    Raises ValueError for what is neither, and for an empty space.
    """
    given = {str(key): entry for key, entry in space.items() if entry is not None} if isinstance(space, Mapping) else {}
    if not given:
        raise ValueError(f"search.space must name at least one key to vary, got {space or 'none'}")
    return {key: _distribution(key, entry) for key, entry in given.items()}


def _distribution(key: str, entry: Any) -> BaseDistribution:
    where = f"search.space: {key}"
    if isinstance(entry, list | tuple):
        if len(entry) < 2:
            raise ValueError(f"{where} must have at least two choices, got {list(entry)}")
        return CategoricalDistribution([_encoded(choice) for choice in entry])
    if not isinstance(entry, Mapping) or not {"low", "high"} <= set(entry):
        raise ValueError(f"{where} must be a list of choices or {{low: .., high: ..}}, got {entry!r}")
    for name in entry:
        if name not in _BOUNDS:
            raise ValueError(f"{where} must have the keys {', '.join(_BOUNDS)}, got {name!r}")
    low, high, step = entry["low"], entry["high"], entry.get("step")
    for name, value in (("low", low), ("high", high)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{where}: {name} must be a number, got {value!r}")
    if not low < high:
        raise ValueError(f"{where}: low must be below high, got {low!r} and {high!r}")
    log = bool(entry.get("log", False))
    try:
        if isinstance(low, int) and isinstance(high, int) and not isinstance(step, float):
            return IntDistribution(low, high, log=log, step=1 if step is None else step)
        return FloatDistribution(low, high, log=log, step=step)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _encoded(choice: Any) -> Any:
    """A choice as storages keep it: what is no plain number or text as its JSON."""
    return json.dumps(choice) if isinstance(choice, list | tuple | Mapping) else choice


def decoded(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a trial as a configuration takes them."""
    return {
        key: json.loads(value) if isinstance(value, str) and value[:1] in ("[", "{") else value
        for key, value in parameters.items()
    }


def applied(
    config: Mapping[str, Any], baseline: Mapping[str, Any] | None, parameters: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """(configuration, baseline) with a trial's parameters in their places; those given stay as they are.

    Raises ValueError for a key that is not there, with the nearest that is.
    """
    changed = copy.deepcopy(dict(config))
    hedge = None if baseline is None else dict(baseline)
    for key, value in decoded(parameters).items():
        if key.startswith(BASELINE):
            if hedge is None:
                raise ValueError(f"search.space: {key} needs a baseline to search, but search.baseline is null")
            hedge[key.removeprefix(BASELINE)] = value
            continue
        *path, name = key.split(".")
        node: Any = changed
        for part in path:
            node = node.get(part) if isinstance(node, Mapping) else None
        if not isinstance(node, dict) or name not in node:
            known = sorted(keys(changed))
            raise ValueError(f"search.space: unknown key {key}; did you mean {nearest(key, known)}?")
        node[name] = value
    return changed, hedge


def keys(node: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted names of all leaves."""
    found = []
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            found += keys(value, f"{prefix}{name}.")
        elif not str(name).startswith("_"):
            found.append(f"{prefix}{name}")
    return found


def present(config: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """What a configuration has at the space's keys."""
    found = {}
    for key in space:
        node: Any = config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        found[key] = node
    return found


def inside(parameters: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Those parameters that the space has at these values, as storages keep them."""
    kept = {}
    for key, distribution in space.items():
        value = _encoded(parameters.get(key))
        if isinstance(distribution, CategoricalDistribution):
            if value in distribution.choices:
                kept[key] = value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            assert isinstance(distribution, IntDistribution | FloatDistribution)
            if distribution.low <= value <= distribution.high:
                kept[key] = value
    return kept


def corners(space: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """Settings with one key at one end of its range, or at one of its choices: what a check can try."""
    tried = []
    for key, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            ends: list[Any] = list(distribution.choices)
        else:
            assert isinstance(distribution, IntDistribution | FloatDistribution)
            ends = [distribution.low, distribution.high]
        tried += [{key: end} for end in ends]
    return tried


def described(space: Mapping[str, BaseDistribution]) -> dict[str, str]:
    """The space as texts, to be compared."""
    return {key: str(distribution) for key, distribution in sorted(space.items())}
