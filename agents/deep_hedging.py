"""Deep hedging: a network trained by the gradient of P&L or of the reward through the environment's own books."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hedgerl.agents.captured import CapturedGradients
from hedgerl.agents.hedge_network import HedgeNetwork
from hedgerl.agents.objectives import Criterion, RewardCriterion
from hedgerl.envs.action import Converter
from hedgerl.envs.graphs import Graphs, graphs_for
from hedgerl.envs.observation import Flat, Prepared
from hedgerl.envs.reward import Judge, Moments, Reward
from hedgerl.envs.scenario import Scenario
from hedgerl.envs.task import Task
from hedgerl.envs.transition import Rollout
from hedgerl.pricing._checks import in_interval, positive, whole_number
from hedgerl.sim.backend import to_torch
from hedgerl.sim.noise import drawn_seed, entropy, seed_sequence

Callback = Callable[["DeepHedging"], bool | None]


@dataclass(frozen=True)
class Pool:
    """Paths that are on the device, with what can be observed of them."""

    scenario: Scenario
    prepared: Prepared

    def part(self, first: int, stop: int) -> Pool:
        return Pool(self.scenario.part(first, stop), self.prepared.part(first, stop))


class Found(NamedTuple):
    """What an update has found, its gradients aside."""

    loss: Tensor  # ()
    norm: Tensor  # (), of the gradient before it was clipped
    pnl: Tensor  # (n,), what the criterion was given first
    checked: Converter  # still to be asked whether all actions were finite


class DeepHedging:
    """Trains a hedge network on the P&L of whole episodes (Buehler, Gonon, Teichmann & Wood 2019).

    The task's scenario is simulated as for everyone, mapped to torch, and `Rollout` carries the gradient of terminal
    P&L, after all costs and unwinding, back to every trade of the network; the objective is minimised with Adam, its
    rate falling along half a cosine to a hundredth. Whole contracts cannot be learned by gradients: where the task
    rounds, training does not.

    Each pool of `pool_batches` x `batch_paths` fresh paths is gone through `epochs` times, its batches in a random
    order, and then replaced. Validation paths of their own choose the best weights, which `policy` has; numbers for
    reports belong to other paths again (`hedgerl.evaluate`).

    Parameters
    ----------
    task : what is hedged.
    network : a `HedgeNetwork`, or arguments of `HedgeNetwork.for_task`; None: its defaults.
    objective : a name or a `Criterion` of terminal P&L; parameter: of the named one, see `Criterion`. Or a `Reward`, of
        which minus the mean of an episode is minimised, see `RewardCriterion`: any of its terms, of each step, too.
    learning_rate : at the start, for batches of `batch_paths`.
    horizon : iterations over which the rate falls; None: those of the first `learn`.
    seed : of the weights, paths and orders; None draws one. The same seed gives the same weights, bit by bit, on the
        same CPU and number of threads, also when interrupted, saved with `state_dict` and continued.
    validation_paths, validate_every : every so many iterations, and at the horizon.
    clip : largest norm of the gradient, of an objective in units of the first batch's deviation, or of its terms.
    capture : whether an update's way from the paths to the gradients is captured as a CUDA graph, which keeps the
        memory of one update, and replayed; None: on a CUDA device. Where it cannot be, a RuntimeWarning says why, once.

    After each iteration `callback(learner)` sees `iteration`, `loss` and `validation` (the last one, or None), and ends
    the training by returning False. Raises FloatingPointError where the objective is no number, naming the iteration;
    weights are as before it.

    >>> from hedgerl.envs import ShortOption
    >>> from hedgerl.sim import BlackScholes
    >>> learner = DeepHedging(ShortOption(market=BlackScholes(volatility=0.2)), batch_paths=256, seed=1)
    >>> learner.learn(2).iteration
    2
    """

    def __init__(
        self,
        task: Task,
        network: HedgeNetwork | Mapping[str, Any] | None = None,
        objective: str | Criterion | Reward | RewardCriterion = "mean_std",
        *,
        parameter: float | None = None,
        learning_rate: float = 5e-3,
        batch_paths: int = 8192,
        pool_batches: int = 4,
        epochs: int = 2,
        validation_paths: int = 16_384,
        validate_every: int = 50,
        horizon: int | None = None,
        clip: float = 10.0,
        seed: int | None = None,
        device: str = "cpu",
        capture: bool | Graphs | None = None,
    ) -> None:
        self.task = task
        self.learning_rate = positive("learning_rate", learning_rate)
        self.batch_paths = whole_number("batch_paths", batch_paths, minimum=2)
        self.pool_batches = whole_number("pool_batches", pool_batches)
        self.epochs = whole_number("epochs", epochs)
        self.validation_paths = whole_number("validation_paths", validation_paths, minimum=2)
        self.validate_every = whole_number("validate_every", validate_every)
        self.horizon = horizon if horizon is None else whole_number("horizon", horizon)
        self.clip = positive("clip", clip)
        self.seed = entropy(seed)
        self.device = torch.device(device)
        self.criterion = _criterion(objective, parameter)
        for risk in self.criterion.modules():
            if isinstance(risk, Criterion) and risk.name == "cvar":
                tail = (1.0 - in_interval("parameter", risk.parameter, 0.0, 1.0)) * self.batch_paths
                if tail < 1.0:
                    raise ValueError(f"batch_paths must leave a path in the tail beyond the level, got {batch_paths}")
        if isinstance(network, HedgeNetwork):
            self.network = network
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._drawn("weights", 0) % 2**63)
                self.network = HedgeNetwork.for_task(task, **(network or {}))
        self.network.to(self.device)
        self.criterion.to(self.device)
        limits = task.execution.limits
        self._execution = (
            dataclasses.replace(task.execution, limits=dataclasses.replace(limits, whole=False))
            if limits.whole
            else task.execution
        )
        self.optimiser = torch.optim.Adam(
            [*self.network.parameters(), *self.criterion.parameters()], lr=self.learning_rate, fused=True
        )
        graphs = graphs_for(self.device, capture)
        weights = self.optimiser.param_groups[0]["params"]
        self.captured = None if graphs is None else CapturedGradients(weights, graphs)
        self.iteration = 0
        self.loss: float | None = None  # of the last batch
        self.validation: float | None = None
        self.best: float | None = None  # on the validation paths
        self.best_iteration = 0
        self._best_weights = copy.deepcopy(self.network.state_dict())
        self._started = False
        self._pool: tuple[int, Pool] | None = None
        self._kept: Pool | None = None  # validation paths
        self._sent: dict[Any, Any] = {}  # small arrays on the device, see `Scenario.sent`

    @property
    def policy(self) -> HedgeNetwork:
        """The network with the weights that were best on the validation paths; the latest, before any validation."""
        best = copy.deepcopy(self.network)
        if self.best is not None:
            best.load_state_dict(self._best_weights)
        return best.eval().requires_grad_(False)

    def learn(self, iterations: int, callback: Callback | None = None) -> DeepHedging:
        """So many updates, each on a batch of its own."""
        whole_number("iterations", iterations)
        if self.horizon is None:
            self.horizon = self.iteration + iterations
        last = self.iteration + iterations
        if not self._started:
            self._start()
        while self.iteration < last:
            self._update()
            # an end before the horizon may be an interruption, which must leave no trace
            if self.iteration % self.validate_every == 0 or self.iteration == max(last, self.horizon):
                self._validate()
            if callback is not None and callback(self) is False:
                break
        return self

    def rate(self, iteration: int) -> float:
        """The learning rate of an iteration: half a cosine from `learning_rate` to a hundredth of it."""
        done = min(iteration / (self.horizon or 1), 1.0)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done)))

    def pnl(self, paths: Scenario | Pool, network: HedgeNetwork | None = None) -> Tensor:
        """P&L (n,) of the network on a scenario, after all costs, with gradients to the weights."""
        gained, _, checked = self._played(paths, network, None)
        checked.settle()
        return gained

    def outcome(self, paths: Scenario | Pool, network: HedgeNetwork | None = None) -> tuple[Tensor, ...]:
        """What the criterion is given: the P&L (n,), or that in the reward's money and `Judge.linear` (n,)."""
        found, checked = self._outcome(paths, network)
        checked.settle()
        return found

    def _outcome(
        self, paths: Scenario | Pool, network: HedgeNetwork | None = None
    ) -> tuple[tuple[Tensor, ...], Converter]:
        """The same, and what is still to be asked whether the actions were finite."""
        if isinstance(self.criterion, Criterion):
            gained, _, checked = self._played(paths, network, None)
            return (gained,), checked
        _, judge, checked = self._played(paths, network, self.criterion.reward)
        assert judge is not None
        return (-judge.losses(), judge.linear()), checked

    def _played(
        self, paths: Scenario | Pool, network: HedgeNetwork | None, reward: Reward | None
    ) -> tuple[Tensor, Judge | None, Converter]:
        """P&L (n,) of the network's episodes, who judged them where there is a reward, and who read their actions."""
        own = paths if isinstance(paths, Pool) else self._mapped(paths)
        policy = self.network if network is None else network
        # a device is asked once an episode whether all actions were finite, and a graph never
        late = self.device.type != "cpu" or self.captured is not None
        checked = policy.interface.action.converter(own.scenario, late=late)
        convert = policy.interface.action.bind(own.scenario, self.task, checked)
        rollout = Rollout(own.scenario, self._execution)
        judge = None if reward is None else Judge(reward, self.task, rollout, Moments(), learn=False)
        start = rollout.wealth
        state = policy.initial_state(own.scenario.n_paths)
        while not rollout.done:
            action, *after = policy(own.prepared.at(rollout), *state)
            state = tuple(after)
            target = convert(action, rollout)
            gained = rollout.act(target)
            if judge is not None:
                judge.reward(target, gained)
        return rollout.wealth - start, judge, checked

    def _update(self) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(self.iteration)
        batch, money = self._batch(self.iteration), self.criterion.money
        if self.captured is None:
            found = self._gradients(batch, money)
        else:
            found = self.captured(self._gradients, batch, money)
        found.checked.settle()
        loss, norm = torch.stack([found.loss, found.norm.to(found.loss.dtype)]).tolist()
        self.loss = loss
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(
                f"iteration {self.iteration + 1}: the objective is {loss!r}, its gradient {norm!r}; "
                "a smaller learning_rate may help. The weights are those of the iteration before"
            )
        self.optimiser.step()
        if isinstance(self.criterion, RewardCriterion):
            self.criterion.follow(found.pnl)
        self.iteration += 1

    def _gradients(self, batch: Pool, money: float) -> Found:
        """Leaves the clipped gradients of an update at the weights; money: the criterion's."""
        self.optimiser.zero_grad(set_to_none=True)
        outcome, checked = self._outcome(batch)
        loss = self.criterion(*outcome)
        (loss / money).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.optimiser.param_groups[0]["params"], self.clip)
        return Found(loss.detach(), norm, outcome[0].detach(), checked)

    def _start(self) -> None:
        """Statistics of the features and the unit of P&L, from the first batch."""
        first = self._batch(0)
        self._normalise(first)
        with torch.no_grad():
            self.criterion.start(*self.outcome(first))
        self._best_weights = copy.deepcopy(self.network.state_dict())
        self._started = True

    def _normalise(self, batch: Pool) -> None:
        """Mean and deviation of the inputs over all steps, with the fresh network at the helm."""
        seen = []
        convert = self.network.interface.action.bind(batch.scenario, self.task)
        rollout = Rollout(batch.scenario, self._execution)
        state = self.network.initial_state(batch.scenario.n_paths)
        with torch.no_grad():
            while not rollout.done:
                observation = batch.prepared.at(rollout)
                seen.append(self.network.chosen(observation).double())
                action, *after = self.network(observation, *state)
                state = tuple(after)
                rollout.act(convert(action, rollout))
            every = torch.stack(seen).flatten(0, 1)
            deviation = every.std(0, correction=0)
            self.network.normaliser.mean.copy_(every.mean(0))
            self.network.normaliser.scale.copy_(torch.where(deviation > 1e-3, deviation, torch.ones_like(deviation)))

    def _validate(self) -> None:
        if self._kept is None:
            self._kept = self._mapped(self.task.scenario(self.validation_paths, self._drawn("validation", 0)))
        with torch.no_grad():
            self.validation = self.criterion.measure(*(each.cpu().numpy() for each in self.outcome(self._kept)))
        if self.best is None or self.validation < self.best:
            self.best, self.best_iteration = self.validation, self.iteration
            self._best_weights = copy.deepcopy(self.network.state_dict())

    def _batch(self, iteration: int) -> Pool:
        """The paths of an iteration: a function of the seed and its number."""
        pool, place = divmod(iteration, self.pool_batches * self.epochs)
        epoch, position = divmod(place, self.pool_batches)
        if self._pool is None or self._pool[0] != pool:
            self._pool = None  # frees its memory before the next is made
            drawn = self._drawn("paths", pool)
            self._pool = pool, self._mapped(self.task.scenario(self.pool_batches * self.batch_paths, drawn))
        rng = np.random.Generator(np.random.PCG64(self._drawn("order", pool * self.epochs + epoch)))
        first = int(rng.permutation(self.pool_batches)[position]) * self.batch_paths
        return self._pool[1].part(first, first + self.batch_paths)

    def _mapped(self, scenario: Scenario) -> Pool:
        device = self.device  # the scenario keeps what changes it, which must not keep the learner
        own = scenario.mapped(lambda array: to_torch(array, device))
        own.known(self._sent)
        observation: Flat = self.network.interface.observation
        return Pool(own, observation.prepare(own, self.task))

    def _drawn(self, name: str, index: int) -> int:
        return drawn_seed(seed_sequence(self.seed, f"deep hedging {name}", index))

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to continue bit by bit: weights, moments, counters, tensors and
        plain values."""
        return copy.deepcopy(
            {
                "network": self.network.state_dict(),
                "criterion": self.criterion.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "best_weights": self._best_weights,
                "progress": {
                    name: getattr(self, name)
                    for name in (
                        "seed",
                        "iteration",
                        "horizon",
                        "loss",
                        "validation",
                        "best",
                        "best_iteration",
                        "_started",
                        "batch_paths",
                        "pool_batches",
                        "epochs",
                        "learning_rate",
                    )
                },
            }
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken, of a learner made with the same arguments.

        Raises ValueError where the batches or the learning rate are others, and RuntimeError where weights do not fit.
        """
        progress = dict(state["progress"])
        for name in ("batch_paths", "pool_batches", "epochs", "learning_rate"):
            if progress[name] != getattr(self, name):
                raise ValueError(
                    f"{name} must be that of the saved run, {progress[name]!r}, got {getattr(self, name)!r}"
                )
        self.network.load_state_dict(state["network"])
        self.criterion.load_state_dict(state["criterion"])
        self.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))  # it would go on in the very same tensors
        self._best_weights = copy.deepcopy(dict(state["best_weights"]))
        for name, value in progress.items():
            setattr(self, name, value)
        self._pool = self._kept = None
        if self.captured is not None:
            self.captured.forget()


def _criterion(objective: Any, parameter: float | None) -> Criterion | RewardCriterion:
    if isinstance(objective, Criterion | RewardCriterion):
        return objective
    return RewardCriterion(objective) if isinstance(objective, Reward) else Criterion(objective, parameter)
