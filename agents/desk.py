"""A desk's numbers, seen through the environments' own observation: one path that stands at one step.

What a trader knows becomes a `Scenario` and a `Rollout` of the task, with prices by Black-Scholes at the implied
volatilities that are given, and the Greeks that the training's market has there (`GreekMarks`). The features are then
computed by the code that computed them in training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hedgerl.agents.marks import GreekMarks
from hedgerl.baselines import Delta
from hedgerl.data import DailySeries
from hedgerl.data.volatility import TRADING_DAYS
from hedgerl.envs.features import ESTIMATES
from hedgerl.envs.observation import Flat, Raw
from hedgerl.envs.scenario import Contracts, Listing, Scenario
from hedgerl.envs.task import OptionBook, ShortOption, Task
from hedgerl.envs.transition import Execution, Rollout
from hedgerl.execution import HalfSpread
from hedgerl.pricing import black_scholes, implied_volatility
from hedgerl.pricing._checks import finite, nearest, non_negative, positive
from hedgerl.sim.history import Past

SOLD = "short option"  # what `ShortOption` calls the option that is owed
_TERMS = (
    *("strike", "years_left", "implied_volatility", "option_price", "is_call", "delta", "gamma", "vega", "theta"),
)
_DAYS = {"close": "closes", "open": "opens", "high": "highs", "low": "lows"}  # field of a series -> what a desk gives
_MARKET = (
    *("spot", "volatility", "rate", "dividend", "time_left", "previous_spot", "initial_spot", "pnl", "cost", "options"),
    *_DAYS.values(),
)
_GREEKS = ("price", "delta", "gamma", "vega", "theta")


@dataclass(frozen=True)
class View:
    """A desk's book as the task sees it, at the task's own size."""

    task: Task
    rollout: Rollout  # at its step, before the trade
    scale: float  # the task's size over the desk's
    reasons: tuple[str, ...]  # why the policy knows nothing of this book; none where it does
    unknown: frozenset[str] = frozenset()  # features that cannot be told

    def observation(self, names: Flat) -> np.ndarray:
        """The features (1, d), as an environment shows them; NaN where they cannot be told."""
        if not self.unknown.intersection(names.names):
            seen: np.ndarray = names.prepare(self.rollout.scenario, self.task).at(self.rollout)
            return seen
        parts = [
            np.full((1, 1), np.nan, np.float32) if name in self.unknown else self.observation(Flat((name,)))
            for name in names.names
        ]
        return np.concatenate(parts, axis=1)

    def delta_target(self) -> np.ndarray:
        """Holdings (1, k) in shares of the delta hedge, within the task's limits."""
        hedge = Delta()
        seen = Raw(hedge.observation).prepare(self.rollout.scenario, self.task).at(self.rollout)
        target: np.ndarray = self.rollout.feasible(hedge.target(seen))
        return target

    def cost(self, trade: np.ndarray) -> float:
        """What a trade (k,) in shares costs, at the desk's size."""
        quotes = self.rollout.quotes(self.rollout.step)
        return float(sum(cost.amount(trade[None], quotes).sum() for cost in self.rollout.execution.costs))


