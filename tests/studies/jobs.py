"""Work for the workers of the tests; imported by name in processes of their own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def square(x: float, seconds: float = 0.0) -> dict[str, Any]:
    """x squared, after a while."""
    time.sleep(seconds)
    return {"values": [x * x], "reports": []}


def two(x: float, y: float, choice: str = "a", log: str = "", seconds: float = 0.0) -> dict[str, Any]:
    """Two objectives that disagree; an x above 1.5 fails. Notes that it was here in the file `log`."""
    time.sleep(seconds)
    if log:
        with open(log, "a") as file:
            file.write(f"{x!r}\n")
    if x > 1.5:
        raise RuntimeError(f"no x above 1.5,\n got {x}")
    return {"values": [x * x + y, (x - 1.0) ** 2 + (choice == "b")], "reports": []}


def die(marker: str = "") -> dict[str, Any]:
    """Kills its own process; where a marker is given, only while that file is not there."""
    if marker and Path(marker).exists():
        return {"values": [0.0], "reports": []}
    if marker:
        Path(marker).touch()
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def surroundings() -> dict[str, Any]:
    """What a worker sees of its machine."""
    import torch

    names = ("OMP_NUM_THREADS", "HEDGERL_THREADS", "CUDA_VISIBLE_DEVICES")
    return {**{name: os.environ.get(name) for name in names}, "torch": torch.get_num_threads(), "pid": os.getpid()}
