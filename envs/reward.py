"""Rewards: what a step's profit, its costs and the position are worth to an agent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from hedgerl.envs.task import Task
from hedgerl.envs.transition import Rollout
from hedgerl.execution.costs import clip, total
from hedgerl.pricing._checks import finite, in_interval, nearest, non_negative, positive
from hedgerl.sim.backend import to_numpy

Array = Any

LOSSES = ("abs", "mse", "cvar", "entropic", "mean_std")
SHORT_OPTION_MARGIN = 0.2  # of the spot, for each share of an option sold
SHARE_MARGIN = 0.5  # of the spot, for each share of the underlying held, long or short


@dataclass(frozen=True, kw_only=True)
class Reward:
    """r_t = pnl_weight x P&L_t / M - w x (loss) - lam x (cost_t / M) - sum of weights[name] x term_t.

    Money is divided by M = `scale`; None: a millionth of the book's initial notional, task.size x S_0 / 1,000,000, so
    that money counts as it would for a book of 1,000,000. For the 10,000 shares at 100 of the SPY overlay M is 1.

    P&L_t is the change of wealth over the step (see `Rollout.act`), cost_t what trading cost in it (both of the trade
    at t and of what was forced at t + 1), X the P&L of the whole episode after all costs and L = -X / M.

    ============  ==================================================================================================
    loss          what `w` weighs
    ============  ==================================================================================================
    abs           |P&L_t + cost_t| / M, each step: `pnl_deviation`
    mse           ((P&L_t + cost_t) / M)^2, each step: `pnl_deviation`
    cvar          q + max(L - q, 0) / (1 - alpha), at the last step: `tail_loss`. Its mean over episodes is the
                  expected shortfall CVaR_alpha(L) where q is L's alpha-quantile, and more elsewhere (Rockafellar &
                  Uryasev 2000, Theorem 1). q is `threshold`, or follows the quantile of the episodes: see `Moments`.
    entropic      q + (exp(a (L - q)) - 1) / a, at the last step, a = `risk_aversion`: `entropic`. Its mean is the
                  entropic risk log E[exp(a L)] / a where q is that risk, and more elsewhere (Ben-Tal & Teboulle 2007).
                  The exponent is cut at 20.
    mean_std      L + a/2 ((L - m)^2 / s + s), at the last step: `mean_std`. Its mean is E[L] + a std(L) where m and s
                  are mean and standard deviation of L, and more elsewhere (min over s > 0 of v / s + s is 2 sqrt(v)).
    ============  ==================================================================================================

    So the mean reward of the last three, maximised, is the risk itself minimised, and each episode's reward depends on
    that episode and a few slowly moving numbers alone.

    weights: of further terms, by name, none of them negative. The terms, of each step and path, S the spot at t:

    =================  =============================================================================================
    term               formula
    =================  =============================================================================================
    pnl_deviation      the step's deviation of P&L from zero: |.| or, where loss is "mse", (.)^2, as above
    tail_loss          the expected shortfall's integrand, as above, at the last step
    transaction_cost   cost_t / M
    turnover           sum of |trade_i| mid_i / M
    delta_neutrality   |delta of the book| S 0.2 sqrt(dt) / M: a usual step's P&L from it; after the trade
    gamma_neutrality   |gamma of the book| (S 0.2 sqrt(dt))^2 / 2 / M; after the trade
    vega_neutrality    |vega of the book| 0.01 / M: of a volatility point; after the trade
    position_limit     sum of max(|asked for_i| - limit_i, 0) S / M, limit_i that of the task's execution, or
                       `position_limit` times the task's size where there is none
    trade_size         sum of (trade_i / size)^2: large trades count more than as many small ones
    margin_use         (loan + 0.2 S (shares of options sold) + 0.5 S |shares held|) / M; after the trade
    drawdown           rise of the largest drawdown of wealth over the step / M: adds up to the maximum drawdown
    terminal_exposure  sum of |holdings_i| mid_i / M, of what is held into the last step
    entropic           as above, at the last step
    mean_std           as above, at the last step
    =================  =============================================================================================

    Terms without a weight are computed where everything is recorded, not else.
    """

    loss: str = "abs"
    w: float = 0.001
    lam: float = 0.0001
    pnl_weight: float = 0.0
    alpha: float = 0.95
    risk_aversion: float | None = None  # None: 1 for mean_std; for entropic 1e-4, per unit of money
    threshold: float | None = None  # of cvar, a loss in units of money; None: it follows the episodes
    memory: int = 10_000  # episodes that moments look back over, about
    position_limit: float = 2.0
    weights: Mapping[str, float] = field(default_factory=dict)
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        for name in ("w", "lam", "position_limit"):
            non_negative(name, getattr(self, name))
        finite("pnl_weight", self.pnl_weight)
        in_interval("alpha", self.alpha, 0.0, 1.0)
        positive("memory", self.memory)
        for name in ("risk_aversion", "scale"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        if self.threshold is not None:
            finite("threshold", self.threshold)
        for name, weight in self.weights.items():
            if name not in TERMS:
                raise ValueError(
                    f"weights must name known terms, got {name!r}; the nearest is {nearest(name, TERMS)!r}"
                )
            non_negative(f"weights[{name!r}]", weight)

    @property
    def total_weights(self) -> dict[str, float]:
        """Weight of each term that has one, those of w and lam included."""
        sums = dict.fromkeys(TERMS, 0.0)
        sums[_TERM_OF_LOSS[self.loss]] += self.w
        sums["transaction_cost"] += self.lam
        for name, weight in self.weights.items():
            sums[name] += weight
        return {name: weight for name, weight in sums.items() if weight}

    @property
    def risks(self) -> dict[str, float]:
        """Weight of each term that has one and stands for a risk of all episodes together: its mean is least, and that
        risk, at the moving numbers of these very episodes. A given `threshold` does not move."""
        fixed = {"tail_loss"} if self.threshold is not None else set()
        return {name: weight for name, weight in self.total_weights.items() if name in _RISKS - fixed}

    def aversion(self, term: str) -> float:
        """The risk aversion of a term."""
        if self.risk_aversion is not None:
            return self.risk_aversion
        return 1.0 if term == "mean_std" else 1e-4


_TERM_OF_LOSS = {
    "abs": "pnl_deviation",
    "mse": "pnl_deviation",
    "cvar": "tail_loss",
    "entropic": "entropic",
    "mean_std": "mean_std",
}


class Moments:
    """What the terminal terms know of the losses L of episodes so far. All numbers: `state` reads and sets them.

    mean, variance: of L, averages that forget at a rate 1 / min(episodes, memory). entropic: log E[exp(a L)] / a, the
    same average of exponentials. threshold: the alpha-quantile by stochastic approximation (Robbins & Monro 1951),
    q <- q + c std(L) (share of losses above q - (1 - alpha)) n / min(episodes, memory), after each batch of n; c is
    1 / (density at the quantile), the best gain, of a normal distribution. It starts at the first batch's own quantile.

    >>> import numpy as np
    >>> moments, rng = Moments(), np.random.default_rng(1)
    >>> for _ in range(500):
    ...     moments.learn(rng.normal(10.0, 2.0, 100), Reward(loss="cvar", memory=100_000))
    >>> round(moments.mean, 1), round(moments.variance**0.5, 1), round(moments.threshold, 1)  # 10 + 2 x 1.645
    (10.0, 2.0, 13.3)
    """

    def __init__(self) -> None:
        self.episodes = 0.0
        self.mean = 0.0
        self.variance = 0.0
        self.threshold = 0.0
        self.entropic = 0.0

    @property
    def state(self) -> dict[str, float]:
        """All numbers by name."""
        return dict(vars(self))

    @state.setter
    def state(self, values: Mapping[str, float]) -> None:
        if set(values) != set(vars(self)):
            raise ValueError(
                f"state must have the numbers {', '.join(sorted(vars(self)))}, got {', '.join(sorted(values))}"
            )
        for name, value in values.items():
            setattr(self, name, finite(name, value))

    def learn(self, losses: Any, reward: Reward) -> None:
        """Takes in the losses (n,) of a batch of episodes."""
        sample = np.asarray(to_numpy(losses), dtype=np.float64)
        n, tail = sample.size, 1.0 - reward.alpha
        mean, a = float(sample.mean()), reward.aversion("entropic")
        variance = float(((sample - mean) ** 2).mean())
        top = float(sample.max())
        entropic = top + math.log(float(np.exp(a * (sample - top)).mean())) / a
        first = self.episodes == 0.0
        self.episodes += n
        weight = 1.0 if first else min(n / min(self.episodes, reward.memory), 1.0)
        away = mean - self.mean
        self.mean += weight * away
        self.variance = (1.0 - weight) * (self.variance + weight * away * away) + weight * variance
        if first:
            self.threshold, self.entropic = float(np.quantile(sample, reward.alpha)), entropic
            return
        top = max(self.entropic, entropic)
        self.entropic = (
            top
            + math.log((1.0 - weight) * math.exp(a * (self.entropic - top)) + weight * math.exp(a * (entropic - top)))
            / a
        )
        standard = NormalDist()
        gain = self.variance**0.5 / standard.pdf(standard.inv_cdf(reward.alpha))
        self.threshold += weight * gain * (float((sample > self.threshold).mean()) - tail)


class Judge:
    """Rewards of one batch of episodes: told of each step's outcome, it keeps the sums of all terms.

    On torch the rewards carry gradients to the targets, in which the moments are constants: at the best moments that is
    the gradient of the risk itself (envelope theorem). Where |x| and max(x, 0) bend it is the mean of both sides'.

    learn: whether `moments` takes in the episodes when they end; the very first batch is taken in before it is judged.
    """

    def __init__(
        self,
        reward: Reward,
        task: Task,
        rollout: Rollout,
        moments: Moments,
        *,
        record: bool = False,
        learn: bool = True,
    ) -> None:
        of = rollout.scenario
        self.config = reward
        self.task = task
        self.rollout = rollout
        self.moments = moments
        self.opening: Array = rollout.wealth
        notional = of.spot[0] * (1e-6 * task.size)
        self.per_money: Array = 1.0 / (notional if reward.scale is None else 0.0 * notional + reward.scale)
        self.usual_move = _VOLATILITY * float(of.times[-1] / of.n_steps) ** 0.5  # of log S in a step
        self.total: Array = 0.0 * notional  # reward so far
        self.sums: dict[str, Array] = {}  # of each term, so far
        self.peak: Array = rollout.wealth
        self.worst: Array = self.total  # largest drawdown so far
        self._record = record
        weights = reward.total_weights
        names = tuple(TERMS) if record else tuple(weights)
        self._terms = [(name, TERMS[name], -weights.get(name, 0.0)) for name in names]
        self._learns = learn and any(name in _TERMINAL for name in weights)
        self._rows: dict[str, list[Array]] = {name: [] for name in names}
        self._rewards: list[Array] = []

    def reward(self, target: Array, pnl: Array) -> Array:
        """The reward (n,) of the step that has just been made to `target`, as asked for, with this P&L."""
        rollout, sums = self.rollout, self.sums
        last = rollout.done
        outset = last and self._learns and not self.moments.episodes
        if outset:
            self._learn()
        value = pnl * self.per_money * self.config.pnl_weight if self.config.pnl_weight else None
        for name, term, weight in self._terms:
            if last or name not in _TERMINAL:
                amount = term(self, target, pnl)
                if weight:
                    part = weight * amount
                    value = part if value is None else value + part
                sums[name] = sums[name] + amount if name in sums else amount
            else:
                amount = 0.0 * pnl
            if self._record:
                self._rows[name].append(amount)
        if value is None:
            value = 0.0 * pnl
        self.total = self.total + value
        if self._record:
            self._rewards.append(value)
        if last and self._learns and not outset:
            self._learn()
        return value

    def history(self) -> dict[str, Any]:
        """Rewards and terms by step, for `Rollout.result`; asked for by record=True."""
        stack = self.rollout.xp.stack
        return {
            "rewards": stack(self._rewards),
            "reward_terms": {name: stack(rows) for name, rows in self._rows.items()},
        }

    def losses(self) -> Array:
        """L = -X / M of the episodes, (n,)."""
        return (self.opening - self.rollout.wealth) * self.per_money

    def linear(self) -> Array:
        """What an episode so far counts by itself, (n,): the weighted terms but for `Reward.risks`, less pnl_weight
        x X / M. The mean reward is minus the mean of it and minus the weighted risks."""
        value = self.config.pnl_weight * self.losses()
        risks = self.config.risks
        for name, _, weight in self._terms:
            if weight and name not in risks and name in self.sums:
                value = value - weight * self.sums[name]
        return value

    def _learn(self) -> None:
        self.moments.learn(self.losses(), self.config)


_VOLATILITY = 0.2  # of a usual step, per square root of a year
_MOST = 20.0  # exponent of the entropic term

Term = Callable[[Judge, Array, Array], Array]  # judge, target, P&L -> (n,)


def _positive_part(x: Array) -> Array:
    return 0.5 * (x + abs(x))


def _pnl_deviation(judge: Judge, target: Array, pnl: Array) -> Array:
    deviation = (pnl + judge.rollout.cost) * judge.per_money
    return deviation * deviation if judge.config.loss == "mse" else abs(deviation)


def _transaction_cost(judge: Judge, target: Array, pnl: Array) -> Array:
    return judge.rollout.cost * judge.per_money


def _turnover(judge: Judge, target: Array, pnl: Array) -> Array:
    rollout = judge.rollout
    return total(abs(rollout.trade) * rollout.scenario.mid[rollout.step - 1]) * judge.per_money


def _of_book(greek: str) -> Callable[[Judge], Array]:
    """The absolute value of a Greek of liabilities and hedges after the step's trade."""

    def absolute(judge: Judge) -> Array:
        rollout, step = judge.rollout, judge.rollout.step - 1
        of = rollout.scenario
        value = getattr(of, f"liability_{greek}")[step] + total(rollout.held * getattr(of, greek)[step])
        if of.kept_from:
            value = value + total(rollout.kept_held * getattr(of.kept, greek)[step])
        return abs(value)

    return absolute


