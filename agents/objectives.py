"""What deep hedging minimises: a number of a batch of episodes, of their P&L or their reward, with gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hedgerl.envs.reward import Moments, Reward
from hedgerl.pricing._checks import in_interval, nearest, non_negative, positive
from hedgerl.risk import cvar, entropic_risk

PARAMETERS = {"mean_std": 1.5, "cvar": 0.95, "entropic": 1.0, "variance": 0.0, "quadratic": 0.0}


class Criterion(nn.Module):
    """A measure of loss of terminal P&L (n,), in currency (variance, quadratic: its square); less is better.

    =========  ====================================================  ==========================  ===================
    name       `measure` of a sample, L = -P&L                       `forward`, on a batch       parameter
    =========  ====================================================  ==========================  ===================
    mean_std   E[L] + c sd(L)                                        the same                    c, at least 0
    cvar       mean of the worst 1 - level of L                      q + E[(L - q)+]/(1 - level) level, in (0, 1)
    entropic   log(E[exp(a L)]) / a                                  the same, by log-sum-exp    a, per unit of money
    variance   Var(L)                                                the same                    none
    quadratic  E[L^2]: deviations of the P&L from 0                  the same                    none
    =========  ====================================================  ==========================  ===================

    q is a parameter that is learned beside the network (Rockafellar & Uryasev 2000, theorem 1): its best value is the
    level's quantile of L, where the bound is CVaR itself; it starts there, see `start`. It is kept in units of the
    first batch's deviation, so that one learning rate suits any currency.

    parameter None: 1.5 (Cao, Chen, Hull & Poulos 2021), .95, 1. The definitions are those of hedgerl.risk and
    `hedgerl.baselines.Objective`.

    >>> import torch
    >>> criterion = Criterion("cvar", 0.5)
    >>> pnl = torch.tensor([-10.0, -2.0, 1.0, 3.0])
    >>> criterion.start(pnl)
    >>> round(float(criterion(pnl).detach()), 4), criterion.measure(pnl.numpy())
    (6.0, 6.0)
    """

    unit: Tensor  # (), deviation of the first batch's P&L

    def __init__(self, name: str = "mean_std", parameter: float | None = None) -> None:
        super().__init__()
        if name not in PARAMETERS:
            raise ValueError(
                f"objective must be one of {', '.join(PARAMETERS)}, got {name!r}; the nearest is "
                f"{nearest(name, PARAMETERS)!r}"
            )
        self.name = name
        self.parameter = PARAMETERS[name] if parameter is None else float(parameter)
        if name == "mean_std":
            non_negative("parameter", self.parameter)
        elif name == "cvar":
            in_interval("parameter", self.parameter, 0.0, 1.0)
        elif name == "entropic":
            positive("parameter", self.parameter)
        self.register_buffer("unit", torch.ones((), dtype=torch.float64))
        self.threshold = nn.Parameter(torch.zeros((), dtype=torch.float64)) if name == "cvar" else None  # q / unit

    def start(self, pnl: Tensor) -> None:
        """Takes the unit, and q, from the P&L of a first batch."""
        with torch.no_grad():
            loss = -pnl.detach()
            self.unit.copy_(loss.std(correction=0).clamp_min(1e-12))
            if self.threshold is not None:
                self.threshold.copy_(torch.quantile(loss, self.parameter, interpolation="lower") / self.unit)

    def forward(self, pnl: Tensor) -> Tensor:
        """The objective of a batch, a scalar with gradients."""
        loss, c = -pnl, self.parameter
        if self.threshold is not None:
            q = self.threshold * self.unit
            return q + torch.relu(loss - q).mean() / (1.0 - c)
        if self.name == "entropic":
            return (torch.logsumexp(c * loss, 0) - math.log(loss.shape[0])) / c
        if self.name == "quadratic":
            return (loss * loss).mean()
        mean = loss.mean()
        variance = ((loss - mean) ** 2).mean()
        return variance if self.name == "variance" else mean + c * variance.sqrt()

    @property
    def money(self) -> float:
        """What the objective is divided by for the optimiser to meet numbers of order one."""
        unit = float(self.unit)
        return unit * unit if self.name in ("variance", "quadratic") else unit

    def measure(self, pnl: np.ndarray) -> float:
        """The objective of a sample, as tests and reports state it."""
        c = self.parameter
        if self.name == "cvar":
            return float(cvar(pnl, c))
        if self.name == "entropic":
            return float(entropic_risk(pnl, c))
        if self.name == "quadratic":
            return float((pnl * pnl).mean())
        variance = float(pnl.var())
        return variance if self.name == "variance" else float(c * variance**0.5 - pnl.mean())


class RewardCriterion(nn.Module):
    """Minus the mean reward of an episode, in the reward's own unit; less is better.

    pnl (n,): X / M, in the reward's money. linear (n,): what each episode counts by itself, `Judge.linear`. The mean of
    it, and for each of `Reward.risks` its weight times the risk of the sample, as `Criterion` has them:

        tail_loss  cvar at alpha        entropic  entropic at `risk_aversion`        mean_std  mean_std at the same

    These are what the rewards themselves come to where the moving numbers are those of the very episodes. The threshold
    of cvar is learned, as everywhere: the quantile of each batch, or a moving one, ended at the same or a little above.

    `moments` follow the batches, for who looks on: the gradient does not need them.

    Raises ValueError for a reward that weighs nothing.

    >>> import torch
    >>> criterion = RewardCriterion(Reward(loss="cvar", w=2.0, lam=0.5, alpha=0.5))
    >>> pnl, linear = torch.tensor([-10.0, -2.0, 1.0, 3.0]), torch.tensor([1.0, 1.0, 2.0, 0.0])
    >>> criterion.start(pnl, linear)
    >>> round(float(criterion(pnl, linear).detach()), 4), criterion.measure(pnl.numpy(), linear.numpy())
    (13.0, 13.0)
    """

    name = "reward"
    unit: Tensor  # (), size of the first batch's terms

    def __init__(self, reward: Reward) -> None:
        super().__init__()
        if not reward.total_weights and not reward.pnl_weight:
            raise ValueError("reward must give a weight to P&L or to one of its terms, got none")
        self.reward = reward
        self.moments = Moments()
        self.weights = reward.risks
        self.risks = nn.ModuleDict({name: _risk(reward, name) for name in self.weights})
        self.register_buffer("unit", torch.ones((), dtype=torch.float64))

    def start(self, pnl: Tensor, linear: Tensor) -> None:
        """Takes the unit, and the thresholds of risks, from a first batch."""
        with torch.no_grad():
            sizes = linear.detach().abs().mean()
            for risk, weight in self._weighted():
                risk.start(pnl)
                sizes = sizes + weight * risk.unit
            self.unit.copy_(sizes.clamp_min(1e-12))

    def forward(self, pnl: Tensor, linear: Tensor) -> Tensor:
        """The objective of a batch, a scalar with gradients."""
        value = linear.mean()
        for risk, weight in self._weighted():
            value = value + weight * risk(pnl)
        return value

    def follow(self, pnl: Tensor) -> None:
        """Takes a batch into `moments`."""
        self.moments.learn(-pnl.detach(), self.reward)

    @property
    def money(self) -> float:
        """What the objective is divided by for the optimiser to meet numbers of order one."""
        return float(self.unit)

    def measure(self, pnl: np.ndarray, linear: np.ndarray) -> float:
        """The objective of a sample, as tests and reports state it."""
        return float(linear.mean()) + sum(weight * risk.measure(pnl) for risk, weight in self._weighted())

    def get_extra_state(self) -> dict[str, float]:
        """See `torch.nn.Module`: the moments."""
        return self.moments.state

    def set_extra_state(self, state: Mapping[str, float]) -> None:
        """See `get_extra_state`."""
        self.moments.state = state

    def _weighted(self) -> list[tuple[Any, float]]:
        return [(self.risks[name], weight) for name, weight in self.weights.items()]


def _risk(reward: Reward, term: str) -> Criterion:
    """The risk that a term of the reward stands for, of P&L in its money."""
    if term == "tail_loss":
        return Criterion("cvar", reward.alpha)
    return Criterion(term, reward.aversion(term))
