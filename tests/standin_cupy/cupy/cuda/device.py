"""Two devices, one of them current in each thread."""

from __future__ import annotations

import threading

_state = threading.local()


class Device:
    """A device by its number; the current one without."""

    def __init__(self, device: int | None = None) -> None:
        self.id = getattr(_state, "current", 0) if device is None else int(device)

    def use(self) -> None:
        """Makes it the current one."""
        _state.current = self.id

    def synchronize(self) -> None:
        """Everything is done at once."""

    def __enter__(self) -> Device:
        _state.before = [*getattr(_state, "before", []), Device().id]
        self.use()
        return self

    def __exit__(self, *error: object) -> None:
        Device(_state.before.pop()).use()

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return self.id
