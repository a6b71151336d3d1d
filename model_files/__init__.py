"""Saved policies that ship with the package: folders as `hedgerl.agents.save_bundle` writes them, by name."""

from __future__ import annotations

import difflib
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def names() -> tuple[str, ...]:
    """The names that `hedgerl.Agent.load` knows, in order."""
    return tuple(sorted(card.parent.name for card in _HERE.glob("*/card.json")))


def path(name: str) -> Path:
    """The folder of a shipped policy. Raises ValueError for a name that is none, with the nearest that is."""
    known = names()
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
        hint = f"the nearest is {close[0]!r}" if close else "none is shipped"
        raise ValueError(f"there is no policy called {name!r:.80}; {hint}")
    return _HERE / name
