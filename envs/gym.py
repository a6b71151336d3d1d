"""The tasks as Gymnasium environments: a batch of one."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np

from hedgerl.envs.environment import Environment
from hedgerl.envs.scenario import Scenario
from hedgerl.envs.supply import Supply, configured
from hedgerl.envs.task import Task

Array = Any


class HedgingEnv(gymnasium.Env[Any, Any]):
    """A task as a Gymnasium environment; see its subclasses, which are registered by name.

    `reset(seed=...)` begins a sequence of episodes that depends on the seed alone; later resets go on in it, and
    without any seed the sequence is fresh. `reset(options={"scenario": ...})` plays a given `Scenario` of one path.
    At the end `info` has the episode's "pnl" and "cost" (after and of all trading costs, in currency) and
    "reward_terms", the sums of the terms that the reward weighs.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]
    task_name: ClassVar[str]

    def __init__(self, render_mode: str | None = None, **overrides: Any) -> None:
        if render_mode is not None:
            raise ValueError(f"render_mode must be None, got {render_mode!r}")
        self.render_mode = render_mode
        task, observation, action, reward = configured(self.task_name, overrides)
        self.environment = Environment(task, observation, action, reward)
        self.observation_space = self.environment.observation_space
        self.action_space = self.environment.action_space
        self._supply = Supply(self.environment, 1)
        self._shape = self.action_space.shape

    @property
    def task(self) -> Task:
        """What is hedged, with what, and at which costs."""
        return self.environment.task

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The first observation of the next episode; see the class."""
        super().reset(seed=seed)
        if seed is not None:
            self._supply.seed(seed)
        options = options or {}
        if set(options) - {"scenario"}:
            raise ValueError(f"options may have a scenario and nothing else, got {', '.join(map(str, options))}")
        scenario = options.get("scenario")
        if scenario is None:
            scenario, prepared = self._supply.batch()
            return self._first(self.environment.reset(scenario, prepared=prepared)), {}
        if not isinstance(scenario, Scenario) or scenario.n_paths != 1:
            raise ValueError(f"options['scenario'] must be a Scenario of one path, got {scenario!r:.80}")
        return self._first(self.environment.reset(scenario)), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; see the class. Raises ValueError for an action of the wrong shape or that is not finite."""
        given = np.asarray(action)
        if given.shape != self._shape:
            raise ValueError(f"action must have shape {self._shape}, got {given.shape}")
        observation, reward, done = self.environment.step(given[None])
        return self._first(observation), float(reward[0]), done, False, self._summary() if done else {}

    def _first(self, observation: Any) -> Any:
        if isinstance(observation, dict):
            return {name: np.asarray(values[0]) for name, values in observation.items()}
        return observation[0]

    def _summary(self) -> dict[str, Any]:
        judge, rollout = self.environment.judge, self.environment.rollout
        return {
            "pnl": float((rollout.wealth - judge.opening)[0]),
            "cost": float(rollout.total_cost[0]),
            "reward_terms": {name: float(values[0]) for name, values in judge.sums.items()},
        }


