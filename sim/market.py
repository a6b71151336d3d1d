"""The market along simulated paths: prices and Greeks of any European option at any step."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from hedgerl.pricing import Greeks, Option, black_scholes
from hedgerl.pricing._checks import whole_number
from hedgerl.sim.backend import Array, is_numpy, namespace, to_numpy
from hedgerl.sim.device import Place, cupy, launch_marks
from hedgerl.sim.smile import Ratio, Smile, kernel_arguments

if TYPE_CHECKING:
    from hedgerl.sim.model import Model
    from hedgerl.sim.paths import Paths

_BLOCK = 1 << 14  # paths marked at a time: the features of a forward curve stay in the cache


class Implied(NamedTuple):
    """Implied volatility per square root of a year and its derivatives, each (n,)."""

    volatility: Array
    by_log_strike: Array
    by_log_strike_twice: Array
    by_volatility: Array  # by the model's own volatility, see `Market.mark`


Marks = tuple[Array, Array, Array, Array, Array]  # price, delta, gamma, vega, theta, each (n,)


class Marker(Protocol):
    """What a model knows of option prices along given paths."""

    def marks(self, step: int, expiry_years: float, part: Array, contract: Contract) -> Marks:
        """For the paths in `part` at kept step `step`; there is time left to expiry."""
        ...


class Contract(NamedTuple):
    """Spot by path (n,), and terms, each (n,) or (): on a device a Python number where all paths share one."""

    spot: Array
    strike: Array
    is_call: Array


class PathView(Protocol):
    """What marks need to know of paths, simulated or historical."""

    @property
    def times(self) -> np.ndarray:
        """Years from the start, (n_steps + 1,)."""
        ...

    @property
    def spot(self) -> Array:
        """(n_steps + 1, n_paths)."""
        ...

    @property
    def n_paths(self) -> int:
        """How many paths."""
        ...

    @property
    def n_steps(self) -> int:
        """How many steps."""
        ...


class AnyMarket(PathView, Protocol):
    """What `Market` and `hedgerl.sim.HistoricalMarket` share: all that a hedge of the paths meets."""

    @property
    def variance(self) -> Array:
        """Short-term variance per year, (n_steps + 1, n_paths)."""
        ...

    @property
    def dividend(self) -> float:
        """Yield of the underlying per year, continuously compounded."""
        ...

    def rate_at(self, step: int) -> Array:
        """The rate per year, continuously compounded, from `times[step]` to the next: a number or (n_paths,)."""
        ...

    def volatility_slope(self, expiry_years: float, step: int) -> Array:
        """Cov(d volatility, dS) / Var(dS) from `times[step]` on, (n_paths,), of the volatility of `mark`'s vega."""
        ...

    def mark(self, option: Option, step: int) -> Greeks:
        """Price, delta, gamma, vega and theta (n_paths,) of an option at `times[step]`."""
        ...


class SmileMarker(ABC):
    """A `Marker` that implies volatilities: prices are Black-Scholes at them, Greeks follow by the chain rule.

    On a device both are done by a kernel, to which models override the way.
    """

    paths: Paths

    @abstractmethod
    def implied(self, step: int, expiry_years: float, part: Array, log_moneyness: Array) -> Implied:
        """Implied volatilities at log(K / F) by path."""

    def marks(self, step: int, expiry_years: float, part: Array, contract: Contract) -> Marks:
        """See `Marker.marks`."""
        model = self.paths.model
        left = expiry_years - float(self.paths.times[step])
        if not is_numpy(namespace(contract.spot)):
            return self._device_marks(step, expiry_years, part, contract, left)
        return smile_marks(
            contract, left, model.rate, model.dividend, lambda k: self.implied(step, expiry_years, part, k)
        )

    def _device_marks(self, step: int, expiry_years: float, part: Array, contract: Contract, left: float) -> Marks:
        """Marks `left` years before expiry by a kernel; here with implied volatilities from the array code."""
        model, xp = self.paths.model, cupy()
        log_moneyness = xp.log(contract.strike / contract.spot) - (model.rate - model.dividend) * left
        implied = xp.stack(list(self.implied(step, expiry_years, part, log_moneyness)))
        return _launch_implied(contract, left, model, np.int32(True), np.int32(True), implied)


