"""Drawdowns of a path of wealth: how far below its own past it lies."""

from __future__ import annotations

from typing import Any

from array_api_compat import is_numpy_namespace

from hedgerl.risk.sample import sample

Array = Any


def drawdown(wealth: Array, *, relative: bool = False) -> Array:
    """How far wealth lies below its highest value so far, (time, ...) -> (time, ...), never negative.

    In the unit of wealth, or with `relative` as a share of that highest value, which must then be positive.

    >>> drawdown([1.0, 3.0, 2.0, 4.0]).tolist()
    [0.0, 0.0, 1.0, 0.0]
    """
    xp, x = sample("wealth", wealth, axis=0)
    peak = _running_maximum(xp, x)
    if not relative:
        return peak - x
    if not bool(xp.all(x[0] > 0.0)):
        raise ValueError("wealth must start positive where drawdowns are relative to its peak")
    return (peak - x) / peak


def max_drawdown(wealth: Array, *, relative: bool = False) -> Array:
    """The deepest drawdown, (time, ...) -> (...): the largest loss from a peak to a later trough; see `drawdown`."""
    down = drawdown(wealth, relative=relative)
    xp, down = sample("wealth", down, axis=0)
    return xp.max(down, axis=0)


def ulcer_index(wealth: Array, *, relative: bool = True) -> Array:
    """sqrt(mean of squared drawdowns over time), (time, ...) -> (...): depth and length of drawdowns together.

    Martin & McCann (1989), with drawdowns as shares of the peak (theirs are per cent) or, with relative=False, in the
    unit of wealth. The mean is over all times given, the first among them.

    >>> float(ulcer_index([4.0, 2.0, 4.0, 4.0]))  # sqrt(.5^2 / 4)
    0.25
    """
    down = drawdown(wealth, relative=relative)
    xp, down = sample("wealth", down, axis=0)
    return xp.mean(down * down, axis=0) ** 0.5


def pain_index(wealth: Array, *, relative: bool = True) -> Array:
    """The mean drawdown over time, (time, ...) -> (...) (Zephyr Associates); as a share of the peak, or in its unit.

    >>> float(pain_index([4.0, 2.0, 4.0, 4.0]))  # .5 / 4
    0.125
    """
    down = drawdown(wealth, relative=relative)
    xp, down = sample("wealth", down, axis=0)
    return xp.mean(down, axis=0)


def _running_maximum(xp: Any, x: Array) -> Array:
    if is_numpy_namespace(xp):
        return xp.maximum.accumulate(x, axis=0)
    rows = [x[0]]
    for row in x[1:]:
        rows.append(xp.maximum(rows[-1], row))
    return xp.stack(rows, axis=0)
