"""How a market's Greeks differ from Black-Scholes's at the same implied volatility.

A policy that was trained on a market with a smile has seen the Greeks of that market's marks. Under rough Bergomi with
a correlation of -0.9 a delta differs from Black-Scholes's by 0.07 of a share near the money, more than a no-trade band
is wide. A desk knows an implied volatility, not the state of a model: the difference is regressed on what it knows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from hedgerl.envs.scenario import Contracts, Scenario
from hedgerl.envs.task import Task
from hedgerl.pricing import black_scholes

_DEGREE, _VARIABLES = 3, 4
_TERMS = tuple(
    chosen
    for degree in range(_DEGREE + 1)
    for chosen in itertools.combinations_with_replacement(range(_VARIABLES), degree)
)
_ROWS = 8192  # option marks a path asks for, about
_FAINT = 1e-3  # of the largest vega: below it an option tells nothing


@dataclass(frozen=True)
class GreekMarks:
    """Coefficients of cubic polynomials p in log(S / K) / (s sqrt(tau)), log(s / 0.2), log(sigma / s), 4 sqrt(tau).

        delta = delta_BS + p_delta vega_BS / S,   gamma = gamma_BS (1 + p_gamma),   vega = vega_BS p_vega

    s the option's implied volatility, sigma that of the spot now, tau the years left; BS at s. Weighted least squares
    over marks of the market that a policy was trained on. The variables are clipped to [-3, 3], [-3, 3], [-2, 1] and
    [0, 6].
    """

    delta: tuple[float, ...]
    gamma: tuple[float, ...]
    vega: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("delta", "gamma", "vega"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != len(_TERMS) or not np.isfinite(values).all():
                raise ValueError(f"{name} must be {len(_TERMS)} finite coefficients, got {len(values)}")
            object.__setattr__(self, name, values)

    @classmethod
    def of_task(cls, task: Task, seed: int = 0) -> GreekMarks:
        """Of the market of a task; the smiles of rough Bergomi and SABR are fitted first, where they have not been."""
        scenario = task.scenario(max(64, _ROWS // task.n_steps), seed)
        parts = [_rows(scenario, scenario.hedges, scenario.hedge_volatility)]
        parts.append(_rows(scenario, scenario.liabilities, scenario.liability_volatility))
        spot, variables, flat, marks = (np.concatenate(each) for each in zip(*parts, strict=True))
        design = _polynomials(variables)
        vega = flat[:, 2] / spot  # BS's vega of a share worth 1
        curvature = flat[:, 1] * spot
        slope = _fit(design * vega[:, None], marks[:, 0] - flat[:, 0])
        bend = _fit(design * curvature[:, None], (marks[:, 1] - flat[:, 1]) * spot)
        level = _fit(design * vega[:, None], marks[:, 2] / spot)
        return cls(slope, bend, level)

    def at(
        self, spot: float, strike: float, left: float, implied: float, volatility: float, flat: Any
    ) -> tuple[float, float, float]:
        """Delta, gamma and vega of a share of an option whose Black-Scholes Greeks are `flat`."""
        terms = _polynomials(_variables(*(np.array([value]) for value in (spot, strike, left, implied, volatility))))[0]
        slope, bend, level = (float(terms @ np.array(values)) for values in (self.delta, self.gamma, self.vega))
        vega = float(flat.vega)
        return float(flat.delta) + slope * vega / spot, float(flat.gamma) * (1.0 + bend), vega * level


def _variables(spot: Any, strike: Any, left: Any, implied: Any, volatility: Any) -> np.ndarray:
    """(n, 4)."""
    root = np.sqrt(left) + 0.0 * spot
    return np.stack(
        [
            np.clip(np.log(spot / strike) / (implied * root), -3.0, 3.0),
            np.clip(np.log(implied / 0.2), -3.0, 3.0),
            np.clip(np.log(volatility / implied), -2.0, 1.0),
            np.clip(4.0 * root, 0.0, 6.0),
        ],
        axis=-1,
    )


def _polynomials(variables: np.ndarray) -> np.ndarray:
    """(n, number of terms)."""
    ones = np.ones(len(variables))
    return np.stack([np.prod([ones, *(variables[:, i] for i in chosen)], axis=0) for chosen in _TERMS], axis=-1)


def _fit(design: np.ndarray, values: np.ndarray) -> tuple[float, ...]:
    return tuple(np.linalg.lstsq(design, values, rcond=1e-10)[0].tolist())


def _rows(of: Scenario, which: Contracts, implied: np.ndarray) -> tuple[np.ndarray, ...]:
    """Spot (m,), variables (m, 4), and delta, gamma, vega (m, 3) by Black-Scholes and of the marks."""
    rows: list[tuple[np.ndarray, ...]] = []
    for step, column in zip(*np.nonzero(which.alive), strict=True):
        spot, strike, left = of.spot[step], which.strike[step, :, column], float(which.years_left[step, column])
        volatility, sigma = implied[step, :, column], np.maximum(of.volatility[step], 1e-6)
        greeks = black_scholes(
            spot,
            strike,
            left,
            volatility,
            rate=of.rates[step],
            dividend=of.dividend,
            is_call=bool(which.is_call[column]),
        )
        flat = np.stack([greeks.delta, greeks.gamma, greeks.vega], axis=-1)
        marks = np.stack([getattr(which, name)[step, :, column] for name in ("delta", "gamma", "vega")], axis=-1)
        # a client's option is not there on every path; one far from the money has no Greeks to speak of
        there = (which.price[step, :, column] > 0.0) & (flat[:, 2] > _FAINT * spot * left**0.5)
        rows.append((spot[there], _variables(spot, strike, left, volatility, sigma)[there], flat[there], marks[there]))
    if not rows:
        return np.zeros(0), np.zeros((0, _VARIABLES)), np.zeros((0, 3)), np.zeros((0, 3))
    return tuple(np.concatenate(each) for each in zip(*rows, strict=True))
