"""Luck told apart from skill: what a lazy hedger gains over a diligent one, and how long it takes to know why."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from hedgerl.evaluation.result import Result, plain
from hedgerl.pricing._checks import in_interval, whole_number


@dataclass(frozen=True)
class LuckAndSkill:
    """The difference of two hedgers' P&L on the same episodes, split in two.

        difference = cost saved + gain from exposure,

    cost saved = what the diligent hedger paid in costs less what the lazy one paid: certain in sign, repeated every
    episode, the skill. Gain from exposure = all the rest: the moves against which the lazy hedger was not hedged and
    the other was. Where options and underlying are priced fairly its mean is zero, so it is luck; a mean of it that is
    not zero is pay for risk taken (a drift, a variance premium), which is no skill in hedging either. `exposure_z`
    tells.

    Money is per 100 of initial spot x size, by episode. se: standard errors, episodes taken as independent.
    """

    lazy: str
    diligent: str
    n_episodes: int
    difference: float
    difference_se: float
    difference_sd: float
    cost_saved: float
    cost_saved_se: float
    exposure_gain: float
    exposure_gain_se: float
    exposure_z: float  # exposure_gain / its se; NaN where exposures are the same
    luck_share: float  # of the variance of the difference: Cov(exposure gain, difference) / Var(difference)
    skill_share: float  # Cov(cost saved, difference) / Var(difference); the two sum to 1
    beats: float  # share of episodes in which the lazy hedger comes out ahead
    confidence: float
    episodes_needed: float  # until the lazy hedger is ahead with that probability; infinite where no cost is saved

    def beats_over(self, n_episodes: int) -> float:
        """Probability that the lazy hedger is ahead after so many independent episodes.

        Phi(sqrt(n) cost saved / sd of the difference): the gain from exposure is given its fair mean of zero, and the
        sum of episodes is taken as normal.
        """
        whole_number("n_episodes", n_episodes)
        if not self.difference_sd > 0.0:
            return float(self.cost_saved > 0.0)
        return NormalDist().cdf(math.sqrt(n_episodes) * self.cost_saved / self.difference_sd)

    def row(self) -> dict[str, Any]:
        """All numbers, flat; None where one is not defined or infinite."""
        return {name: plain(value) for name, value in asdict(self).items()}


def luck_and_skill(lazy: Result, diligent: Result, *, confidence: float = 0.95) -> LuckAndSkill:
    """How much of a lazy hedger's P&L over a diligent one's is luck, from results on the same episodes.

    episodes_needed is the n at which `LuckAndSkill.beats_over` reaches `confidence`,

        n = (z sd(difference) / cost saved)^2,    z = Phi^-1(confidence),

    rounded up: before it, being ahead or behind says little about who hedges better.

    Raises ValueError unless both have the same number of episodes, at least two, on the same paths (the same P&L
    without a hedge).
    """
    level = in_interval("confidence", confidence, 0.5, 1.0)
    n = lazy.n_episodes
    if n != diligent.n_episodes or n < 2:
        raise ValueError(f"results must have the same episodes, at least two, got {n} and {diligent.n_episodes}")
    if not np.array_equal(lazy.episodes["unhedged"], diligent.episodes["unhedged"]):
        raise ValueError("results must be on the same paths: run both in one compare, or with the same seed and chunk")
    difference = lazy.pnl - diligent.pnl
    saved = diligent.episodes["cost"].to_numpy() - lazy.episodes["cost"].to_numpy()
    gain = difference - saved
    covariance = np.cov(np.stack([difference, saved, gain]))
    variance = float(covariance[0, 0])
    root = math.sqrt(n)
    sd = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    skill, gain_se = float(saved.mean()), float(sd[2]) / root
    needed = math.inf
    if skill > 0.0:
        needed = float(max(1, math.ceil((NormalDist().inv_cdf(level) * float(sd[0]) / skill) ** 2)))
    return LuckAndSkill(
        lazy=lazy.policy,
        diligent=diligent.policy,
        n_episodes=n,
        difference=float(difference.mean()),
        difference_se=float(sd[0]) / root,
        difference_sd=float(sd[0]),
        cost_saved=skill,
        cost_saved_se=float(sd[1]) / root,
        exposure_gain=float(gain.mean()),
        exposure_gain_se=gain_se,
        exposure_z=float(gain.mean()) / gain_se if gain_se > 0.0 else math.nan,
        luck_share=float(covariance[0, 2]) / variance if variance > 0.0 else math.nan,
        skill_share=float(covariance[0, 1]) / variance if variance > 0.0 else math.nan,
        beats=float((difference > 0.0).mean()),
        confidence=level,
        episodes_needed=needed,
    )