class ShortOptionEnv(HedgingEnv):
    """`hedgerl/ShortOption-v0`: one option is sold at its mark and hedged with the underlying until it expires.

    Observation: Box (11,), float32, dimensionless. S spot, K strike, T length of the episode in years, t now, dt a
    step, tau the option's years left, size the shares that the option is on; Greeks and values are of the short
    position, so that they have the sign that the hedger sees.

    =====  ===================  ===================================================================  =========
    index  name                 formula                                                              range
    =====  ===================  ===================================================================  =========
    0      time_left            (T - t) / T                                                          [0, 1]
    1      step_return          log(S_t / S_(t-1)) / (0.2 sqrt(dt)); 0 at the start                  [-10, 10]
    2      volatility           log(sigma_t / 0.2), sigma of the spot now per sqrt(year)             [-10, 10]
    3      liability_moneyness  log(S / K) / (0.2 sqrt(tau)), tau at least dt                        [-10, 10]
    4      liability_value      value / (size S 0.2 sqrt(T))                                         [-10, 10]
    5      liability_delta      delta / size                                                         [-10, 10]
    6      liability_gamma      gamma S 0.2 sqrt(dt) / size: change of delta in a usual step         [-10, 10]
    7      liability_vega       vega / (size S sqrt(T))                                              [-10, 10]
    8      holdings             shares held / size                                                   [-10, 10]
    9      net_delta            (delta of the option + shares held) / size                           [-10, 10]
    10     pnl                  P&L so far / (size S_0 0.2 sqrt(T))                                  [-10, 10]
    =====  ===================  ===================================================================  =========

    Values are clipped to the range. `hedge_options` add more: after index 7 come, for every option, hedge_time_left,
    hedge_moneyness, hedge_delta, hedge_gamma and hedge_vega (see `FEATURES`), and `cost`, 1,000 x linear cost of a
    share / S, for every instrument; holdings are of every instrument; net_gamma and net_vega follow net_delta. Other
    observations: `observation=` names of `FEATURES`, or `Raw` arrays.

    Action: "target", Box(-1, 1, (k,)): shares to hold of each instrument, over 1.5 size. Alternatives, by `action=`:
    "coverage", Box(-2, 2, (1,)): shares of the underlying over minus the option's delta; "trade", Box(-1, 1, (k,)):
    shares to trade, over size / 4 or the limit of the task; "discrete" and "holdings": see `Action`.

    Reward: -w |P&L_t + cost_t| / M - lam cost_t / M, M a millionth of size x S_0; w = 0.001, lam = 0.0001. P&L_t is the
    change of wealth (cash and all positions at mid) over the step, cost_t what trading cost. Other losses, and twelve
    further terms: see `Reward`.

    Order of events in a step: the action becomes a target, which limits may cut; the difference is traded at the quotes
    that have been observed, and paid; the market moves; cash earns interest, dividends and borrow are paid; at the last
    step the option settles at its payoff and the hedge is unwound at a cost; the reward is computed; the new state is
    observed. The sale of the option itself is free of cost.

    Termination: after n_steps steps, at the option's expiry. Episodes are never truncated.

    >>> import gymnasium
    >>> from hedgerl.sim import BlackScholes
    >>> env = gymnasium.make("hedgerl/ShortOption-v0", market=BlackScholes(volatility=0.2), action="coverage")
    >>> observation, info = env.reset(seed=7)
    >>> observation.shape, [round(float(x), 2) for x in observation[[0, 3, 5]]]
    ((11,), [1.0, 0.0, -0.51])
    >>> terminated = False
    >>> while not terminated:
    ...     observation, reward, terminated, truncated, info = env.step([1.0])  # delta hedging
    >>> sorted(info), round(info["pnl"], 2)
    (['cost', 'pnl', 'reward_terms'], ...)
    """

    task_name = "ShortOption"


class SpyOverlayEnv(HedgingEnv):
    """`hedgerl/SpyOverlay-v0`: 10,000 shares are held for a year and hedged with a call and a put, rolled monthly.

    Observation: Box (13,), float32, dimensionless. S spot, K strike, T length of the episode in years, t now, dt a
    step, tau years left of an option, size the shares. Values are clipped to the range.

    =====  ======================  ================================================================  =========
    index  name                    formula                                                           range
    =====  ======================  ================================================================  =========
    0      time_left               (T - t) / T                                                       [0, 1]
    1      roll_time_left          years left of the option next to expire / its tenor               [0, 1]
    2      step_return             log(S_t / S_(t-1)) / (0.2 sqrt(dt)); 0 at the start               [-10, 10]
    3      volatility              log(sigma_t / 0.2), sigma of the spot now per sqrt(year)          [-10, 10]
    4, 5   hedge_moneyness         log(S / K) / (0.2 sqrt(tau)) of call and put, tau at least dt     [-10, 10]
    6, 7   hedge_delta             delta of a share of call and put                                  [-10, 10]
    8, 9   holdings                calls and puts held, in shares / size                             [-10, 10]
    10     net_delta               delta of shares and options / size                                [-10, 10]
    11     net_vega                vega of the options / (size S sqrt(T))                            [-10, 10]
    12     pnl                     P&L so far / (size S_0 0.2 sqrt(T))                               [-10, 10]
    =====  ======================  ================================================================  =========

    Action: "trade", Box(-1, 1, (2,)): calls and puts to trade, in hundreds of contracts of 100 shares (the limit of a
    step); holdings are clipped at 200 contracts. With action="discrete", Discrete(6): 0 buy, 1 sell, 2 hold calls, 3
    buy, 4 sell, 5 hold puts, 100 contracts at a time (`Action("discrete", scale=...)` changes the lot). "target" and
    "holdings": see `Action`.

    Reward: -w |P&L_t + cost_t| / M - lam cost_t / M, M a millionth of the shares' first value (1
    where the spot starts at 100); w = 0.001, lam = 0.0001. loss "mse" and "cvar", and further terms: see `Reward`.

    Order of events in a step: the action becomes a target, which limits may cut; the difference is traded at the marks
    that have been observed, at USD 0.65 a contract; the market moves; cash earns interest and the shares their
    dividend; options that expire settle in cash, and new ones, at the money, take their place; at the last step options
    are sold; the reward is computed; the new state is observed.

    Termination: after n_steps steps. Episodes are never truncated.

    >>> import gymnasium
    >>> from hedgerl.sim import BlackScholes
    >>> month = {"n_steps": 21, "maturity": 21 / 252}
    >>> env = gymnasium.make("hedgerl/SpyOverlay-v0", market=BlackScholes(volatility=0.2), **month)
    >>> observation, info = env.reset(seed=7)
    >>> observation.shape, env.action_space
    ((13,), Box(-1.0, 1.0, (2,), float32))
    >>> observation, *_ = env.step([-0.25, 0.25])  # 25 calls sold, 25 puts bought
    >>> [round(float(x), 2) for x in observation[8:10]]
    [-0.25, 0.25]
    """

    task_name = "SpyOverlay"