_book_delta, _book_gamma, _book_vega = (_of_book(greek) for greek in ("delta", "gamma", "vega"))


def _spot(judge: Judge) -> Array:
    """Before the move."""
    return judge.rollout.scenario.spot[judge.rollout.step - 1]


def _delta_neutrality(judge: Judge, target: Array, pnl: Array) -> Array:
    return _book_delta(judge) * _spot(judge) * (judge.usual_move * judge.per_money)


def _gamma_neutrality(judge: Judge, target: Array, pnl: Array) -> Array:
    return _book_gamma(judge) * _spot(judge) ** 2 * (0.5 * judge.usual_move**2 * judge.per_money)


def _vega_neutrality(judge: Judge, target: Array, pnl: Array) -> Array:
    return _book_vega(judge) * (0.01 * judge.per_money)


def _position_limit(judge: Judge, target: Array, pnl: Array) -> Array:
    of, most = judge.rollout.scenario, judge.task.execution.limits.holding
    if most is None:
        limit = judge.config.position_limit * judge.task.size + 0.0 * of.multiplier
    else:
        limit = most * of.multiplier
    return total(_positive_part(abs(target) - of._array(limit))) * _spot(judge) * judge.per_money


def _trade_size(judge: Judge, target: Array, pnl: Array) -> Array:
    share = judge.rollout.trade * (1.0 / judge.task.size)
    return total(share * share)


