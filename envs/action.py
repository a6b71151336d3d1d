"""What an action means: it is turned into the holdings that are asked for, in shares."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace, device
from gymnasium import spaces

from hedgerl.envs.observation import curvature
from hedgerl.envs.scenario import Scenario
from hedgerl.envs.task import SpyOverlay, Task
from hedgerl.envs.transition import Rollout
from hedgerl.execution.costs import clip, total
from hedgerl.pricing._checks import positive

Array = Any
Target = Callable[[Array, Rollout], Array]

_DAMPING = 1e-6  # of squared Greeks
KINDS = ("target", "coverage", "trade", "band", "discrete", "holdings")


@dataclass(frozen=True)
class Action:
    """How actions are read; k instruments, in the order of `Task.instruments`.

    ========  ======================  ==============================================================================
    kind      space of one action     target holdings in shares
    ========  ======================  ==============================================================================
    target    Box(-1, 1, (k,))        a x scale
    coverage  Box(-2, 2, (1,))        underlying: a x minus the liabilities' delta; options: 0
    trade     Box(-1, 1, (k,))        holdings + a x scale
    band      Box(-1, 1, (2 k,))      holdings, moved into [centre - width, centre + width] where they are outside;
                                      centre = base + a_i x scale, width = (1 + a_(k + i)) / 2 x scale for i < k
    discrete  Discrete(3 k)           instrument a // 3: holdings + scale, - scale or as they are for a % 3 = 0, 1, 2
    holdings  Box(-inf, inf, (k,))    a
    ========  ======================  ==============================================================================

    The base of a band is 0 for options, and for the underlying minus the delta of the liabilities and of the options as
    they will be held; where the underlying is not traded, what is held and its `neutral_change`. An action of 0 is a
    band around the model's hedge, and one that stays the same a hedge that trades only at its band's edges, so that no
    noise or error of a network's is paid for within it.

    An action beyond a bounded space is clipped to it. What the limits of the task cut is cut after that.

    scale: shares of the underlying, contracts of options, one number or one for each instrument; None: for "target" 1.5
    times the task's size (1.5 times the size in shares for options, too), for "band" half of it, and twice it for
    options beside the underlying, for "trade" and "discrete" the most that the limits let be traded in a step, or a
    quarter of the task's size where there is none.
    """

    kind: str = "target"
    scale: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"action must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if isinstance(self.scale, Sequence):
            object.__setattr__(self, "scale", tuple(positive("scale", each) for each in self.scale))
        elif self.scale is not None:
            positive("scale", self.scale)

    @classmethod
    def of(cls, action: Action | str | None, task: Task) -> Action:
        """The action that is meant; None: the task's own."""
        if isinstance(action, cls):
            return action
        if action is None:
            return cls("trade" if isinstance(task, SpyOverlay) else "target")
        if not isinstance(action, str):
            raise ValueError(f"action must be one of {', '.join(KINDS)}, or an Action, got {action!r}")
        return cls(action)

    def space(self, task: Task) -> spaces.Space[Any]:
        """The space of one environment's actions."""
        k = len(task.instruments)
        if self.kind == "discrete":
            return spaces.Discrete(3 * k)
        if self.kind == "coverage":
            if task.instruments[:1] != ("underlying",):
                raise ValueError(f"action 'coverage' needs a task that trades the underlying, got {task.name}")
            return spaces.Box(-2.0, 2.0, (1,), np.float32)
        if isinstance(self.scale, tuple) and len(self.scale) != k:
            raise ValueError(f"scale must be one number or one for each of {k} instruments, got {self.scale}")
        if self.kind == "holdings":
            return spaces.Box(-np.inf, np.inf, (k,), np.float64)
        return spaces.Box(-1.0, 1.0, (2 * k if self.kind == "band" else k,), np.float32)

    def converter(self, scenario: Scenario, *, late: bool = False) -> Converter:
        """What checks actions along a scenario; late: whether it waits for `Converter.settle` to name bad numbers."""
        k = len(scenario.instruments)
        if self.kind == "discrete":
            return _Numbers(scenario, (scenario.n_paths,), 3 * k, late)
        columns = {"coverage": 1, "band": 2 * k}.get(self.kind, k)
        return _Reals(scenario, (scenario.n_paths, columns), late)

    def bind(self, scenario: Scenario, task: Task, convert: Converter | None = None) -> Target:
        """What turns actions (n, k) into targets (n, k) along a scenario; convert: None, one that checks at once."""
        k = len(scenario.instruments)
        scale = scenario._array(self._scale(scenario, task))
        if convert is None:
            convert = self.converter(scenario)
        xp = array_namespace(scenario.spot)

        if self.kind == "holdings":
            return lambda action, rollout: convert(action)
        if self.kind == "target":
            return lambda action, rollout: clip(convert(action), -1.0, 1.0) * scale
        if self.kind == "trade":
            return lambda action, rollout: rollout.holdings + clip(convert(action), -1.0, 1.0) * scale
        if self.kind == "coverage":
            owed = -scenario.liability_delta
            padding = scenario._array(np.zeros(k - 1))

            def covered(action: Array, rollout: Rollout) -> Array:
                first = clip(convert(action), -2.0, 2.0) * owed[rollout.step][:, None]
                return first if k == 1 else xp.concat([first, first * padding], axis=1)

            return covered

        if self.kind == "band":

            def into(held: Array, centre: Array, width: Array) -> Array:
                away = held - centre
                return centre + 0.5 * (abs(away + width) - abs(away - width))  # away, clipped to the width

            def read(action: Array) -> tuple[Array, Array]:
                given = clip(convert(action), -1.0, 1.0)
                return given[:, :k] * scale, (0.5 + 0.5 * given[:, k:]) * scale

            if not scenario.trades_underlying:
                unit = curvature(scenario)

                def neutral(action: Array, rollout: Rollout) -> Array:
                    (centre, width), held, step = read(action), rollout.holdings, rollout.step
                    by_delta, by_gamma = scenario.hedges.delta[step], scenario.hedges.gamma[step] * unit[step][:, None]
                    delta = _owed(rollout, "delta") + total(held * by_delta)
                    gamma = _owed(rollout, "gamma") * unit[step] + total(held * by_gamma)
                    return into(held, held + centre + neutral_change(by_delta, by_gamma, delta, gamma), width)

                return neutral

            def banded(action: Array, rollout: Rollout) -> Array:
                (centre, width), held = read(action), rollout.holdings
                options = into(held[:, 1:], centre[:, 1:], width[:, 1:])
                delta = _owed(rollout, "delta")
                if k > 1:
                    delta = delta + total(options * scenario.hedges.delta[rollout.step])
                own = into(held[:, :1], centre[:, :1] - delta[:, None], width[:, :1])
                return own if k == 1 else xp.concat([own, options], axis=1)

            return banded

        moves = np.zeros((3 * k, k))
        for instrument in range(k):
            moves[3 * instrument, instrument], moves[3 * instrument + 1, instrument] = 1.0, -1.0
        steps = scenario._array(moves * self._scale(scenario, task))
        return lambda action, rollout: rollout.holdings + xp.take(steps, convert(action), axis=0)

    def _scale(self, scenario: Scenario, task: Task) -> np.ndarray:
        """Shares that an action of one stands for, (k,)."""
        multiplier = scenario.multiplier
        if self.scale is not None:
            return np.asarray(self.scale, dtype=np.float64) * multiplier
        if self.kind == "target":
            return 1.5 * task.size * np.ones_like(multiplier)
        if self.kind == "band":
            beside = scenario.trades_underlying * (np.arange(multiplier.size) > 0)
            return np.where(beside, 2.0, 0.5) * task.size
        most = task.execution.limits.trade
        return 0.25 * task.size * np.ones_like(multiplier) if most is None else most * multiplier


