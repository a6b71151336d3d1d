"""Checkpoints: everything that a run needs to go on as if it had never stopped, in one file."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

FORMAT = 1
FOLDER = "checkpoints"
KEPT = 2  # the newest; the one before stands in where the disk lost the last
_NAME = re.compile(r"iteration-(\d+)\.pt")


def save(run: Path, iteration: int, content: Mapping[str, Any]) -> Path:
    """Writes the checkpoint of so many finished iterations; older ones but the last go.

    The file has its name only when all of it is on the disk. It holds numbers, texts and tensors, no code.
    """
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"iteration-{iteration:07d}.pt"
    partial = folder / f".{target.name}.partial"
    try:
        with open(partial, "wb") as file:
            torch.save({"format": FORMAT, "iteration": iteration, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    for old in found(run)[:-KEPT]:
        old.unlink(missing_ok=True)
    return target


def found(run: Path) -> list[Path]:
    """The checkpoints of a run, the newest last."""
    folder = run / FOLDER
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def load(run: Path) -> dict[str, Any]:
    """The newest checkpoint that can be read.

    Raises ValueError where there is none, and for one that a newer version of hedgerl has written.
    """
    problem = ""
    for path in reversed(found(run)):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            problem = f"{path.name}: {str(error).partition(chr(10))[0]}"
            continue
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{path} is of another version of hedgerl and cannot be continued")
        return content
    detail = f" ({problem})" if problem else ""
    raise ValueError(f"resume must name the folder of a run, got {run}, which has no checkpoint to read{detail}")


def random_state() -> dict[str, Any]:
    """The states of the three generators that learners draw from: torch's, NumPy's and Python's own."""
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 (stable-baselines3 draws from it)
    version, numbers, gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "python": [version, list(numbers), gauss],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Sets what `random_state` told."""
    torch.set_rng_state(state["torch"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def plain(value: Any) -> Any:
    """The value with tuples as lists, NumPy's arrays as tensors and its numbers as Python's: what a file holds."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    return value