def _margin_use(judge: Judge, target: Array, pnl: Array) -> Array:
    rollout = judge.rollout
    options = rollout.scenario._array(rollout.scenario.is_option)
    margin = (SHORT_OPTION_MARGIN * options) * _positive_part(-rollout.held)
    needed = total(margin + (SHARE_MARGIN * (1.0 - options)) * abs(rollout.held))
    if rollout.scenario.kept_from:
        needed = needed + SHORT_OPTION_MARGIN * total(_positive_part(-rollout.kept_held))
    return (_positive_part(-rollout.cash_held) + needed * _spot(judge)) * judge.per_money


def _drawdown(judge: Judge, target: Array, pnl: Array) -> Array:
    wealth = judge.rollout.wealth
    judge.peak = judge.peak + _positive_part(wealth - judge.peak)
    rise = _positive_part(judge.peak - wealth - judge.worst)
    judge.worst = judge.worst + rise
    return rise * judge.per_money


def _terminal_exposure(judge: Judge, target: Array, pnl: Array) -> Array:
    rollout = judge.rollout
    of, step = rollout.scenario, rollout.step - 1
    value = total(abs(rollout.held) * of.mid[step])
    if of.kept_from:
        value = value + total(abs(rollout.kept_held) * of.kept.price[step])
    return value * judge.per_money