def neutral_change(delta: Array, gamma: Array, net_delta: Array, net_gamma: Array) -> Array:
    """The least change of option holdings (n, k) that makes a book neutral in delta and gamma, in the least squares
    sense where options have little of either.

    delta, gamma (n, k) of a share of each option, gammas times `curvature`; net_delta, net_gamma (n,) of the book with
    what is held. A call and a put of one strike become a synthetic forward, and stay so.
    """
    dd, gg, dg = total(delta * delta) + _DAMPING, total(gamma * gamma) + _DAMPING, total(delta * gamma)
    determinant = dd * gg - dg * dg  # -A' (A A' + damping)^-1 (net delta, net gamma), A the two rows of Greeks
    by_delta = (dg * net_gamma - gg * net_delta) / determinant
    by_gamma = (dg * net_delta - dd * net_gamma) / determinant
    return delta * by_delta[:, None] + gamma * by_gamma[:, None]


def _owed(rollout: Rollout, name: str) -> Array:
    """A Greek of what can no longer be chosen: the liabilities and the contracts that were kept, (n,)."""
    greek = getattr(rollout.scenario, f"liability_{name}")[rollout.step]
    kept = rollout.kept_greek(name)
    return greek if kept is None else greek + kept


class Converter(ABC):
    """Checks an action and brings it to the paths' library, as float64 or whole numbers.

    Whether numbers on a device are good is known when the device has got so far. With `late` nothing waits for it at a
    step: `settle`, at the end of an episode, raises what a step did not.
    """

    kind: ClassVar[str]  # of its numbers, as the array API names them

    def __init__(self, scenario: Scenario, shape: tuple[int, ...], late: bool) -> None:
        spot = scenario.spot
        self.shape = shape
        self.late = late
        self._xp, self._where = array_namespace(spot), device(spot)
        self._library, self._float64 = type(spot), spot.dtype

    @abstractmethod
    def __call__(self, action: Array) -> Array:
        """The action, checked. Raises ValueError for another shape, and where not late for bad numbers."""

    @abstractmethod
    def settle(self) -> None:
        """Raises ValueError where bad numbers have been met since the last time; waits for the device."""

    def takes(self, action: Array) -> bool:
        """Whether an array of the paths' library has the right shape and kind of numbers, whatever they are."""
        return tuple(action.shape) == self.shape and bool(self._xp.isdtype(action.dtype, self.kind))

    def _shaped(self, action: Array) -> Array:
        if action.shape != self.shape:
            raise ValueError(f"action must have shape {self.shape}, got {tuple(action.shape)}")
        return action


