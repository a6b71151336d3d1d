"""The smile: surface SVI (Gatheral & Jacquier 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.optimize import least_squares

from hedgerl.data.svi import Curve, Quotes
from hedgerl.pricing._checks import in_interval, non_negative

_RANGE = (1e-7, 4.0)  # total at-the-money variances for which log contracts are tabulated
_NODES = 161


class Variance(NamedTuple):
    """Total implied variance w and its derivatives, each of the broadcast shape."""

    value: np.ndarray
    by_log_strike: np.ndarray  # dw/dk
    by_log_strike_twice: np.ndarray  # d^2 w / dk^2
    by_level: np.ndarray  # dw/dtheta, k fixed


@dataclass(frozen=True)
class SSVI:
    """Total implied variance at log-moneyness k = log(K / F) from the total variance theta at the money:

        w(k, theta) = theta / 2 {1 + rho phi k + sqrt((phi k + rho)^2 + 1 - rho^2)},
        phi(theta) = eta / (theta^gamma (1 + theta)^(1 - gamma)),

    Gatheral & Jacquier (2014), definition 4.1 and equation 4.5. Implied volatility is sqrt(w / time left). At any theta
    there is no butterfly to sell (theorem 4.2), and between a theta and a larger one no calendar spread (theorem 4.1).
    The one is sure where theta phi (1 + |rho|) < 4 and theta phi^2 (1 + |rho|) <= 4, which are checked at construction,
    at their maxima (of the latter, theta = 1 - 2 gamma); the other where d(theta phi)/d theta <= phi, as with this phi.

    The smile of one expiry depends on its theta alone, so its log contract does as well. eta = 0 is Black-Scholes. The
    defaults are what fits four samples of S&P 500 chains together: see docs/research_notes.md.

    Parameters
    ----------
    rho : correlation of the smile, in (-1, 1)
    eta : its strength, at least 0
    gamma : power at which it fades with theta, in [0, 1/2]; the slope at the money goes as time^(-gamma)

    >>> SSVI(rho=-0.7, eta=3.0)
    Traceback (most recent call last):
    ValueError: eta must be at most 1.81... for rho = -0.7 and gamma = 0.45 to leave no butterfly arbitrage, got 3.0
    """

    rho: float = -0.6
    eta: float = 1.3
    gamma: float = 0.45

    def __post_init__(self) -> None:
        in_interval("rho", self.rho, -1.0, 1.0)
        non_negative("eta", self.eta)
        in_interval("gamma", self.gamma, 0.0, 0.5, closed=True)
        most = strongest(self.rho, self.gamma)
        if self.eta > most:
            raise ValueError(
                f"eta must be at most {most:.6g} for rho = {self.rho:g} and gamma = {self.gamma:g} to leave no "
                f"butterfly arbitrage, got {self.eta!r}"
            )

    def total_variance(self, log_moneyness: np.ndarray, theta: np.ndarray) -> Variance:
        """w and its derivatives; log_moneyness and theta (positive) broadcast."""
        rho, gamma = self.rho, self.gamma
        if self.eta == 0.0:
            nothing = 0.0 * log_moneyness * theta
            return Variance(nothing + theta, nothing, nothing, nothing + 1.0)
        phi = self.eta * theta**-gamma * (1.0 + theta) ** (gamma - 1.0)
        half = 0.5 * theta
        shifted = phi * log_moneyness + rho
        root = np.sqrt(shifted * shifted + (1.0 - rho * rho))
        value = half * ((1.0 - rho * rho) + rho * shifted + root)
        slope = (half * phi) * (rho + shifted / root)
        twice = (half * phi * phi * (1.0 - rho * rho)) / (root * root * root)
        # phi' / phi = -(gamma + (1 - gamma) theta / (1 + theta)) / theta = -(gamma + theta) / (theta (1 + theta))
        by_level = (value - log_moneyness * slope * ((gamma + theta) / (1.0 + theta))) / theta
        return Variance(value, slope, twice, by_level)

    def log_contract(self, theta: np.ndarray) -> np.ndarray:
        """Total variance -2 E[log(S / F)] of the smile: the square of a VIX without gaps in its strikes, times time.

        int w(k) n(z) dz with z = -d_2 = k / sqrt(w) + sqrt(w) / 2 (Gatheral 2006, equation 11.5; Fukasawa 2012), by the
        trapezoidal rule in arcsinh(k / sqrt(theta)). Relative error below 1e-9.
        """
        theta = np.asarray(theta, dtype=np.float64)[..., None]
        u = np.linspace(-8.5, 8.5, 1201)
        k = np.sqrt(theta) * np.sinh(u)
        w, by_k, _, _ = self.total_variance(k, theta)
        root = np.sqrt(w)
        z = k / root + 0.5 * root
        z_by_k = (1.0 - 0.5 * k * by_k / w + 0.25 * by_k) / root
        density = np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
        integrand = w * density * z_by_k * np.sqrt(theta) * np.cosh(u)
        total: np.ndarray = integrand.sum(axis=-1) * (u[1] - u[0])
        return total

    def at_the_money(self, log_contract: np.ndarray) -> np.ndarray:
        """theta from the total variance of the log contract, by a table made once; relative error below 1e-7.

        NaN stays NaN. Raises ValueError beyond the table, which spans volatilities from .2 % to 600 % for 30 days.
        """
        variance = np.asarray(log_contract, dtype=np.float64)
        low, high = self._table.x[[0, -1]]
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(variance)
        for value in variance[(logs < low) | (logs > high) | (np.isnan(logs) & ~np.isnan(variance))][:1]:
            raise ValueError(f"log_contract must lie in [{np.exp(low):.3g}, {np.exp(high):.3g}], got {value:g}")
        theta: np.ndarray = variance * np.exp(self._table(logs))
        return theta

    @cached_property
    def _table(self) -> CubicSpline:
        """log(theta / log contract) by the log of the log contract."""
        theta = np.geomspace(*_RANGE, _NODES)
        contract = self.log_contract(theta)
        return CubicSpline(np.log(contract), np.log(theta / contract))


def strongest(rho: float, gamma: float) -> float:
    """The largest eta that leaves no butterfly arbitrage at any theta."""
    # the maximum over theta of theta phi^2 / eta^2 = theta^(1 - 2 gamma) (1 + theta)^(2 gamma - 2); 0^0 is 1
    rest = 1.0 - 2.0 * gamma
    steepest = rest**rest * (1.0 + rest) ** (-1.0 - rest)
    return float(min(4.0 / (1.0 + abs(rho)), (4.0 / (1.0 + abs(rho)) / steepest) ** 0.5))


@dataclass(frozen=True)
class SSVISmile:
    """The smile of one expiry, of total variance theta at the money."""

    shape: SSVI
    theta: float

    def __call__(self, k: np.ndarray) -> Curve:
        """w, w' and w'' at k."""
        w, slope, curvature, _ = self.shape.total_variance(np.asarray(k, np.float64), np.array(self.theta))
        return Curve(w, slope, curvature)


