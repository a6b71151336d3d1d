"""The network of deep hedging: a no-trade band around a model's hedge, shared by all steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hedgerl.agents.networks import NETWORKS, Normaliser, PolicyModule, layers
from hedgerl.envs.action import Action, neutral_change
from hedgerl.envs.observation import FEATURES, Flat
from hedgerl.envs.task import OptionBook, ShortOption, SpyOverlay, Task

HEADS = ("band", "plain")
CENTRES = ("delta", "net", "zero")  # of the underlying
OPTION_CENTRES = ("zero", "gamma", "neutral")
_DAMPING = 1e-4  # of squared gammas, where the options have little of them
_HALF_WIDTH = 0.03  # in sizes, of a fresh network's bands
_FREE = 4.0  # sizes, in shares or contracts, that an action of 1 trades where there is no limit

# P&L so far is left out: bands that move with it lower a tail or a deviation of the whole episode further, but hedge
# the same book differently after a gain than after a loss. Ask for it: inputs=(*default_inputs(task), "pnl").
INPUTS: dict[str, tuple[str, ...]] = {
    "ShortOption": (
        "time_left",
        "volatility",
        "liability_volatility",
        "liability_moneyness",
        "liability_delta",
        "liability_gamma",
        "liability_vega",
    ),
    "SpyOverlay": (
        "time_left",
        "roll_time_left",
        "volatility",
        "hedge_moneyness",
        "hedge_volatility",
        "hedge_delta",
        "holdings",
    ),
    "OptionBook": (
        "time_left",
        "volatility",
        "liability_delta",
        "liability_gamma",
        "liability_vega",
        "hedge_time_left",
        "hedge_moneyness",
        "hedge_volatility",
        "hedge_delta",
        "hedge_gamma",
        "hedge_vega",
        "holdings",
    ),
}


@dataclass(frozen=True)
class HedgeInterface:
    """What a hedge network sees and how its action is read: `hedgerl.evaluate` builds the environment to it."""

    observation: Flat
    action: Action


class HedgeNetwork(PolicyModule):
    """Trades to the edge of a band that a small network draws, and not inside it; the same network at every step.

    Of each instrument, in shares over the task's size, h the holding before the trade:

        [lower, upper] = centre + offset + [-w, w],   w = softplus(.),    new holding = clip(h, lower, upper)

    with offset and w the network's outputs. Inside the band the trade is 0 exactly, on its edges gradients flow through
    lower or upper. For proportional costs the best hedge has this shape (Davis, Panas & Zariphopoulou 1993); as a
    network's head it is Imaki et al.'s (2021), "No-transaction band network", whose band also starts from the delta.
    `head="plain"` trades to centre + offset at every step.

    The underlying's `centre` is minus the delta of liabilities and of the options held *after* their own trade; "net"
    counts contracts that were kept when their place rolled, too; "zero": 0. That of the options, `option_centre`:

        zero     0
        gamma    the holding of least squares that makes liabilities and options gamma-neutral
        neutral  the least change of holdings that makes the book neutral in delta and gamma, for tasks without the
                 underlying: a call and a put of one strike become a synthetic forward, and stay so

    The action is the trade as a part of `scale`, in shares of the underlying and contracts of options (`Action`
    "trade"), so that no trade survives rounding to float32.

    Parameters (all plain values, see `config`; `for_task` makes them for a task)
    ----------
    observation : names of the flat features (hedgerl.envs.FEATURES) that are shown.
    inputs : those of them that the layers read; the others serve the head only.
    instruments : how many; underlying: whether the first one is the underlying.
    multiplier : shares a contract, of each instrument.
    size : the task's size, shares.
    scale : what an action of 1 trades.
    hidden : widths of the layers. recurrent: width of a GRU after the first layer; 0: none, memoryless.
    head : "band" or "plain". centre: of the underlying, "delta", "net" or "zero". option_centre: "zero", "gamma" or
        "neutral".
    """

    kind: ClassVar[str] = "hedge_network"
    _per_action: Tensor  # (k,): an action for each size traded
    _places: Tensor | None  # of the columns that the layers read, where they do not lie side by side at the front

    def __init__(
        self,
        observation: Sequence[str],
        inputs: Sequence[str],
        instruments: int,
        underlying: bool,
        multiplier: Sequence[float],
        size: float,
        scale: float,
        hidden: Sequence[int] = (32, 32),
        recurrent: int = 0,
        activation: str = "silu",
        head: str = "band",
        centre: str = "delta",
        option_centre: str = "zero",
    ) -> None:
        super().__init__()
        self.config = {
            "observation": list(observation),
            "inputs": list(inputs),
            "instruments": instruments,
            "underlying": underlying,
            "multiplier": [float(each) for each in multiplier],
            "size": float(size),
            "scale": float(scale),
            "hidden": list(hidden),
            "recurrent": recurrent,
            "activation": activation,
            "head": head,
            "centre": centre,
            "option_centre": option_centre,
        }
        for name, value, known in (
            ("head", head, HEADS),
            ("centre", centre, CENTRES),
            ("option_centre", option_centre, OPTION_CENTRES),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if not hidden:
            raise ValueError("hidden must hold the width of at least one layer, got none")
        if len(multiplier) != instruments:
            raise ValueError(f"multiplier must have {instruments} entries, one an instrument, got {list(multiplier)}")
        self.interface = HedgeInterface(Flat(tuple(observation)), Action("trade", scale=float(scale)))
        options = instruments - underlying
        widths = {"path": 1, "option": options, "instrument": instruments}
        self._columns: dict[str, slice] = {}
        first = 0
        for name in observation:
            count = widths[FEATURES[name].per]
            self._columns[name] = slice(first, first + count)
            first += count
        self.observation_size = first
        self._needs("holdings", True, "what is held")
        self._needs("liability_delta", underlying and centre == "delta", "the centre")
        self._needs("net_delta", underlying and centre == "net", "the centre")
        self._needs("hedge_delta", underlying and centre != "zero" and options > 0, "the centre")
        for name in ("liability_gamma", "hedge_gamma"):
            self._needs(name, options > 0 and option_centre == "gamma", "option_centre = 'gamma'")
        for name in ("net_delta", "net_gamma", "hedge_delta", "hedge_gamma"):
            self._needs(name, options > 0 and option_centre == "neutral", "option_centre = 'neutral'")
        if not inputs or any(name not in self._columns for name in inputs):
            raise ValueError(f"inputs must name features of the observation {tuple(observation)}, got {tuple(inputs)}")
        chosen = [index for name in inputs for index in range(self._columns[name].start, self._columns[name].stop)]
        whole = chosen == list(range(len(chosen)))  # a view costs nothing, an index a copy and its gradient
        self._read = slice(0, len(chosen)) if whole and len(chosen) < first else None
        places = None if whole else torch.tensor(chosen)  # no list, which would be sent to a device at each step
        self.register_buffer("_places", places, persistent=False)
        self.normaliser = Normaliser(len(chosen))
        self.recurrent = recurrent
        if recurrent:
            self.encoder, width = layers(len(chosen), hidden[:1], activation)
            self.memory: nn.GRUCell | None = nn.GRUCell(width, recurrent)
            self.body, width = layers(recurrent, hidden[1:], activation)
        else:
            self.memory = None
            self.body, width = layers(len(chosen), hidden, activation)
        self.head = nn.Linear(width, instruments * (2 if head == "band" else 1))
        with torch.no_grad():  # a fresh network hedges as its centre does, in a narrow band
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            if head == "band":
                self.head.bias[instruments:] = float(np.log(np.expm1(_HALF_WIDTH)))
        per_action = torch.tensor([size / (scale * each) for each in multiplier], dtype=torch.float32)
        self.register_buffer("_per_action", per_action, persistent=False)
        self._instruments, self._underlying = instruments, bool(underlying)
        self._band, self._centre, self._options = head == "band", centre, option_centre

    def _needs(self, name: str, needed: bool, why: str) -> None:
        if needed and name not in self._columns:
            raise ValueError(f"observation must show {name!r} for {why}, got {tuple(self._columns)}")

    @classmethod
    def for_task(
        cls,
        task: Task,
        *,
        inputs: Sequence[str] | None = None,
        hidden: Sequence[int] = (32, 32),
        recurrent: int = 0,
        activation: str = "silu",
        head: str = "band",
        centre: str | None = None,
        option_centre: str | None = None,
    ) -> HedgeNetwork:
        """A fresh network for a task. inputs None: `INPUTS` of it, and for a short option that may be hedged with
        options those of the book. centre None: "net" where hedge options are kept when their place rolls, else
        "delta". option_centre None: "neutral" where the underlying is not traded, "gamma" for a
        book of options, else "zero". Weights are drawn from torch's generator."""
        names = list(default_inputs(task) if inputs is None else inputs)
        underlying = task.instruments[:1] == ("underlying",)
        options = len(task.instruments) - underlying
        if option_centre is None:
            option_centre = "gamma" if isinstance(task, OptionBook) else "zero"
            if not underlying:
                option_centre = "neutral"
        if centre is None:
            kept = any(listing.keep for listing in getattr(task, "hedge_options", ()))
            centre = "net" if kept else "delta"
        served = ["holdings"]
        if underlying and centre != "zero":
            served += ["liability_delta" if centre == "delta" else "net_delta"] + ["hedge_delta"] * (options > 0)
        if options and option_centre == "gamma":
            served += ["liability_gamma", "hedge_gamma"]
        if options and option_centre == "neutral":
            served += ["net_delta", "net_gamma", "hedge_delta", "hedge_gamma"]
        seen = names + [name for name in served if name not in names]
        most = task.execution.limits.trade
        return cls(
            observation=seen,
            inputs=names,
            instruments=len(task.instruments),
            underlying=underlying,
            multiplier=multipliers(task),
            size=task.size,
            scale=_FREE * task.size if most is None else most,
            hidden=hidden,
            recurrent=recurrent,
            activation=activation,
            head=head,
            centre=centre,
            option_centre=option_centre,
        )

    def initial_state(self, n: int) -> tuple[Tensor, ...]:
        """See `PolicyModule.initial_state`: the GRU's, (n, recurrent)."""
        return (self.head.weight.new_zeros(n, self.recurrent),) if self.recurrent else ()

    def forward(self, observation: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The trade of each instrument over `scale`, (n, k), and the new state."""
        lower, upper, *after = self.band(observation, *state)
        held = observation[:, self._columns["holdings"]]
        return (self._trade(observation, held, lower, upper) * self._per_action, *after)

    def band(self, observation: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """(lower, upper, new state): edges less the centre, (n, k), in sizes; equal where the head is plain."""
        inner = self.normaliser(self.chosen(observation))
        after: tuple[Tensor, ...] = ()
        if self.memory is not None:
            memory = self.memory(self.encoder(inner), state[0])
            out, after = self.head(self.body(memory)), (memory,)
        else:
            out = self.head(self.body(inner))
        if not self._band:
            return (out, out, *after)
        offset = out[:, : self._instruments]
        half = functional.softplus(out[:, self._instruments :])
        return (offset - half, offset + half, *after)

    def chosen(self, observation: Tensor) -> Tensor:
        """The columns (n, m) that the layers read."""
        if self._places is not None:
            return observation[:, self._places]
        return observation if self._read is None else observation[:, self._read]

    def _trade(self, observation: Tensor, held: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """New holdings less `held`, (n, k), in sizes."""
        first = int(self._underlying)
        trades = []
        added: Tensor | None = None  # delta of the options, held or only traded, as the centre counts
        if self._instruments > first:
            own = held[:, first:]
            centre = self._option_centre(observation, own)
            trade = _into(own, lower[:, first:] + centre, upper[:, first:] + centre, self._band)
            trades.append(trade)
            if first and self._centre != "zero":
                delta = observation[:, self._columns["hedge_delta"]]
                added = ((trade if self._centre == "net" else own + trade) * delta).sum(-1, keepdim=True)
        if first:
            shift: Tensor | float = 0.0
            if self._centre == "delta":
                shift = -observation[:, self._columns["liability_delta"]]
            elif self._centre == "net":
                shift = held[:, :1] - observation[:, self._columns["net_delta"]]
            if added is not None:
                shift = shift - added
            trades.insert(0, _into(held[:, :1], lower[:, :1] + shift, upper[:, :1] + shift, self._band))
        return trades[0] if len(trades) == 1 else torch.cat(trades, dim=1)

    def _option_centre(self, observation: Tensor, held: Tensor) -> Tensor | float:
        if self._options == "zero":
            return 0.0
        gamma = observation[:, self._columns["hedge_gamma"]]
        if self._options == "gamma":
            owed = observation[:, self._columns["liability_gamma"]]
            return -owed * gamma / ((gamma * gamma).sum(-1, keepdim=True) + _DAMPING)
        delta = observation[:, self._columns["hedge_delta"]]
        net_delta, net_gamma = (observation[:, self._columns[name]][:, 0] for name in ("net_delta", "net_gamma"))
        return held + neutral_change(delta, gamma, net_delta, net_gamma)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        """The action (n, k) of a flat observation (n, d) and the state, as stable-baselines3."""
        where = self.head.weight.device
        seen = torch.as_tensor(np.asarray(observation), dtype=torch.float32, device=where)
        before = self.initial_state(seen.shape[0]) if state is None else tuple(state)
        if before and state is not None and episode_start is not None:
            going = torch.as_tensor(~np.asarray(episode_start, dtype=bool), device=where)
            before = tuple(each * going[:, None] for each in before)
        with torch.no_grad():
            action, *after = self(seen, *before)
        return action.cpu().numpy(), tuple(after) or None


def _into(held: Tensor, lower: Tensor, upper: Tensor, band: bool) -> Tensor:
    """What must be traded to bring `held` into the band: exactly 0 inside."""
    if not band:
        return lower - held
    return torch.relu(lower - held) - torch.relu(held - upper)


def default_inputs(task: Task) -> tuple[str, ...]:
    """`INPUTS` of a task."""
    if isinstance(task, SpyOverlay):
        return INPUTS["SpyOverlay"]
    if isinstance(task, ShortOption) and not task.hedge_options:
        return INPUTS["ShortOption"]
    return INPUTS["OptionBook"] + (("liability_moneyness",) if isinstance(task, ShortOption) else ())


def multipliers(task: Task) -> list[float]:
    """Shares a contract of each of a task's instruments."""
    if isinstance(task, ShortOption | OptionBook):
        return [1.0, *(listing.multiplier for listing in task.hedge_options)]
    return [100.0] * len(task.instruments)  # as `Listing` has it


NETWORKS[HedgeNetwork.kind] = HedgeNetwork