def view(
    task: Task,
    market_state: Mapping[str, Any],
    positions: Mapping[str, Any],
    needed: frozenset[str],
    marks: GreekMarks | None = None,
) -> View:
    """The view of a desk's numbers; `needed` are the features that will be asked for. See `Agent.hedge`.

    Features of prices (`hedgerl.envs.features`) need `closes` in market_state, and those of ranges `opens`, `highs` and
    `lows`: of the last trading days, oldest first, the last as of now. Where there are too few of them, or the task's
    steps are no trading days, such a feature is unknown, and the view's reasons say so.

    Raises ValueError naming the field that is missing, not known or not possible.
    """
    if not isinstance(market_state, Mapping) or not isinstance(positions, Mapping):
        raise ValueError("market_state and positions must be mappings of names to numbers")
    _only("market_state", market_state, (*_MARKET, *_TERMS))
    _only("positions", positions, ("shares", "contracts", "book"))
    spot = positive("spot", _given("market_state", market_state, "spot"))
    volatility = positive("volatility", _given("market_state", market_state, "volatility"))
    rate, dividend = (finite(name, market_state.get(name, 0.0)) for name in ("rate", "dividend"))
    held_shares = finite("shares", _given("positions", positions, "shares"))
    option_names = [name for name in task.instruments if name != "underlying"]
    names = ([SOLD] if isinstance(task, ShortOption) else []) + option_names
    quantities = _contracts_held(positions, names)

    def terms(where: str, given: Mapping[str, Any], is_call: bool | None) -> _Terms:
        return _Terms.of(where, given, (spot, volatility, rate, dividend), is_call, marks)

    quoted = _quoted(market_state, names)
    listings = _listings(task)
    hedges = [terms(f"options[{name!r}]", quoted[name], listings[name].is_call) for name in option_names]
    reasons: list[str] = []
    trades_underlying = task.instruments[:1] == ("underlying",)
    owed: list[tuple[_Terms, float]] = []  # terms, shares
    shares, scale = 0.0, 1.0
    if isinstance(task, ShortOption):
        if "book" in positions:
            raise ValueError("positions has a 'book', which a ShortOption does not: give 'contracts'")
        contracts = quantities[SOLD]
        if contracts is None:
            raise ValueError(f"positions must have 'contracts' of the {SOLD}, negative where sold")
        if contracts == 0.0:
            raise ValueError(f"contracts of the {SOLD} must not be 0: there is nothing to hedge")
        sold = terms("market_state" if len(names) == 1 else f"options[{SOLD!r}]", quoted[SOLD], task.is_call)
        amount = contracts * Listing().multiplier
        owed, scale = [(sold, amount)], task.size / abs(amount)
        if contracts > 0.0:
            reasons.append("the policy was trained on an option sold, this one is held")
        if sold.is_call != task.is_call:
            reasons.append(f"the policy was trained on a {'call' if task.is_call else 'put'}")
    elif isinstance(task, OptionBook):
        for index, entry in enumerate(_given("positions", positions, "book")):
            where = f"book[{index}]"
            if not isinstance(entry, Mapping):
                raise ValueError(f"{where} must be a mapping of names to numbers, got {entry!r:.80}")
            _only(where, entry, ("contracts", *_TERMS))
            amount = finite(f"{where} contracts", _given(where, entry, "contracts")) * Listing().multiplier
            owed.append((terms(where, entry, None), amount))
    else:
        shares = positive("shares", held_shares)
        scale = task.size / shares

    # the clock
    maturity, n_steps = float(task.maturity), task.n_steps
    if "time_left" in market_state:
        left = positive("time_left", market_state["time_left"])
    elif isinstance(task, ShortOption):
        left = owed[0][0].years_left - ((task.expiry or maturity) - maturity)
        positive("time_left (years_left less what the option outlives the hedge by)", left)
    else:
        raise ValueError("market_state must have 'time_left', years to the end of the hedge")
    step_years = maturity / n_steps
    if left > maturity + 0.5 * step_years:
        reasons.append(f"there are {left:.4g} years left, the policy was trained on at most {maturity:.4g}")
    step = min(max(round((maturity - left) / step_years), 0), n_steps - 1)
    times = np.linspace(0.0, maturity, n_steps + 1)
    if step:
        times[step] = min(max(maturity - left, times[step - 1] + 1e-9), maturity - 1e-9)

    # the past
    past, unknown = _past(market_state, spot, needed, step_years, n_steps)
    reasons += unknown.values()
    first = None if step else spot
    if isinstance(task, ShortOption):
        first = owed[0][0].strike / task.moneyness
    if "initial_spot" in market_state:
        first = positive("initial_spot", market_state["initial_spot"])
    for name, of, default in (
        ("initial_spot", {"spot_return", "pnl"}, first),
        ("previous_spot", {"step_return"}, None if step else spot),
        ("pnl", {"pnl"}, None if step else 0.0),
    ):
        if default is None and name not in market_state and needed & of:
            raise ValueError(f"market_state must have {name!r}, which the policy sees after the first step")
    previous = positive("previous_spot", market_state.get("previous_spot", spot))
    pnl = finite("pnl", market_state.get("pnl", 0.0))
    along = np.full((n_steps + 1, 1), spot)
    if step:
        along[:step], along[step - 1] = spot if first is None else first, previous

    places = [Listing(name=f"owed {index}", is_call=option.is_call) for index, (option, _) in enumerate(owed)]
    scenario = Scenario(
        times=times,
        rates=(rate,) * n_steps,
        dividend=dividend,
        spot=along,
        volatility=np.full((n_steps + 1, 1), volatility),
        trades_underlying=trades_underlying,
        hedges=_contracts([listings[name] for name in option_names], hedges, n_steps),
        liabilities=_contracts(places, [option for option, _ in owed], n_steps),
        position=np.broadcast_to(np.array([amount * scale for _, amount in owed]), (n_steps + 1, 1, len(owed))).copy(),
        kept=_contracts([], [], n_steps),
        kept_from=(),
        shares=shares * scale,
        past=past,
    )
    scenario.__dict__["liability_volatility"] = _rows([t.volatility for t, _ in owed], n_steps)
    scenario.__dict__["hedge_volatility"] = _rows([t.volatility for t in hedges], n_steps)
    execution = task.execution
    if "cost" in market_state:
        execution = _with_cost(execution, non_negative("cost", market_state["cost"]))
    known = replace(task, execution=execution)
    rollout = Rollout(scenario, execution)
    rollout.step = step
    held = [held_shares] if trades_underlying else []
    held += [(quantities[name] or 0.0) * listings[name].multiplier for name in option_names]
    rollout.holdings = np.array([held]) * scale
    rollout.wealth = scenario.shares * scenario.spot[0] + execution.initial_cash + pnl * scale
    return View(known, rollout, scale, tuple(reasons), frozenset(unknown))


