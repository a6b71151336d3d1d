"""A volatility surface for every day of a series, from what was known at that day's close."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from hedgerl.data.daily import DailySeries
from hedgerl.data.ssvi import SSVI
from hedgerl.data.volatility import ewma_volatility, realised_volatility
from hedgerl.pricing._checks import non_negative, positive, whole_number

LEVELS = ("auto", "vix", "ewma", "realised")
VIX_YEARS = 30 / 365  # what the VIX looks ahead
VOLATILITY_RANGE = (0.005, 5.0)  # of a day's level; with less there is no market


@dataclass(frozen=True, eq=False)
class Levels:
    """Where the surface stood at each close. All are variances at the money, per year, NaN before they are known."""

    short: np.ndarray  # (n_days,) at no time left
    long: np.ndarray  # (n_days,) that to which the forward variance reverts

    @property
    def first(self) -> int | None:
        """The first day with a surface; None where there is none. Every later day has one."""
        known = np.isfinite(self.short)
        return int(known.argmax()) if known.any() else None


@dataclass(frozen=True)
class Surface:
    """A day's surface: `SSVI` smiles over a term structure of the variance at the money,

        theta(tau) = long tau + (short - long) (1 - exp(-kappa tau)) / kappa,

    the integral of a positive forward variance that reverts from `short` to `long`, so that theta never falls and no
    calendar spread can be sold. Every day has its own short and long:

    - the day's volatility is the VIX or, where the series has none, trailing volatility times `premium`;
    - theta at 30 days is such that the smile's own log contract (variance swap) has that volatility;
    - long is the mean of those 30-day variances, theta / tau, over the last `long_run_days`, today's included;
    - short then follows from theta at 30 days. Where it would fall under half of the 30-day variance (a calm day after
      a year of storm), it stays there, and long gives way.

    All of it is known at the day's close.

    Parameters
    ----------
    shape : rho, eta and gamma of the smile
    kappa : reversion per year, at least 0; at 0 the term structure is flat, and long without a role
    long_run_days : trading days of the trailing mean
    level : "vix", "ewma" (exponentially weighted), "realised" (equal weights), or "auto": the VIX where the series has
        one, else "ewma"
    span_days : trading days of the trailing volatility
    premium : implied over trailing volatility; the VIX has its premium in it, and takes none
    """

    shape: SSVI = field(default_factory=SSVI)
    kappa: float = 5.0
    long_run_days: int = 252
    level: str = "auto"
    span_days: int = 21
    premium: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.shape, SSVI):
            raise ValueError(f"shape must be an SSVI, got {self.shape!r}")
        non_negative("kappa", self.kappa)
        whole_number("long_run_days", self.long_run_days)
        if self.level not in LEVELS:
            raise ValueError(f"level must be one of {', '.join(LEVELS)}, got {self.level!r}")
        whole_number("span_days", self.span_days)
        positive("premium", self.premium)

    def levels(self, series: DailySeries) -> Levels:
        """Short and long of every day.

        Raises ValueError where level is "vix" and the series has none, where the series is too short for the trailing
        volatility, and where a day's volatility lies outside [0.005, 5].
        """
        volatility = self.index_volatility(series)
        low, high = VOLATILITY_RANGE
        for day in np.flatnonzero((volatility < low) | (volatility > high))[:1]:
            raise ValueError(
                f"the volatility of {series.name} must lie in [{low:g}, {high:g}], got {volatility[day]:g} on "
                f"{series.dates[day]}"
            )
        middle = self.shape.at_the_money(volatility**2 * VIX_YEARS) / VIX_YEARS
        if self.kappa == 0.0:
            return Levels(middle, middle)
        mean = np.full(middle.size, np.nan)
        known = middle[np.isfinite(middle)]
        if known.size >= self.long_run_days:
            windows = np.lib.stride_tricks.sliding_window_view(known, self.long_run_days)
            mean[middle.size - len(windows) :] = windows.mean(axis=1)
        over = VIX_YEARS / self.time_at_short(VIX_YEARS)  # middle - long = (short - long) / over
        short = mean + (middle - mean) * over
        low_share = short < 0.5 * middle  # only where over is well above 1
        short = np.where(low_share, 0.5 * middle, short)
        return Levels(short, np.where(low_share, (over - 0.5) / max(over - 1.0, 1e-12) * middle, mean))

    def index_volatility(self, series: DailySeries) -> np.ndarray:
        """The volatility that drives the level, annualised, (n_days,); NaN where not yet known."""
        level = self.level
        if level == "auto":
            level = "ewma" if series.vix is None else "vix"
        if level == "vix":
            if series.vix is None:
                raise ValueError(
                    f"level must be ewma or realised for {series.name}, which has no VIX, got {self.level!r}"
                )
            return series.vix / 100.0
        if len(series) <= self.span_days:
            raise ValueError(
                f"{series.name} must have more days than span_days = {self.span_days} of the trailing volatility, got "
                f"{len(series)}: give a longer series"
            )
        trailing = ewma_volatility if level == "ewma" else realised_volatility
        return self.premium * trailing(series.close, self.span_days)

    def time_at_short(self, left: float) -> float:
        """(1 - exp(-kappa tau)) / kappa: d theta(tau) / d short, in years."""
        return left if self.kappa == 0.0 else -math.expm1(-self.kappa * left) / self.kappa

    def theta(self, left: float, short: np.ndarray, long: np.ndarray) -> np.ndarray:
        """Total variance at the money with `left` years left, of the shape of short and long."""
        at_short = self.time_at_short(left)
        return at_short * short + (left - at_short) * long