class _Numbers(Converter):
    """Whole numbers from 0 to most - 1."""

    kind = "integral"

    def __init__(self, scenario: Scenario, shape: tuple[int, ...], most: int, late: bool) -> None:
        super().__init__(scenario, shape, late)
        self._most = most
        self._good: Array = None  # of all actions since `settle`, 0-dimensional

    def __call__(self, action: Array) -> Array:
        xp = self._xp
        given = self._shaped(
            action if isinstance(action, self._library) else xp.asarray(np.asarray(action), device=self._where)
        )
        whole = xp.isdtype(given.dtype, self.kind)
        good = xp.all((given >= 0) & (given < self._most)) if whole else False
        if whole and self.late:
            self._good = good if self._good is None else self._good & good
            return xp.clip(given, 0, self._most - 1)  # a place that is not there would end the device's program
        if not bool(good):
            raise ValueError(f"action must be whole numbers from 0 to {self._most - 1}, got {action!r}")
        return given

    def settle(self) -> None:
        good, self._good = self._good, None
        if good is not None and not bool(good):
            raise ValueError(f"action must be whole numbers from 0 to {self._most - 1}, got others in this episode")


class _Reals(Converter):
    """Finite numbers."""

    kind = "real floating"

    def __init__(self, scenario: Scenario, shape: tuple[int, ...], late: bool) -> None:
        super().__init__(scenario, shape, late)
        self._trace: Array = None  # 0, where all actions since `settle` were finite

    def __call__(self, action: Array) -> Array:
        xp = self._xp
        if not isinstance(action, self._library):
            try:
                action = xp.asarray(np.asarray(action, dtype=np.float64), device=self._where)
            except (TypeError, ValueError):
                raise ValueError(f"action must be numbers of shape {self.shape}, got {action!r}") from None
        action = self._shaped(action)
        if action.dtype != self._float64:
            action = xp.astype(action, self._float64)
        known = action.detach() if hasattr(action, "detach") else action
        if self.late:
            nothing = 0.0 * known  # NaN where it is not finite
            self._trace = nothing if self._trace is None else self._trace + nothing
        # a sum is the fastest way to meet a NaN or an infinity; it may overflow without one
        elif not math.isfinite(known.sum()) and not bool(xp.all(xp.isfinite(action))):
            self._refuse()
        return action

    def settle(self) -> None:
        trace, self._trace = self._trace, None
        if trace is not None and not math.isfinite(trace.sum()):
            self._refuse()

    def _refuse(self) -> None:
        raise ValueError(f"action must be finite numbers of shape {self.shape}, got NaN or infinity")
