"""The batched environment: a task seen through an observation, acted on through an action, judged by a reward."""

from __future__ import annotations

from typing import Any

from array_api_compat import device, is_torch_array
from gymnasium import spaces

from hedgerl.envs.action import Action, Converter
from hedgerl.envs.observation import Flat, Prepared, Raw, observed_as
from hedgerl.envs.reward import Judge, Moments, Reward
from hedgerl.envs.scenario import Scenario
from hedgerl.envs.task import Task
from hedgerl.envs.transition import Record, Rollout

Array = Any
ObservationLike = Flat | Raw | tuple[str, ...] | str | None
ActionLike = Action | str | None
RewardLike = Reward | None


class Environment:
    """A batch of episodes of one task, all on the same step. The arrays are of the scenario's library.

    The order of events in a step: the action is turned into a target for the holdings, which the limits may cut; the
    difference is traded at the quotes of step t and paid; the market moves to t + 1; interest, dividends, margin and
    borrow costs are paid; options expire and are rolled, liabilities settle, new ones bring their premium; the reward
    is computed; step t + 1 is observed. After the last of the `n_steps` steps the hedges have been unwound.

    Parameters
    ----------
    observation : names of features for a flat float32 array (n, d), `Flat` or `Raw` (a mapping of named arrays); None:
        the task's own. A tuple that begins with "raw" is `Raw` of the other names.
    action : `Action`, or the name of one; None: the task's own.
    reward : None: the default `Reward`.
    num_envs : episodes in a batch; None: as many as a scenario has.
    record : whether everything is kept for `result`, with all terms of the reward.
    learn : whether the reward's running moments follow the episodes.

    >>> from hedgerl.envs import ShortOption
    >>> from hedgerl.sim import BlackScholes
    >>> task = ShortOption(market=BlackScholes(volatility=0.2))
    >>> environment = Environment(task, Raw(("liability_delta",)), "holdings", record=True)
    >>> seen, done = environment.reset(task.scenario(1000, seed=1)), False
    >>> while not done:
    ...     seen, reward, done = environment.step(-seen["liability_delta"][:, None])
    >>> round(float(environment.result().pnl.std()), 1)
    0.4
    """

    def __init__(
        self,
        task: Task,
        observation: ObservationLike = None,
        action: ActionLike = None,
        reward: RewardLike = None,
        num_envs: int | None = None,
        *,
        record: bool = False,
        learn: bool = True,
    ) -> None:
        self.task = task
        self.observation = observed_as(observation, task)
        self.action = Action.of(action, task)
        self.reward = Reward() if reward is None else reward
        self.num_envs = num_envs
        self.record = record
        self.learn = learn
        self.moments = Moments()
        self.observation_space: spaces.Space[Any] = self.observation.space(task)
        self.action_space: spaces.Space[Any] = self.action.space(task)
        self._rollout: Rollout | None = None
        self._prepared: Prepared | None = None
        self._judge: Judge | None = None
        self._convert: Converter | None = None
        self._n_steps = 0

    @property
    def rollout(self) -> Rollout:
        """The hedgers on their way."""
        if self._rollout is None:
            raise ValueError("an environment must be reset before it is used")
        return self._rollout

    @property
    def scenario(self) -> Scenario:
        """What the batch goes through."""
        return self.rollout.scenario

    @property
    def judge(self) -> Judge:
        """What has been rewarded in these episodes."""
        if self._judge is None:
            raise ValueError("an environment must be reset before it is used")
        return self._judge

    def prepare(self, scenario: Scenario) -> Prepared:
        """What can be observed of a scenario whatever is held, for `reset`: once for many batches."""
        return self.observation.prepare(scenario, self.task)

    def reset(
        self,
        scenario: Scenario | None = None,
        *,
        seed: int | None = None,
        prepared: Prepared | None = None,
        late: bool | None = None,
    ) -> Any:
        """The first observation of a batch of episodes; without a scenario the task draws one from `seed`.

        late: whether NaN in an action is told at the end of the episodes, so that no step waits for a device; None:
        where the scenario lies on one, in torch.
        """
        if scenario is None:
            scenario = self.task.scenario(1 if self.num_envs is None else self.num_envs, seed)
        if self.num_envs is not None and scenario.n_paths != self.num_envs:
            raise ValueError(f"scenario must have num_envs = {self.num_envs} paths, got {scenario.n_paths}")
        self._prepared = self.prepare(scenario) if prepared is None else prepared
        rollout = self._rollout = Rollout(scenario, self.task.execution, record=self.record)
        self._n_steps = scenario.n_steps
        away = bool(is_torch_array(scenario.spot)) and device(scenario.spot).type != "cpu"
        self._convert = self.action.converter(scenario, late=away if late is None else late)
        self._target = self.action.bind(scenario, self.task, self._convert)
        self._judge = Judge(self.reward, self.task, rollout, self.moments, record=self.record, learn=self.learn)
        return self._prepared.at(rollout)

    def step(self, action: Array) -> tuple[Any, Array, bool]:
        """Trades, moves on, and returns (observation, reward (n,), whether the episodes have ended).

        Raises ValueError for an action of the wrong shape or with NaN or infinity (see `reset`, late), and after the
        end.
        """
        rollout, judge, convert = self._rollout, self._judge, self._convert
        if (
            rollout is None
            or judge is None
            or convert is None
            or self._prepared is None
            or rollout.step == self._n_steps
        ):
            raise ValueError("an environment must be reset before its first step and after its last")
        target = self._target(action, rollout)
        if rollout.step == self._n_steps - 1:
            convert.settle()  # before the reward's moments learn from it
        reward = judge.reward(target, rollout.act(target))
        done = rollout.step == self._n_steps
        return self._prepared.at(rollout), reward, done

    def result(self) -> Record:
        """Everything that happened in the episodes that have ended; `record` must have been asked for."""
        return self.rollout.result(**self.judge.history())
