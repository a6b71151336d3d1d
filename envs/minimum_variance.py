"""The delta that leaves the least variance, where volatility moves with the spot."""

from __future__ import annotations

from typing import Any

from hedgerl.envs.scenario import Contracts, Scenario

Array = Any


def minimum_variance_delta(scenario: Scenario, which: Contracts) -> Array:
    """delta + vega x Cov(d volatility, dS) / Var(dS) of each contract, (n_steps + 1, n, c), in shares a share.

    The coefficient of dS in the regression of dV = delta dS + vega d volatility on dS, with delta at a fixed state of
    the variance and vega by the model's own volatility, as in `hedgerl.sim.Market.mark`:

    ==============  ====================================  ===============================================
    model           volatility                            its slope by the spot
    ==============  ====================================  ===============================================
    Black-Scholes   its own                               0
    SABR            alpha                                 rho volvol / S (Bartlett 2006)
    Heston          sqrt(v)                               rho sigma / (2 sqrt(v) S): rho sigma / S dV/dv
    rough Bergomi   root of the mean forward variance     rho eta / (2 sigma tau sqrt(v) S) sum xi_j dt_j K_j
    GARCH           sqrt(h x steps a year)                -gamma sqrt(steps a year / (2 pi)) / S
    history         the short one of its surface          a regression on the trailing year
    ==============  ====================================  ===============================================

    Each model's `volatility_slope` has the derivation. Dead contracts have 0. Source of the idea: Foellmer &
    Sondermann (1986); for diffusions Bakshi, Cao & Chen (1997); Hull & White (2017) measure it.
    """
    return which.delta + which.vega * which.slope
