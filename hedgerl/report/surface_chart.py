"""The picture of an option chain's surface: in three dimensions, and smile by smile with its quotes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hedgerl.data.chain_surface import ChainSurface
from hedgerl.report.drawing import TEXT, colour, style

_PANELS = 8  # smiles that are drawn one by one
_DEVIATIONS = (-5.0, 2.5)  # of the price: strikes that the three-dimensional part shows
_GRID = 61


def surface_png(surface: ChainSurface, title: str) -> bytes:
    """The surface as a PNG under a title: volatility over moneyness and time, and up to eight expiries with quotes.

    Across is log(K / F); bars reach from the volatility of the bid to that of the ask, or from the bottom where the
    bid implies none. Expiries are chosen evenly from the shortest to the longest.
    """
    with style():
        figure = Figure(figsize=(13.5, 6.0), facecolor="white")
        _relief(figure.add_axes((0.025, 0.02, 0.37, 0.86), projection="3d"), surface)
        chosen = np.unique(np.linspace(0, len(surface.slices) - 1, _PANELS).round().astype(int)).tolist()
        for place, number in enumerate(chosen):
            row, column = divmod(place, 4)
            axes = figure.add_axes((0.44 + 0.142 * column, 0.56 - 0.46 * row, 0.115, 0.31))
            _smile(axes, surface, number)
        figure.text(0.02, 0.95, title, fontsize=TEXT + 2, weight="bold")
        figure.text(
            0.44, 0.95, "bars: bid to ask, volatility in % by log(K / F); line: the surface", color=colour("muted")
        )
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def _relief(axes: Any, surface: ChainSurface) -> None:
    first, last = surface.years[[0, -1]].tolist()
    years = np.clip(np.append(np.linspace(first**0.5, last**0.5, _GRID) ** 2, surface.years), first, last)
    years = np.unique(years)
    level = np.sqrt(surface.total_variance(np.zeros(years.size), years))
    across = np.linspace(_DEVIATIONS[0], _DEVIATIONS[1], _GRID)
    k = across[:, None] * level
    volatility = 100.0 * surface.implied_volatility(k, np.broadcast_to(years, k.shape))
    axes.plot_surface(
        np.broadcast_to(across[:, None], k.shape),
        np.broadcast_to(np.sqrt(years), k.shape),
        volatility,
        cmap="viridis",
        linewidth=0.0,
        rstride=1,
        cstride=1,
    )
    axes.set_xlabel("log(K / F) in deviations")
    axes.set_ylabel("years to expiry")
    ticks = [each for each in (1 / 52, 1 / 12, 0.25, 0.5, 1.0, 2.0, 3.0) if years[0] <= each <= years[-1]]
    axes.set_yticks(np.sqrt(ticks), [f"{each:.2g}" for each in ticks])
    axes.set_zlabel("volatility, %")
    axes.view_init(elev=24, azim=-128)


def _smile(axes: Any, surface: ChainSurface, number: int) -> None:
    each = surface.slices[number]
    k, ask = each.quotes.k, each.quotes.ask
    axes.vlines(k, 100.0 * each.quotes.low, 100.0 * ask, color=colour("p1"), linewidth=1.0)
    fine = np.linspace(k.min(), k.max(), 301)
    fitted = 100.0 * np.sqrt(surface.at_expiry(number, fine) / each.years)
    axes.plot(fine, fitted, color=colour("p0"), linewidth=1.2)
    axes.set_ylim(max(0.0, 0.8 * fitted.min()), 1.05 * max(fitted.max(), 100.0 * float(np.median(ask))))
    axes.set_title(f"{each.root} {each.date}, {365 * each.years:.0f} days", fontsize=TEXT - 2)
    axes.tick_params(labelsize=TEXT - 3)
