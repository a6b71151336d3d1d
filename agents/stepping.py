"""What `predict` takes and gives, whatever runs the network: one observation or a batch, states, episode starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

State = tuple[np.ndarray, ...]


def observations(observation: Any, size: int) -> tuple[np.ndarray, bool]:
    """The observations as (n, size) float32 of their own memory, and whether it was one without a batch.

    Raises ValueError for another shape and for NaN or infinity.
    """
    try:
        with np.errstate(over="ignore"):
            given = np.array(observation, dtype=np.float32)
    except (TypeError, ValueError):
        raise ValueError(
            f"observation must be numbers of shape ({size},) or (n, {size}), got {type(observation).__name__}"
        ) from None
    if given.ndim not in (1, 2) or given.shape[-1] != size:
        raise ValueError(f"observation must have shape ({size},) or (n, {size}), got {given.shape}")
    single = given.ndim == 1
    batch = given.reshape(-1, size)
    finite = np.isfinite(batch)
    if not finite.all():
        columns = np.flatnonzero(~finite.all(axis=0)).tolist()
        raise ValueError(f"observation must be finite numbers, got NaN or infinity in columns {columns}")
    return batch, single


def begun(state: Any, episode_start: Any, n: int, initial: Callable[[int], State]) -> State:
    """The states (n, ..) to go on from: initial ones for None and where an episode starts.

    Raises ValueError for a state of another number or shape.
    """
    fresh = initial(n)
    if state is None or not fresh:
        if state is not None and len(state):
            raise ValueError(f"state must be None or () for a policy without memory, got {len(state)} arrays")
        return fresh
    if not isinstance(state, tuple | list) or len(state) != len(fresh):
        raise ValueError(f"state must be a tuple of {len(fresh)} arrays, as predict gave it, got {state!r:.80}")
    given = []
    for index, (value, first) in enumerate(zip(state, fresh, strict=True)):
        array = np.array(value, dtype=first.dtype)
        if array.shape != first.shape:
            raise ValueError(f"state[{index}] must have shape {first.shape}, got {array.shape}")
        given.append(array)
    if episode_start is not None:
        starts = np.asarray(episode_start, dtype=bool)
        if starts.shape not in ((), (1,), (n,)):
            raise ValueError(f"episode_start must have shape ({n},), got {starts.shape}")
        if starts.any():
            where = np.broadcast_to(starts, (n,))
            for array, first in zip(given, fresh, strict=True):
                array[where] = first[where]
    return tuple(given)


def answered(action: np.ndarray, state: State, single: bool, discrete: bool) -> tuple[np.ndarray, State]:
    """A network's answer as `predict` gives it: scores become the choice of the highest, one observation has no batch.

    Raises ValueError for NaN or infinity.
    """
    if not np.isfinite(action).all():
        raise ValueError("the policy's output must be finite, got NaN or infinity")
    if discrete:
        action = np.argmax(action, axis=1).astype(np.int64)
    return (action[0] if single else action), state