def _tail_loss(judge: Judge, target: Array, pnl: Array) -> Array:
    given = judge.config.threshold
    threshold = judge.moments.threshold if given is None else given
    return threshold + _positive_part(judge.losses() - threshold) / (1.0 - judge.config.alpha)


def _entropic(judge: Judge, target: Array, pnl: Array) -> Array:
    a, level = judge.config.aversion("entropic"), judge.moments.entropic
    xp = judge.rollout.xp
    return level + (xp.exp(clip(a * (judge.losses() - level), -math.inf, _MOST)) - 1.0) / a


def _mean_std(judge: Judge, target: Array, pnl: Array) -> Array:
    moments, loss = judge.moments, judge.losses()
    spread = max(moments.variance**0.5, 1e-6)
    return loss + 0.5 * judge.config.aversion("mean_std") * ((loss - moments.mean) ** 2 / spread + spread)


TERMS: dict[str, Term] = {
    "pnl_deviation": _pnl_deviation,
    "tail_loss": _tail_loss,
    "transaction_cost": _transaction_cost,
    "turnover": _turnover,
    "delta_neutrality": _delta_neutrality,
    "gamma_neutrality": _gamma_neutrality,
    "vega_neutrality": _vega_neutrality,
    "position_limit": _position_limit,
    "trade_size": _trade_size,
    "margin_use": _margin_use,
    "drawdown": _drawdown,
    "terminal_exposure": _terminal_exposure,
    "entropic": _entropic,
    "mean_std": _mean_std,
}
_RISKS = frozenset({"tail_loss", "entropic", "mean_std"})
_TERMINAL = frozenset({"tail_loss", "terminal_exposure", "entropic", "mean_std"})  # 0 before the last step