def smile_marks(
    contract: Contract, left: float, rate: Array, dividend: float, implied: Callable[[Array], Implied]
) -> Marks:
    """Black-Scholes marks at the volatilities that `implied` gives for log(K / F), Greeks by the chain rule.

    Volatility moves with spot through log(K / F), its smile standing still; theta is at constant implied volatility.
    """
    spot, strike, is_call = contract
    smile = implied(namespace(spot).log(strike / spot) - (rate - dividend) * left)
    flat = black_scholes(spot, strike, left, smile.volatility, rate=rate, dividend=dividend, is_call=is_call)
    # the derivative of log(K / F) by spot is -1 / S
    by_spot = -smile.by_log_strike / spot
    by_spot_twice = (smile.by_log_strike_twice + smile.by_log_strike) / (spot * spot)
    delta = flat.delta + flat.vega * by_spot
    gamma = flat.gamma + (2.0 * flat.vanna + flat.volga * by_spot) * by_spot + flat.vega * by_spot_twice
    return flat.price, delta, gamma, flat.vega * smile.by_volatility, flat.theta


def flat_marks(contract: Contract, left: float, model: Model, variance: Array) -> Marks:
    """Black-Scholes marks on a device at a variance per year, (n,) or (1,), by a kernel."""
    by_path = np.int32(variance.shape[0] > 1)
    return _launch_implied(contract, left, model, np.int32(False), by_path, cupy().ascontiguousarray(variance))


def fitted_marks(
    contract: Contract, left: float, model: Model, smile: Smile, state: Array, smile_years: float
) -> Marks:
    """`smile_marks` with `from_smile` on a device, by a kernel.

    state: (2 + d, n), s, d log s / d(model's volatility) and features. smile_years: the time left of the smile.
    """
    place = Place.of(state)
    per_root = place.dtype.type(smile_years**-0.5)
    arguments = kernel_arguments(smile, place)
    return launch_marks("smile", *contract, left, model.rate, model.dividend, per_root, state, *arguments)


def _launch_implied(contract: Contract, left: float, model: Model, *arguments: Any) -> Marks:
    return launch_marks("implied", *contract, left, model.rate, model.dividend, *arguments)


class Market:
    """Marks of European options along paths, consistent with the dynamics that made the paths.

    Discounted marks of a fixed contract are martingales under the risk-neutral dynamics that are simulated, and
    put-call parity holds to rounding. How each model gets there, and how exactly: docs/research_notes.md.
    """

    def __init__(self, paths: Paths, marker: Marker) -> None:
        self.paths = paths
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self.paths.model).market, (self.paths.model, self.paths)  # smiles are fitted again where needed

    @property
    def times(self) -> np.ndarray:
        """Years from the start, (n_steps + 1,), float64."""
        return self.paths.times

    @property
    def spot(self) -> Array:
        """Spot prices, (n_steps + 1, n_paths)."""
        return self.paths.spot

    @property
    def variance(self) -> Array:
        """Instantaneous variance per year, (n_steps + 1, n_paths)."""
        return self.paths.variance

    @property
    def n_paths(self) -> int:
        """How many paths."""
        return self.paths.n_paths

    @property
    def n_steps(self) -> int:
        """How many steps."""
        return self.paths.n_steps

    @property
    def dividend(self) -> float:
        """Yield of the underlying per year, continuously compounded."""
        return self.paths.model.dividend

    def rate_at(self, step: int) -> Array:
        """The rate per year, continuously compounded, that cash earns from `times[step]` on: a number, or (n_paths,)
        where the paths have their own. Raises ValueError for a step that is not on the grid."""
        on_grid(step, self.n_steps)
        return self.paths.parameters.get("rate", self.paths.model.rate)

    def mark(self, option: Option, step: int) -> Greeks:
        """Price, delta, gamma, vega and theta (n_paths,) of an option at `paths.times[step]`.

        Strike, expiry (years on the paths' clock) and right may each be a number or one for each path. Prices are per
        share, at expiry the payoff. Delta and gamma hold the state of the variance fixed. Vega is per 1.00 of the
        model's volatility: Black-Scholes and SABR theirs; Heston and GARCH sqrt(v), so that it is 2 sqrt(v) dV/dv;
        rough Bergomi the root of the mean forward variance up to expiry, the whole curve scaled. Theta is dV/dt per
        year: Black-Scholes' and Heston's at constant state, the others' at constant implied volatility. rho, vanna and
        volga are None. Each distinct expiry is priced by itself, the first time with a table (Heston) or a fit (rough
        Bergomi, SABR, a fraction of a second): draw random expiries from the grid.

        Raises ValueError for a step that is not on the grid, shapes other than () and (n_paths,), a strike that is not
        positive, and an option past its expiry. On a device strikes and expiries by path are looked through when an
        array is first seen, not again where it has been changed in place, and a path whose spot or variance is not
        finite has marks of NaN.
        """
        return mark_along(self.paths, self._marker, option, step)

    def volatility_slope(self, expiry_years: float, step: int) -> Array:
        """Cov(d volatility, dS) / Var(dS) over the step from times[step], (n_paths,), for options of one expiry.

        The volatility is that of `mark`'s vega. See the models' own; Black-Scholes: 0.
        """
        return self.paths.model.volatility_slope(self.paths, on_grid(step, self.n_steps), expiry_years)