class OptionBookEnv(HedgingEnv):
    """`hedgerl/OptionBook-v0`: a market maker's book of options, hedged with the underlying and one or more options.

    Clients come by a Poisson process and buy or sell an option at its mark; a portfolio may be given at the start.

    Observation: Box (11 + 5 c + 2 k,), float32, dimensionless: (20,) with one hedge option (c = 1) and k = c + 1
    instruments. S spot, K strike, T length of the episode in years, t now, dt a step, tau years left of an option, size
    the shares that the task says the book stands for. Values are clipped to [-10, 10] but where said.

    ==================  ================  ====================================================================
    index with c = 1    name              formula
    ==================  ================  ====================================================================
    0                   time_left         (T - t) / T, in [0, 1]
    1                   step_return       log(S_t / S_(t-1)) / (0.2 sqrt(dt)); 0 at the start
    2                   volatility        log(sigma_t / 0.2), sigma of the spot now per sqrt(year)
    3                   liability_delta   delta of all liabilities / size
    4                   liability_gamma   their gamma S 0.2 sqrt(dt) / size
    5                   liability_vega    their vega / (size S sqrt(T))
    6                   liability_theta   their theta T / (size S 0.2 sqrt(T))
    7                   hedge_time_left   by option: tau / tenor, in [0, 1]
    8                   hedge_moneyness   by option: log(S / K) / (0.2 sqrt(tau)), tau at least dt
    9                   hedge_delta       by option: delta of a share
    10                  hedge_gamma       by option: gamma S 0.2 sqrt(dt)
    11                  hedge_vega        by option: vega / (S sqrt(T))
    12, 13              cost              by instrument: 1,000 x linear cost of a share / S
    14, 15              holdings          by instrument: shares held / size
    16                  net_delta         delta of liabilities and holdings / size
    17                  net_gamma         their gamma S 0.2 sqrt(dt) / size
    18                  net_vega          their vega / (size S sqrt(T))
    19                  pnl               P&L so far / (size S_0 0.2 sqrt(T))
    ==================  ================  ====================================================================

    Action: "target", Box(-1, 1, (k,)): shares to hold of each instrument, over 1.5 size. Alternatives, by `action=`:
    "trade", "coverage", "discrete" and "holdings": see `Action`.

    Reward: -w |P&L_t + cost_t| / M - lam cost_t / M, M a millionth of size x S_0; w = 0.001, lam = 0.0001. See
    `Reward` for others.

    Order of events in a step: the action becomes a target, which limits may cut; the difference is traded at the quotes
    that have been observed, and paid; the market moves; cash earns interest; options settle or are rolled at a cost;
    new clients trade at the new marks; at the last step the book is closed at its marks and hedges are unwound at a
    cost; the reward is computed; the new state is observed.

    Termination: after n_steps steps. Episodes are never truncated.

    >>> import gymnasium
    >>> from hedgerl.sim import BlackScholes
    >>> week = {"n_steps": 5, "maturity": 5 / 252}
    >>> env = gymnasium.make("hedgerl/OptionBook-v0", market=BlackScholes(volatility=0.2), **week)
    >>> observation, info = env.reset(seed=7)
    >>> observation.shape, env.action_space
    ((20,), Box(-1.0, 1.0, (2,), float32))
    """

    task_name = "OptionBook"


ENVIRONMENTS: dict[str, type[HedgingEnv]] = {
    f"hedgerl/{each.task_name}-v0": each for each in (ShortOptionEnv, SpyOverlayEnv, OptionBookEnv)
}


def register() -> None:
    """Makes `gymnasium.make` know the tasks."""
    for name, each in ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(id=name, entry_point=f"hedgerl.envs.gym:{each.__name__}")
