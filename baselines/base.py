"""What every classical hedge shares: its interface, and how a net delta is brought to where it should be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from array_api_compat import array_namespace

from hedgerl.pricing import Greeks, black_scholes

Array = Any
Observation = Mapping[str, Array]  # name -> array, before the trade: see `hedgerl.envs.observation`
Which = Literal["model", "implied", "minimum_variance"]

DELTAS: dict[str, tuple[str, str, str]] = {  # of the liabilities, of options kept from earlier, of the instruments
    "model": ("liability_delta", "kept_delta", "hedge_delta"),
    "implied": ("liability_bs_delta", "kept_bs_delta", "hedge_bs_delta"),
    "minimum_variance": (
        "liability_minimum_variance_delta",
        "kept_minimum_variance_delta",
        "hedge_minimum_variance_delta",
    ),
}
TERMS = tuple(  # of the liabilities' options: what `repriced` reads
    f"liability_{name}" for name in ("position", "strike", "years_left", "is_call", "volatility")
) + ("spot", "rate", "dividend")
PLACES = ("holdings", "hedge_strike", "hedge_alive")  # of the instruments: what `with_less_delta` reads
BOOK = ("liability_position", "liability_delta")  # what `book_shares` reads

_FAINT = 1e-4  # sum of squared deltas at which options stop being worth trading for their delta


@runtime_checkable
class Policy(Protocol):
    """What maps an observation to an action, as in stable-baselines3: a baseline or an agent."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """The action, and the state to be handed back at the next step."""
        ...


@dataclass(frozen=True)
class Baseline(ABC):
    """A hedge without training: `observation` names the raw features it reads, its action is the holdings it wants.

    `predict` returns the target (n, k) in shares of each instrument, before the limits of the task; the underlying
    comes first where it can be traded. All arithmetic is that of the arrays it is given, NumPy, CuPy or torch.
    """

    action: ClassVar[str] = "holdings"

    @property
    @abstractmethod
    def observation(self) -> tuple[str, ...]:
        """Names of the raw features that `predict` reads."""

    @abstractmethod
    def target(self, observation: Observation) -> Array:
        """Holdings (n, k) in shares to be reached by this step's trade."""

    def predict(
        self, observation: Observation, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Array, Any]:
        """`target`, and the state as it came: most baselines remember nothing."""
        return self.target(observation), state


def trades_underlying(observation: Observation) -> bool:
    """Whether the first instrument is the underlying: it alone lives and has no strike."""
    alive, strike = observation["hedge_alive"], observation["hedge_strike"]
    return bool(alive.shape[1]) and bool(alive[0, 0]) and not bool(strike[0, 0])


def book_shares(observation: Observation) -> Array:
    """Shares that the liabilities stand for, (n,): sum of |position| and, where there are no options, |delta|."""
    position = abs(observation["liability_position"])
    options = array_namespace(position).sum(position, axis=-1)
    return options + abs(observation["liability_delta"]) * (options == 0.0)


def deltas(observation: Observation, which: Which) -> tuple[Array, Array]:
    """(delta (n,) of what can no longer be chosen, deltas (n, k) of a share of each instrument).

    The first is that of the liabilities and of the options that were kept when their place rolled.
    """
    owed, kept, each = (observation[name] for name in DELTAS[which])
    return owed + kept, each


def net_delta(observation: Observation, exposure: Array, hedge_delta: Array) -> Array:
    """`exposure` and the delta of the holdings together, (n,), before the trade."""
    return exposure + array_namespace(hedge_delta).sum(observation["holdings"] * hedge_delta, axis=-1)


def with_less_delta(observation: Observation, amount: Array, hedge_delta: Array) -> Array:
    """The holdings (n, k) after `amount` (n,) of delta has been sold, at the least trade that does it.

    The underlying trades it, where it can be traded. Else the options do, by the least squared number of shares:
    trade_j = -amount delta_j / (sum_i delta_i^2 + 10^-4); the last term lets options of no delta alone, and leaves
    some 10^-4 of the amount where there is one near the money.
    """
    xp = array_namespace(hedge_delta)
    held = observation["holdings"]
    if trades_underlying(observation):
        return xp.concat([(held[:, 0] - amount)[:, None], held[:, 1:]], axis=-1)
    delta = hedge_delta * observation["hedge_alive"]
    return held - delta * (amount / (xp.sum(delta * delta, axis=-1) + _FAINT))[:, None]


def excess(net: Array, half_width: Array | float) -> Array:
    """What of a net delta lies outside [-half_width, half_width], signed, (n,)."""
    inside = 0.5 * (abs(net + half_width) - abs(net - half_width))  # clip, for numbers and arrays of any library
    return net - inside


def repriced(observation: Observation, volatility: Array) -> Greeks:
    """Black-Scholes Greeks (n, c) of one share of each of the liabilities' options at these volatilities (n, c)."""
    return black_scholes(
        observation["spot"][:, None],
        observation["liability_strike"],
        observation["liability_years_left"],
        volatility,
        rate=observation["rate"][:, None],
        dividend=observation["dividend"][:, None],
        is_call=observation["liability_is_call"] > 0.5,
    )


def delta_at(observation: Observation, volatility: Array) -> Array:
    """Black-Scholes delta (n,) of the liabilities with their options at these volatilities (n, c) instead of implied
    ones; reads `TERMS` and liability_bs_delta."""
    position = observation["liability_position"]
    if not position.shape[1]:
        return observation["liability_bs_delta"]
    change = repriced(observation, volatility).delta - repriced(observation, observation["liability_volatility"]).delta
    return observation["liability_bs_delta"] + array_namespace(change).sum(position * change, axis=-1)


def names(*groups: tuple[str, ...] | str) -> tuple[str, ...]:
    """The names in these groups, each once."""
    every = [name for group in groups for name in ((group,) if isinstance(group, str) else group)]
    return tuple(dict.fromkeys(every))