def on_grid(step: int, n_steps: int) -> int:
    """The step; ValueError unless it is a whole number from 0 to n_steps."""
    if whole_number("step", step, minimum=0) > n_steps:
        raise ValueError(f"step must be at most {n_steps}, got {step}")
    return step


def mark_along(paths: PathView, marker: Marker, option: Option, step: int) -> Greeks:
    """Marks of every path at a step, from a marker that knows one expiry at a time: see `Market.mark`."""
    on_grid(step, paths.n_steps)
    xp, spot = namespace(paths.spot), paths.spot[step]
    dtype = spot.dtype
    strike = _by_path(xp, "strike", option.strike, paths.n_paths)
    is_call = _by_path(xp, "is_call", option.is_call, paths.n_paths)
    if is_call.dtype != bool:
        raise ValueError(f"is_call must be a bool or an array of them, got values of type {is_call.dtype}")
    if strike.dtype.kind not in "iuf":
        raise ValueError(f"strike must be a number or an array of numbers, got values of type {strike.dtype}")
    _check_strikes(xp, option.strike, strike)
    by_expiry = _by_expiry(xp, option.expiry_years, paths.n_paths)
    now = float(paths.times[step])
    tolerance = 1e-9 * max(1.0, float(paths.times[-1]))
    if not by_expiry[0][0] >= now - tolerance:
        raise ValueError(f"expiry_years must not lie before the step's time {now:g}, got {by_expiry[0][0]!r}")

    def marks(expiry: float, part: Array) -> Marks:
        contract = Contract(spot[part], _take(strike, part, dtype), _take(is_call, part, np.dtype(bool)))
        return _payoff(contract) if expiry <= now + tolerance else marker.marks(step, expiry, part, contract)

    if not is_numpy(xp):
        strike, is_call = _sent(xp, strike), _sent(xp, is_call)
        if len(by_expiry) == 1:
            return Greeks(*marks(by_expiry[0][0], slice(None)))
    result = [xp.empty(paths.n_paths, dtype=dtype) for _ in range(5)]
    width = _BLOCK if is_numpy(xp) else paths.n_paths
    for expiry, members in by_expiry:
        count = paths.n_paths if members is None else members.size
        for first in range(0, count, width):
            stop = min(first + width, count)
            part = slice(first, stop) if members is None else members[first:stop]
            for target, value in zip(result, marks(expiry, part), strict=True):
                target[part] = value
    return Greeks(*result)


class _Known:
    """What was found out of arrays on a device, for as long as each lives: to ask again would stall the device.

    So an array that is filled anew in place is not looked at anew.
    """

    def __init__(self) -> None:
        self._of: dict[int, tuple[weakref.ref[Any], Any]] = {}

    def get(self, array: Array) -> Any:
        """What is known of this very array, or None."""
        reference, value = self._of.get(id(array), (None, None))
        return value if reference is not None and reference() is array else None

    def keep(self, array: Array, value: Any) -> Any:
        """The value, which is kept."""
        key = id(array)
        self._of[key] = weakref.ref(array, lambda _: self._of.pop(key, None)), value
        return value


_good_strikes, _expiries = _Known(), _Known()


