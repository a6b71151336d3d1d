"""What prices tell of their own volatility, as features: the estimators of `hedgerl.data.estimators` at every step.

On history the whole series is estimated, and each window reads its own days: an estimate of a day has seen no later
one, and windows are full from the first step on. Simulated markets have no past. There a step of the clock stands for
a day, and a return from before the episode counts as one of a normal law without drift whose volatility is that of the
spot at the start; prices from before it are S_0. The estimate of step t knows nothing after t, and is the plain
estimator once the window is full. Windows that are longer than the episode stay near that law: a policy that shall read
them on history is better trained there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from hedgerl.data import DailySeries, estimators
from hedgerl.envs.scenario import Scenario

Array = Any

VOLATILITY = 0.2  # that features are measured against, per square root of a year
WINDOWS = (5, 21, 63)  # steps
TICKS, SUBGRIDS = 126, 5  # steps whose noise is estimated, and the longer of the two scales
DAYS, MAX_LAG = 252, 12  # of the Hurst exponent
_LEAST_VOLATILITY = 1e-4
_LEAST_VARIANCE = 1e-10  # of a day whose high is its low, for its logarithm


@dataclass(frozen=True)
class Estimate:
    """A number by path and step that prices tell, and how it is shown."""

    formula: str
    known_from: int  # the first day of a series with an estimate
    of_series: Callable[[DailySeries], np.ndarray]  # (n_days,)
    of_paths: Callable[[Scenario], Array] | None  # (n_steps + 1, n), where there is no past; None: cannot be told
    shown: Callable[[Scenario, Array], Array]  # the feature
    flat: float = 0.0  # the estimate where prices do not move
    needs: tuple[str, ...] = ()  # fields of the series beside its closes
    low: float | None = None  # of the feature; None: as others
    high: float | None = None

    def along(self, name: str, of: Scenario) -> Array:
        """The feature at every step, (n_steps + 1, n). Raises ValueError where the market does not know what it needs,
        and where a window of history starts before the estimate is known."""
        if of.past is None:
            self.refuse_without_past(name)
            assert self.of_paths is not None
            return self.shown(of, self.of_paths(of))
        series, days = of.past.series, of.past.days
        for field in self.needs:
            if getattr(series, field) is None:
                raise ValueError(f"the feature {name} needs {field} of every day, which {series.name} does not have")
        first = int(days.min())
        if first < self.known_from:
            raise ValueError(
                f"the feature {name} needs {self.known_from} days before the first of an episode, {series.name} has "
                f"{first} before {series.dates[first]}: start later"
            )
        estimates = self.of_series(series)[days]
        known = np.where(np.isfinite(estimates), estimates, self.flat)
        return self.shown(of, array_namespace(of.spot).asarray(known, dtype=of.spot.dtype, device=device(of.spot)))

    def refuse_without_past(self, name: str) -> None:
        """Raises ValueError where prices at the steps alone do not tell it, as those of simulations."""
        if self.of_paths is None:
            raise ValueError(
                f"the feature {name} needs {', '.join(self.needs)} of every day, which this market does not know: take "
                f"a daily history that has them, or realised_volatility_{WINDOWS[1]}"
            )


# ---- where there is no past ----


def _step_years(of: Scenario) -> float:
    return float(of.times[-1]) / of.n_steps


def _returns(of: Scenario) -> Array:
    logs = array_namespace(of.spot).log(of.spot)
    return logs[1:] - logs[:-1]


def _prior(of: Scenario) -> Array:
    """Variance of a step at the volatility of the start, (n,)."""
    return of.volatility[0] * of.volatility[0] * _step_years(of)


def _by_step(of: Scenario, window: int, estimate: Callable[[Array, int], Array]) -> Array:
    """`estimate` of the last returns at each step, at most `window` of them, and of how many are not known."""
    returns = _returns(of)
    rows = []
    for step in range(of.n_steps + 1):
        known = min(step, window)
        rows.append(estimate(returns[step - known : step], window - known))
    return array_namespace(of.spot).stack(rows)


def _away(returns: Array) -> Array:
    """Returns less their mean; as they are where there is none."""
    return returns - array_namespace(returns).mean(returns, axis=0) if returns.shape[0] else returns


def _sum(rows: Array) -> Array:
    return array_namespace(rows).sum(rows, axis=0)


def _realised_volatility(of: Scenario, window: int) -> Array:
    prior, years = _prior(of), _step_years(of)

    def estimate(returns: Array, unknown: int) -> Array:
        away = _away(returns)
        squares = _sum(away * away) + min(unknown, window - 1) * prior
        return array_namespace(prior).sqrt(squares / ((window - 1) * years))

    return _by_step(of, window, estimate)


def _standardised(of: Scenario, window: int, power: int) -> Array:
    """Skewness (power 3) or kurtosis (4)."""
    prior = _prior(of)
    flat = {3: 0.0, 4: 3.0}[power]

    def estimate(returns: Array, unknown: int) -> Array:
        xp = array_namespace(prior)
        away = _away(returns)
        second = (_sum(away * away) + unknown * prior) / window
        moves = (_sum(returns * returns) + unknown * prior) / window
        moment = (_sum(away**power) + (3.0 * unknown * prior * prior if power == 4 else 0.0)) / window
        moved = second > 1e-24 * moves  # as the estimator has it
        return xp.where(
            moved, moment / xp.where(moved, second, 1.0 + 0.0 * second) ** (0.5 * power), flat + 0.0 * moves
        )

    return _by_step(of, window, estimate)


def _moving_average(of: Scenario, window: int) -> Array:
    rows = []
    for step in range(of.n_steps + 1):
        known = min(step + 1, window)
        last = _sum(of.spot[step + 1 - known : step + 1])
        rows.append((last + (window - known) * of.spot[0]) / window)
    return of.spot / array_namespace(of.spot).stack(rows)


def _exponential_average(of: Scenario, span: int) -> Array:
    weight = 2.0 / (span + 1.0)
    rows = [of.spot[0]]
    for spot in of.spot[1:]:
        rows.append((1.0 - weight) * rows[-1] + weight * spot)
    return of.spot / array_namespace(of.spot).stack(rows)


def _noise_share(of: Scenario) -> Array:
    prior = _prior(of)

    def estimate(returns: Array, unknown: int) -> Array:
        xp = array_namespace(prior)
        all_steps = _sum(returns * returns) + unknown * prior
        known = max(returns.shape[0] - SUBGRIDS + 1, 0)
        longer = sum((returns[lag : lag + known] for lag in range(SUBGRIDS)), 0.0 * returns[:known])
        between = (_sum(longer * longer) + (TICKS - SUBGRIDS + 1 - known) * SUBGRIDS * prior) / SUBGRIDS
        steps = (TICKS - SUBGRIDS + 1.0) / (SUBGRIDS * TICKS)
        moved = all_steps > 0.0
        ratio = between / xp.where(moved, all_steps, 1.0 + 0.0 * all_steps)
        return xp.where(moved, 1.0 - (ratio - steps) / (1.0 - steps), 0.0 * all_steps)

    return _by_step(of, TICKS, estimate)


# ---- how they are shown ----


def _log_volatility(of: Scenario, volatility: Array) -> Array:
    xp = array_namespace(volatility)
    return xp.log(xp.clip(volatility, _LEAST_VOLATILITY, None) / VOLATILITY)


def _as_it_is(of: Scenario, values: Array) -> Array:
    return values


def _log_kurtosis(of: Scenario, kurtosis: Array) -> Array:
    return array_namespace(kurtosis).log(kurtosis / 3.0)


def _distance(window: int) -> Callable[[Scenario, Array], Array]:
    def shown(of: Scenario, ratio: Array) -> Array:
        return array_namespace(ratio).log(ratio) / (VOLATILITY * math.sqrt(window * _step_years(of)))

    return shown


# ---- the table ----


def _hurst(series: DailySeries) -> np.ndarray:
    assert series.high is not None
    assert series.low is not None
    squares = np.log(series.high / series.low) ** 2 / (4.0 * math.log(2.0))
    return estimators.trailing_hurst(np.log(np.maximum(squares, _LEAST_VARIANCE)), DAYS, MAX_LAG)


def _of_returns(estimate: Callable[[np.ndarray, int], np.ndarray], window: int) -> Callable[[DailySeries], np.ndarray]:
    """A moving estimate of log returns, of which the first day has none."""

    def of_series(series: DailySeries) -> np.ndarray:
        return np.append(np.nan, estimate(np.diff(np.log(series.close)), window))

    return of_series


def _of_ranges(name: str, window: int, needs: tuple[str, ...]) -> Estimate:
    """A volatility from the prices within days."""
    fields = ("open", "high", "low", "close") if "open" in needs else ("high", "low")

    def of_series(series: DailySeries) -> np.ndarray:
        estimate: np.ndarray = getattr(estimators, name)(*(getattr(series, field) for field in fields), window)
        return estimate

    words = {"parkinson": "Parkinson's", "garman_klass": "Garman and Klass's", "yang_zhang": "Yang and Zhang's"}[name]
    return Estimate(
        f"log(sigma / 0.2), sigma {words} of the last {window} days of history",
        window if name == "yang_zhang" else window - 1,
        of_series,
        None,
        _log_volatility,
        needs=needs,
    )


def _of_window(window: int) -> dict[str, Estimate]:
    estimates = {
        "moving_average": Estimate(
            f"log(S / mean of the last {window} S) / (0.2 sqrt({window} dt)), S_0 before what is known",
            window - 1,
            lambda series: series.close / estimators.moving_average(series.close, window),
            lambda of: _moving_average(of, window),
            _distance(window),
            flat=1.0,
        ),
        "exponential_average": Estimate(
            f"log(S / exponential average of span {window}) / (0.2 sqrt({window} dt)), S_0 before what is known",
            window - 1,
            lambda series: series.close / estimators.exponential_average(series.close, window),
            lambda of: _exponential_average(of, window),
            _distance(window),
            flat=1.0,
        ),
        "realised_volatility": Estimate(
            f"log(sigma / 0.2), sigma of the last {window} returns about their mean, sigma_0 before what is known",
            window,
            lambda series: estimators.close_to_close(series.close, window),
            lambda of: _realised_volatility(of, window),
            _log_volatility,
        ),
        "parkinson": _of_ranges("parkinson", window, ("high", "low")),
        "garman_klass": _of_ranges("garman_klass", window, ("open", "high", "low")),
        "yang_zhang": _of_ranges("yang_zhang", window, ("open", "high", "low")),
    }
    if window > WINDOWS[0]:  # few returns bound their own moments
        estimates["skewness"] = Estimate(
            f"skewness of the last {window} returns, those before what is known normal of sigma_0",
            window,
            _of_returns(estimators.skewness, window),
            lambda of: _standardised(of, window, 3),
            _as_it_is,
        )
        estimates["kurtosis"] = Estimate(
            f"log(kurtosis / 3) of the last {window} returns, those before what is known normal of sigma_0",
            window,
            _of_returns(estimators.kurtosis, window),
            lambda of: _standardised(of, window, 4),
            _log_kurtosis,
            flat=3.0,
        )
    return {f"{name}_{window}": estimate for name, estimate in estimates.items()}


ESTIMATES: dict[str, Estimate] = {
    **{name: estimate for window in WINDOWS for name, estimate in _of_window(window).items()},
    f"noise_share_{TICKS}": Estimate(
        f"share of the squared returns of the last {TICKS} steps that is noise, by the two scales of 1 and {SUBGRIDS} "
        "steps; returns before what is known normal of sigma_0",
        TICKS,
        lambda series: estimators.noise_share(series.close, TICKS, SUBGRIDS),
        _noise_share,
        _as_it_is,
    ),
    f"hurst_{DAYS}": Estimate(
        f"Hurst exponent of the log of Parkinson's variance of the last {DAYS} days of history, lags 1 to {MAX_LAG}",
        DAYS - 1,
        _hurst,
        None,
        _as_it_is,
        needs=("high", "low"),
        low=-1.0,
        high=1.0,
    ),
}