def _past(
    market_state: Mapping[str, Any], spot: float, needed: frozenset[str], step_years: float, n_steps: int
) -> tuple[Past | None, dict[str, str]]:
    """The days that a desk gives, of which every step is the last, and why a feature cannot be told, by its name."""
    wanted = sorted(needed & ESTIMATES.keys())
    if not wanted:
        return None, {}
    days = {field: _prices(key, market_state[key]) for field, key in _DAYS.items() if key in market_state}
    for field, values in days.items():
        if values.size != days.get("close", values).size:
            raise ValueError(f"{_DAYS[field]} must have a price for each of the closes, got {values.size}")
    if "close" in days and abs(days["close"][-1] / spot - 1.0) > 1e-9:
        raise ValueError(f"closes must end with the spot now, {spot:g}, got {days['close'][-1]:g}")
    unknown: dict[str, str] = {}
    for name in wanted:
        count = ESTIMATES[name].known_from + 1
        lacking = [key for field, key in _DAYS.items() if field in ("close", *ESTIMATES[name].needs)]
        lacking = [key for key in lacking if key not in market_state or len(market_state[key]) < count]
        if lacking:
            unknown[name] = f"the policy sees {name}, which needs the {', '.join(lacking)} of the last {count} days"
        elif abs(step_years * TRADING_DAYS - 1.0) > 1e-6:
            unknown[name] = f"the policy sees {name} of steps of {step_years:.4g} years, which are no trading days"
    if "close" not in days:
        return None, unknown
    dates = np.arange(days["close"].size).astype("datetime64[D]")
    return Past(DailySeries("the desk's", dates, **days), np.full((n_steps + 1, 1), dates.size - 1)), unknown


def _prices(name: str, given: Any) -> np.ndarray:
    """Prices (n,) that a desk gives."""
    if not isinstance(given, list | tuple | np.ndarray):
        raise ValueError(f"{name} must be prices in a row, oldest first, got {given!r:.80}")
    values = np.asarray(given, dtype=np.float64)
    if values.ndim != 1 or not values.size or not (np.isfinite(values) & (values > 0.0)).all():
        raise ValueError(f"{name} must be positive prices in a row, oldest first, got {given!r:.80}")
    return values


@dataclass(frozen=True)
class _Terms:
    """An option as it is quoted, per share."""

    strike: float
    years_left: float
    volatility: float
    is_call: bool
    greeks: tuple[float, ...]  # in the order of _GREEKS

    @classmethod
    def of(
        cls,
        where: str,
        given: Mapping[str, Any],
        market: tuple[float, float, float, float],
        is_call: bool | None,
        own: GreekMarks | None,
    ) -> _Terms:
        spot, sigma, rate, dividend = market
        strike = positive(f"{where} strike", _given(where, given, "strike"))
        left = positive(f"{where} years_left", _given(where, given, "years_left"))
        call = given.get("is_call", is_call)
        if not isinstance(call, bool | np.bool_):
            raise ValueError(f"{where} must have 'is_call', True or False, got {call!r:.80}")
        if ("implied_volatility" in given) == ("option_price" in given):
            raise ValueError(f"{where} must have 'implied_volatility' or 'option_price', one of the two")
        if "implied_volatility" in given:
            volatility = positive(f"{where} implied_volatility", given["implied_volatility"])
        else:
            price = positive(f"{where} option_price", given["option_price"])
            volatility = float(
                implied_volatility(price, spot, strike, left, rate=rate, dividend=dividend, is_call=bool(call))
            )
            if not np.isfinite(volatility) or volatility < 1e-4:
                raise ValueError(f"{where} option_price must imply a volatility, got {price!r}")
        marks = black_scholes(spot, strike, left, volatility, rate=rate, dividend=dividend, is_call=bool(call))
        values = [float(getattr(marks, name)) for name in _GREEKS]
        if own is not None:
            values[1:4] = own.at(spot, strike, left, volatility, sigma, marks)
        for index, name in enumerate(_GREEKS[1:], 1):
            if name in given:
                values[index] = finite(f"{where} {name}", given[name])
        return cls(strike, left, volatility, bool(call), tuple(values))