def _check_strikes(xp: ModuleType, given: Any, strike: Array) -> None:
    """ValueError unless all are positive and finite. given: what `strike` was made from."""
    on_device = not is_numpy(xp) and _lies_elsewhere(given)
    if _good_strikes.get(given) if on_device else isinstance(given, float | int) and 0.0 < given < np.inf:
        return
    good = namespace(strike).isfinite(strike) & (strike > 0)
    if not bool(good.all()):
        raise ValueError(f"strike must be positive and finite, got {float(strike[~good].reshape(-1)[0])!r}")
    if on_device:
        _good_strikes.keep(given, True)


def _by_expiry(xp: ModuleType, given: Any, n_paths: int) -> list[tuple[float, Array | None]]:
    """The distinct expiries, the first of them first, and the places of the paths of each; None where there is one."""
    on_device = not is_numpy(xp) and _lies_elsewhere(given)
    if on_device and given.shape in ((), (n_paths,)) and (known := _expiries.get(given)) is not None:
        return known
    expiries = to_numpy(given)
    if expiries.dtype.kind not in "iuf" or not np.isfinite(expiries).all():
        raise ValueError(f"expiry_years must be finite numbers, got {given!r}")
    expiries = expiries.astype(np.float64)
    if expiries.shape not in ((), (n_paths,)):
        raise ValueError(f"expiry_years must be a number or have shape ({n_paths},), got {expiries.shape}")
    result: list[tuple[float, Array | None]] = [(float(expiries.flat[0]), None)]
    if expiries.ndim and (expiries != expiries[0]).any():
        distinct, which = np.unique(expiries, return_inverse=True)
        members = np.split(np.argsort(which, kind="stable"), np.cumsum(np.bincount(which))[:-1])
        result = list(zip(distinct.tolist(), map(xp.asarray, members), strict=True))
    return _expiries.keep(given, result) if on_device else result


def _payoff(contract: Contract) -> Marks:
    xp = namespace(contract.spot)
    if isinstance(contract.is_call, bool):
        sign: Any = 1.0 if contract.is_call else -1.0
    else:
        sign = xp.where(contract.is_call, 1.0, -1.0).astype(contract.spot.dtype)
    gain = sign * (contract.spot - contract.strike)
    nothing = [xp.zeros_like(gain) for _ in range(3)]
    delta = sign * xp.where(gain > 0, 1.0, xp.where(gain < 0, 0.0, 0.5)).astype(gain.dtype)  # as in `pricing`
    return xp.maximum(gain, 0.0), delta, nothing[0], nothing[1], nothing[2]


def from_smile(
    smile: Callable[[ModuleType, Array, Array], Ratio],
    log_moneyness: Array,
    s: Array,
    features: Array,
    left: float,
    by_volatility: Array,
) -> Implied:
    """Implied volatility from a smile at deviation s; by_volatility: d log s / d(model's volatility)."""
    x = log_moneyness / s
    ratio = smile(namespace(s), x, features)
    per_root = left**-0.5
    by_log_deviation = ratio.value - x * ratio.by_moneyness + ratio.by_log_deviation
    return Implied(
        s * ratio.value * per_root,
        ratio.by_moneyness * per_root,
        ratio.by_moneyness_twice * per_root / s,
        by_log_deviation * s * per_root * by_volatility,
    )


def flat_smile(log_moneyness: Array, volatility: Array, by_volatility: Array) -> Implied:
    """No smile: Black-Scholes volatilities by path."""
    nothing = 0.0 * log_moneyness
    return Implied(nothing + volatility, nothing, nothing, nothing + by_volatility)


def _by_path(xp: ModuleType, name: str, value: Any, n_paths: int) -> Array:
    """The value as an array, on the device where it lies there; what comes from the host is checked on the host."""
    array = (xp if _lies_elsewhere(value) else np).asarray(value)
    if array.shape not in ((), (n_paths,)):
        raise ValueError(f"{name} must be a number or have shape ({n_paths},), got {array.shape}")
    return array


def _lies_elsewhere(value: Any) -> bool:
    """Whether the value is an array of another library than NumPy."""
    return hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray | np.generic)


def _sent(xp: ModuleType, value: Array) -> Any:
    """The array on the device, or its Python number."""
    return xp.asarray(value) if value.ndim else value.item()


def _take(array: Array, part: Array, dtype: np.dtype) -> Any:
    """The paths' own, in a dtype; a Python number as it is."""
    if not hasattr(array, "shape"):
        return array
    return (array if array.ndim == 0 else array[part]).astype(dtype, copy=False)