def fit(quotes: Sequence[Quotes], years: Sequence[float]) -> list[SSVISmile]:
    """The surface nearest to the quotes of all expiries, in the order of their years, by robust least squares.

    Residuals are distances of volatilities from the middles of bid and ask in units of half the spread. theta does not
    fall from one expiry to the next and eta is at most `strongest`, so that there is no arbitrage. Raises ValueError
    for no expiry.
    """
    if not quotes:
        raise ValueError("quotes must be of one expiry at least, got none")
    k = np.concatenate([each.k for each in quotes])
    middle = np.concatenate([each.middle for each in quotes])
    half = np.concatenate([each.half_spread for each in quotes])
    which = np.repeat(np.arange(len(quotes)), [each.k.size for each in quotes])
    time = np.asarray(years, np.float64)[which]
    near = [each.middle[np.abs(each.k).argmin()] for each in quotes]
    level = np.maximum.accumulate(np.square(near) * np.asarray(years, np.float64))
    steps = np.maximum(np.diff(level, prepend=0.0), 1e-8)

    def surface(point: np.ndarray) -> tuple[SSVI, np.ndarray]:
        rho, gamma, share = point[:3].tolist()
        return SSVI(rho, share * strongest(rho, gamma), gamma), np.cumsum(point[3:] * steps)

    def residuals(point: np.ndarray) -> np.ndarray:
        shape, theta = surface(point)
        away: np.ndarray = (np.sqrt(shape.total_variance(k, theta[which]).value / time) - middle) / half
        return away

    start = np.concatenate([[-0.6, 0.4, 0.7], np.ones(steps.size)])
    low = np.concatenate([[-0.999, 0.0, 0.0], np.full(steps.size, 1e-6)])
    high = np.concatenate([[0.999, 0.5, 1.0 - 1e-12], np.full(steps.size, np.inf)])
    found = least_squares(residuals, start, bounds=(low, high), loss="soft_l1", f_scale=0.7, x_scale="jac")
    shape, theta = surface(found.x)
    return [SSVISmile(shape, level) for level in theta.tolist()]