def _contracts(listings: list[Listing], terms: list[_Terms], n_steps: int) -> Contracts:
    """The contracts as they stand now, at every step."""
    flat = (n_steps + 1, len(terms))
    alive = np.ones(flat, dtype=bool)
    alive[-1] = False
    nothing = _rows([0.0] * len(terms), n_steps)
    marks: dict[str, Any] = {name: _rows([t.greeks[i] for t in terms], n_steps) for i, name in enumerate(_GREEKS)}
    return Contracts(
        listings=tuple(listings),
        strike=_rows([t.strike for t in terms], n_steps),
        years_left=np.broadcast_to(np.array([t.years_left for t in terms]), flat).copy(),
        alive=alive,
        settles=np.zeros(flat, dtype=bool),
        replaced=np.zeros(flat, dtype=bool),
        last_price=nothing,
        last_vega=nothing,
        **marks,
    )


def _rows(values: Sequence[float], n_steps: int) -> np.ndarray:
    """(n_steps + 1, 1, c), the same at every step."""
    return np.broadcast_to(np.array(values, dtype=np.float64), (n_steps + 1, 1, len(values))).copy()


def _listings(task: Task) -> dict[str, Listing]:
    """The places of a task's hedge options, by instrument."""
    if isinstance(task, ShortOption | OptionBook):
        return {listing.name: listing for listing in task.hedge_options}
    tenor = getattr(task, "tenor", Listing().tenor)
    return {name: Listing(name=name, tenor=tenor, is_call=name == "call") for name in task.instruments}


def _quoted(market_state: Mapping[str, Any], names: list[str]) -> dict[str, Mapping[str, Any]]:
    """The terms of each option: flat where there is one, else under 'options' by name."""
    options = market_state.get("options")
    flat = {key: market_state[key] for key in _TERMS if key in market_state}
    if options is None:
        if len(names) == 1:
            return {names[0]: flat}
        if not names:
            return {}
        raise ValueError(f"market_state must have 'options', the terms of {', '.join(map(repr, names))} by name")
    if flat:
        raise ValueError(f"market_state must have the terms of options in one place, got {', '.join(flat)} besides")
    if not isinstance(options, Mapping):
        raise ValueError(f"options must map names to terms, got {options!r:.80}")
    _only("options", options, names)
    for name in names:
        if not isinstance(_given("options", options, name), Mapping):
            raise ValueError(f"options[{name!r}] must be a mapping of names to numbers, got {options[name]!r:.80}")
        _only(f"options[{name!r}]", options[name], _TERMS)
    return dict(options)


def _contracts_held(positions: Mapping[str, Any], names: list[str]) -> dict[str, float | None]:
    """Contracts by name: a number where there is one option, else a mapping; None where not given."""
    given = positions.get("contracts")
    held: dict[str, float | None] = dict.fromkeys(names)
    if given is None:
        return held
    if isinstance(given, Mapping):
        _only("contracts", given, names)
        return held | {name: finite(f"contracts[{name!r}]", value) for name, value in given.items()}
    if len(names) != 1:
        raise ValueError(f"contracts must map names to numbers, of {', '.join(map(repr, names)) or 'none'}")
    return {names[0]: finite("contracts", given)}


def _with_cost(execution: Execution, half_spread: float) -> Execution:
    """The execution with this cost of a share of the underlying, one-way, in place of its own."""
    others = [
        dataclasses.replace(cost, applies_to="options") for cost in execution.costs if cost.applies_to != "underlying"
    ]
    return dataclasses.replace(execution, costs=(HalfSpread(price=half_spread, applies_to="underlying"), *others))


def _given(where: str, mapping: Mapping[str, Any], name: str) -> Any:
    if name not in mapping:
        raise ValueError(f"{where} must have {name!r}, it has {', '.join(map(str, mapping)) or 'nothing'}")
    return mapping[name]


def _only(where: str, mapping: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in mapping:
        if name not in known:
            hint = f"; the nearest is {nearest(name, known)!r}" if known else ""
            raise ValueError(f"{where} has no {name!r}{hint}")
