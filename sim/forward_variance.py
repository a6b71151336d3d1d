"""Marks from the forward-variance curve that each path knows: rough Bergomi and SABR."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
from numpy.polynomial.hermite_e import hermegauss

from hedgerl.pricing import implied_volatility
from hedgerl.sim.backend import Array, namespace, single_threaded_blas
from hedgerl.sim.device import Place, cupy, launch
from hedgerl.sim.disk_cache import kept
from hedgerl.sim.market import Contract, Implied, Marks, SmileMarker, fitted_marks, flat_marks, flat_smile, from_smile
from hedgerl.sim.mixing import BEND, MONEYNESS, Bins, Group, Law, curve_features, fit
from hedgerl.sim.smile import Smile, blend, interpolate, otm_price

if TYPE_CHECKING:
    from hedgerl.sim.paths import Paths


class ForwardVarianceModel(Protocol):
    """What a model must tell for its marks."""

    curves_differ_in_shape: ClassVar[bool]  # or in level alone

    def with_parameter(self, name: str, value: float) -> Self:
        """See `Model.with_parameter`."""
        ...

    def _known_log_curve(self, times: np.ndarray) -> np.ndarray:
        """The part of log xi at the given times that no noise enters and no feature need learn, (m,)."""
        ...

    def _law_and_curves(
        self, fine: np.ndarray, first: int, ahead: np.ndarray, rng: np.random.Generator
    ) -> tuple[Law, np.ndarray]:
        """The law of the noise after fine[first], and the rest of log xi at the times `ahead` as paths meet it there,
        spread out a little, (N_STATES, m)."""
        ...

    def _log_forward_curve(self, paths: Paths, step: int, ahead: np.ndarray, bins: Bins, part: Array) -> Array:
        """log xi of paths at times[step] by bins (see `Bins`) of the steps that start at `ahead`, (b, n)."""
        ...

    def _curve_ahead(
        self, fine: np.ndarray, now: int, ahead: np.ndarray, bins: Bins
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The same curve as a kernel takes it, no parameter of which differs by path: factors of the expected variance
        of each bin, the first times the variance now, and the loadings of the logarithm of the others on the driver up
        to fine[now], (b - 1, now), where it has any."""
        ...


_SAME_SHAPE = 0.2  # of log xi_0 over its mean: curves that differ by more have smiles of their own
_EVERY = 10  # steps up to which every number of them has a smile of its own
_RATIO = 1.15  # of neighbouring numbers of steps beyond
_LEVEL = 0.2  # standard deviation of the level added to log xi of the curves that are learnt from
_STARTS = 4  # times to learn from that a smile needs to be interpolated: with fewer its state hardly varies
_NODES = (24, 8, 16)  # of the first step's normals: driver, residual, spot
_NODES_X, _NODES_LEVEL = 25, 4  # in moneyness and in the level of the curve, of the smile at the start
_MARGIN = 0.15  # of log volatility, which that smile reaches beyond the levels that are met: vega is a slope
Ranges = tuple[tuple[str, float, float], ...]  # of the perturbed parameters, by name


@dataclass(frozen=True, eq=False)
class SmileLibrary:
    """The smiles of one model on one grid, each fitted when it is first asked for."""

    model: ForwardVarianceModel
    fine: tuple[float, ...]
    ranges: Ranges  # of all perturbed parameters
    features: tuple[str, ...]  # those among them that the curve does not show
    smiles: dict[tuple[int, bytes], Smile] = field(default_factory=dict)
    shared: dict[tuple[bool, int, bytes], Smile] = field(default_factory=dict)
    nodes: dict[tuple[int, float, bool], Smile] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def smile(self, now: int, steps: np.ndarray) -> Smile:
        """The smile at fine[now] for steps of these lengths up to expiry."""
        key = (now, np.round(steps, 12).tobytes())
        with self.lock:
            if key not in self.smiles:
                one_state = now == 0 and not self.features
                self.smiles[key] = self._at_the_start(steps) if one_state else self._shared(now, steps)
            return self.smiles[key]

    def _at_the_start(self, steps: np.ndarray) -> Smile:
        """The smile at fine[0], where all curves are one up to their level: the mean of the next step's prices.

        Every user prices this one state, and compares it with the average of thousands of others, so that errors of a
        regression do not cancel as they do between two later steps. The mean over the step's three normals (of the
        driver, its residual and the spot) is a sum over Gauss-Hermite nodes.
        """
        model, fine, shaped = self.model, np.array(self.fine), self.model.curves_differ_in_shape
        ahead = np.append(0.0, np.cumsum(steps[:-1]))
        law, curves = model._law_and_curves(fine, 0, ahead, np.random.default_rng(0))  # no noise has entered yet
        known, random = model._known_log_curve(ahead), curves[0]
        bins, next_bins = Bins.of(steps, known), Bins.of(steps[1:], known[1:])
        weights = law.weights(ahead)
        (driver, by_driver), (residual, by_residual), (spot, by_spot) = (_normal_nodes(size) for size in _NODES)
        loading = law.eta * steps[0] ** 0.5 * weights.average[:, :1]
        own = law.eta * weights.residual[0]
        moved = random[1:, None] + loading * driver - 0.5 * loading**2
        moved = np.repeat(moved, residual.size, axis=1)  # (m - 1, driver and residual)
        moved[0] += np.tile(own * residual - 0.5 * own**2, driver.size)
        curve = bins.known[:, None] + bins.average(random[:, None])
        next_curve = next_bins.known[:, None] + next_bins.average(moved)
        next_smile = self._shared(1, steps[1:]) if steps.size > 2 else None  # the last step is lognormal
        probability = np.outer(np.outer(by_driver, by_residual), by_spot)
        shock = np.repeat(law.rho * driver[:, None] + (1.0 - law.rho**2) ** 0.5 * spot, residual.size, axis=0)
        centre = curve_features(np, bins, curve, shaped)[1][:, 0]

        def implied(x: np.ndarray, level: float) -> np.ndarray:
            """g at x (k,) with the log of the whole curve moved by `level`."""
            s = curve_features(np, bins, curve + level, shaped)[0]
            next_s, features = curve_features(np, next_bins, next_curve + level, shaped)
            deviation = np.exp(0.5 * (known[0] + random[0] + level)) * steps[0] ** 0.5
            log_forward = deviation * shock - 0.5 * deviation**2
            log_strike = (x * s)[:, None, None] - log_forward  # over the next step's forward price
            total = np.broadcast_to(next_s[:, None], log_strike.shape)
            if next_smile is not None:
                each = np.broadcast_to(features[:, None, :, None], (len(features), *log_strike.shape))
                ratio = next_smile(np, (log_strike / total).reshape(-1), each.reshape(len(features), -1))
                total = total * ratio.value.reshape(total.shape)
            is_call = x > 0
            sign = np.where(is_call, 1.0, -1.0)[:, None, None]
            price = np.einsum("kcs,cs->k", np.exp(log_forward) * otm_price(log_strike, total, sign), probability)
            return implied_volatility(price, 1.0, np.exp(x * s), 1.0, is_call=is_call) / s

        def ratio(x: np.ndarray, log_volatility: np.ndarray) -> np.ndarray:
            return np.stack([implied(x[:, 0], 2.0 * (value - centre[0])) for value in log_volatility[0]], axis=1)

        ends = [centre[0] + 0.5 * (level - known[0] - random[0]) for level in self._levels(ahead)]
        low, high = min(ends) - _MARGIN, max(ends) + _MARGIN
        smile = interpolate(MONEYNESS, low, high, (_NODES_X, _NODES_LEVEL), ratio, BEND)
        rest = np.zeros((len(smile.degrees), centre.size - 1), dtype=int)  # the other features do not vary
        return dataclasses.replace(
            smile,
            low=np.append(low, centre[1:]),
            high=np.append(high, centre[1:]),
            degrees=np.concatenate([smile.degrees, rest], axis=1),
        )

    def _levels(self, ahead: np.ndarray) -> list[float]:
        """log xi of the current step at the start: of the model and at the ends of the ranges of its parameters."""
        models = [self.model]
        for name, *bounds in self.ranges:
            models += [self.model.with_parameter(name, bound) for bound in bounds]
        levels = []
        for model in models:
            _, curves = model._law_and_curves(np.array(self.fine), 0, ahead, np.random.default_rng(0))
            levels.append(float(model._known_log_curve(ahead)[0] + curves[0, 0]))
        return levels

    def _shared(self, now: int, steps: np.ndarray) -> Smile:
        """One smile serves all times at which the same steps lie ahead of a curve of like shape."""
        within = self.fine[now] + float(steps.sum()) <= self.fine[-1] * (1 + 1e-9)
        starts = self._starts(steps, within)
        alike = self._alike(now, starts, steps)
        key = (within, int(alike[0]), np.round(steps, 12).tobytes())
        if key not in self.shared:
            whole = alike.size == starts.size
            self.shared[key] = (
                self._interpolated(steps, starts, within) if whole else self._fit(steps, alike, tied=True)
            )
        return self.shared[key]

    def _alike(self, now: int, starts: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Those of `starts` from which the known part of the curve ahead looks like that from `now`.

        The features do not see where an event lies, so that each place of one needs a smile of its own.
        """
        ahead = np.append(0.0, np.cumsum(steps[:-1]))
        shapes = np.stack([self.model._known_log_curve(self.fine[start] + ahead) for start in starts])
        shapes -= np.log(np.exp(shapes) @ steps)[:, None]
        left = np.arange(starts.size)
        while True:
            near = np.abs(shapes[left] - shapes[left[0]]).max(axis=1) <= _SAME_SHAPE
            if now in starts[left[near]]:
                return starts[left[near]]
            left = left[~near]

    def _starts(self, steps: np.ndarray, within: bool) -> np.ndarray:
        """The times, as places in `fine`, at which an option may have these steps ahead of it.

        Where the option expires `within` the simulation, only times that leave room for it; and only times from which
        the grid goes on in steps like these, the last of which may be cut short.
        """
        fine, horizon = np.array(self.fine), float(steps.sum())
        lengths = np.diff(extended(fine, fine[-1] + horizon * (1 + 1e-9)))
        windows = np.lib.stride_tricks.sliding_window_view(lengths, steps.size)[: fine.size, :-1]
        like = (np.abs(windows - steps[:-1]) <= 1e-6 * steps[:-1]).all(axis=1)
        if within:
            like &= fine[: like.size] + horizon <= fine[-1] * (1 + 1e-9)
        return np.flatnonzero(like)

    def _interpolated(self, steps: np.ndarray, starts: np.ndarray, within: bool) -> Smile:
        """From _EVERY equal steps on only some numbers of steps are fitted, and g is interpolated between them in the
        logarithm of the number, which may then be broken."""
        number = float(steps.sum() / steps[0])
        below = above = _EVERY
        while above < number - 1e-6:
            below, above = above, int(np.ceil(above * _RATIO))
        equal = np.allclose(steps[:-1], steps[0], rtol=1e-6, atol=0.0)
        if number < _EVERY + 1e-6 or not equal or self._room(above, steps[0], within).size < _STARTS:
            return self._fit(steps, starts)
        share = float(np.log(number / below) / np.log(above / below))
        return blend(self._node(below, steps[0], within), self._node(above, steps[0], within), share)

    def _room(self, number: int, length: float, within: bool) -> np.ndarray:
        """The times to learn from a smile for a number of equal steps: where too few leave room for the expiry, the
        first of all, from which it then lies beyond the simulation."""
        steps = np.full(number, length)
        starts = self._starts(steps, within)
        return starts if starts.size >= _STARTS else self._starts(steps, False)[: _STARTS + 1]

    def _node(self, number: int, length: float, within: bool) -> Smile:
        key = (number, round(float(length), 12), within)
        if key not in self.nodes:
            self.nodes[key] = self._fit(np.full(number, length), self._room(number, length, within))
        return self.nodes[key]

    def _fit(self, steps: np.ndarray, starts: np.ndarray, tied: bool = False) -> Smile:
        """tied: whether an event ahead has the same noise from wherever it is seen."""
        if not _told_by_its_text(self.model):
            return self._fresh_fit(steps, starts, tied)
        question = repr((self.model, self.fine, self.ranges, self.features, steps.tolist(), starts.tolist(), tied))
        arrays = kept(question, lambda: dataclasses.asdict(self._fresh_fit(steps, starts, tied)))
        low, high, degrees, coefficients = (arrays[name] for name in ("low", "high", "degrees", "coefficients"))
        return Smile(float(arrays["moneyness"]), float(arrays["bend"]), low, high, degrees, coefficients)

    def _fresh_fit(self, steps: np.ndarray, starts: np.ndarray, tied: bool) -> Smile:
        fine = np.array(self.fine)
        ahead = np.append(0.0, np.cumsum(steps[:-1]))
        if not self.features and starts.size > 1:
            starts = starts[starts > 0]  # the start has smiles of its own

        def group(number: int, rng: np.random.Generator) -> Group:
            # the first start, mostly that of the simulation, is one state among many, yet the one every user prices
            first = starts[0] if number % 8 == 0 else starts[int(rng.integers(len(starts)))]
            model: ForwardVarianceModel = self.model
            drawn = {}
            for name, low, high in self.ranges:
                drawn[name] = low + (high - low) * rng.random()
                model = model.with_parameter(name, drawn[name])
            law, curves = model._law_and_curves(fine, first, fine[first] + ahead, rng)
            # a level that moves by itself: early in a simulation it would only be met together with a shape, and vega
            # would be anybody's guess
            curves = curves + _LEVEL * rng.standard_normal((len(curves), 1))
            known = model._known_log_curve(fine[first] + ahead)
            parameters = np.array([drawn[name] for name in self.features])
            return Group(law, known, curves, parameters, int(starts[0]) if tied else 0)

        with single_threaded_blas():
            return fit(steps, group, shaped=self.model.curves_differ_in_shape, alone=tied)


def _told_by_its_text(value: Any) -> bool:
    """Whether all that a model does follows from its repr and this package's code; no function of the user's."""
    if dataclasses.is_dataclass(value):
        ours = type(value).__module__.startswith("hedgerl.")
        return ours and all(_told_by_its_text(getattr(value, item.name)) for item in dataclasses.fields(value))
    if isinstance(value, tuple):
        return all(map(_told_by_its_text, value))
    return value is None or isinstance(value, int | float | str)


@lru_cache(maxsize=32)
def library(
    model: ForwardVarianceModel, fine: tuple[float, ...], ranges: Ranges, features: tuple[str, ...]
) -> SmileLibrary:
    """The library of smiles, shared by all paths of the same model, grid and ranges of perturbed parameters."""
    return SmileLibrary(model, fine, ranges, features)


class Curves(NamedTuple):
    """Curves of expected variance by bins as curve_features.cu takes them, on a device."""

    bins: Array  # (b, 3): factor, middle and share, see the kernel
    loading: Array | None  # (b - 1, now) on the driver
    shaped: bool
    n_features: int
    per_root: Any  # 1 / sqrt(time to expiry)

    @classmethod
    def of(cls, place: Place, bins: np.ndarray, loading: np.ndarray | None, shaped: bool, tau: float) -> Curves:
        """From arrays on the host; a shaped curve of b bins has min(b, 4) features, as in `curve_features`."""
        n_features = min(bins.shape[0], 4) if shaped else 1
        sent = None if loading is None else place.sent(loading)
        return cls(place.sent(bins), sent, shaped, n_features, place.dtype.type(tau**-0.5))

    def state(self, variance: Array, driver: Array | None = None) -> Array:
        """s, d log s / d(model's volatility) and features, (2 + d, n), at a variance (n,) and a driver (now, n)."""
        dtype, n_paths = variance.dtype, variance.shape[0]
        variance = cupy().ascontiguousarray(variance)
        moved = variance if self.loading is None else self.loading @ driver
        state = cupy().empty((2 + self.n_features, n_paths), dtype=dtype)
        launch(
            "curve_features",
            dtype,
            n_paths,
            *(np.int64(n_paths), variance, np.int32(self.bins.shape[0]), self.bins),
            *(np.int32(self.loading is not None), moved),
            *(np.int32(self.shaped), np.int32(self.n_features), self.per_root, state),
        )
        return state


@lru_cache(maxsize=8192)
def _ahead(library: SmileLibrary, now: int, expiry_years: float, place: Place) -> tuple[Smile, float, Curves] | None:
    """What all paths share of an option's marks at fine[now], on a device: its smile, the time left, and the way to its
    features; None one step before expiry. A mark would else wait for the host, and for its arrays to be sent."""
    model, fine = library.model, np.array(library.fine)
    steps = steps_to(fine, now, expiry_years)
    if steps.size == 1:
        return None
    ahead = fine[now] + np.append(0.0, np.cumsum(steps[:-1]))
    bins = Bins.of(steps, model._known_log_curve(ahead))
    factors, loading = model._curve_ahead(fine, now, ahead, bins)
    tau, size = float(steps.sum()), factors.size
    share = np.clip((0.25 * tau - bins.middles) / bins.lengths + 0.5, 0.0, 1.0)  # see `curve_features`
    table = np.stack([factors, bins.middles[:size] / tau, share[:size]], axis=1)
    curves = Curves.of(place, table, loading, model.curves_differ_in_shape, tau)
    return library.smile(now, steps), tau, curves


class ForwardVarianceMarker(SmileMarker):
    """A marker for models whose variance ahead is lognormal (see `hedgerl.sim.mixing`)."""

    def __init__(self, paths: Paths, model: ForwardVarianceModel, hidden: tuple[str, ...]) -> None:
        """hidden: the parameters of `model`, which made the paths, that a forward curve does not show."""
        self.paths = paths
        self.model = model
        self.features = tuple(name for name in hidden if name in paths.parameters)
        ranges = tuple((name, *bounds) for name, bounds in paths.ranges.items() if name != "drift")
        # what moves paths but no smile must not make them be fitted again
        still: dict[str, Any] = {"spot": 1.0, "rate": 0.0, "dividend": 0.0, "drift": None, "variance_risk_premium": 0.0}
        bare: Any = dataclasses.replace(paths.model, **still)
        self.library = library(bare, tuple(paths.grid.fine.tolist()), ranges, self.features)

    def implied(self, step: int, expiry_years: float, part: Array, log_moneyness: Array) -> Implied:
        """See `SmileMarker.implied`."""
        paths = self.paths
        xp = namespace(log_moneyness)
        now = int(paths.grid.kept[step])
        steps = steps_to(paths.grid.fine, now, expiry_years)
        if steps.size == 1:
            volatility = xp.sqrt(paths.variance[step][part])
            return flat_smile(log_moneyness, volatility, 1.0)
        s, by_volatility, features = self._state(step, steps, part)
        return from_smile(self.library.smile(now, steps), log_moneyness, s, features, float(steps.sum()), by_volatility)

    def _state(self, step: int, steps: np.ndarray, part: Array) -> tuple[Array, Array, Array]:
        """s (n,), d log s / d(model's volatility) and features (d, n) of an option after `steps`."""
        paths = self.paths
        xp = namespace(paths.spot)
        ahead = paths.grid.fine[paths.grid.kept[step]] + np.append(0.0, np.cumsum(steps[:-1]))
        bins = Bins.of(steps, self.model._known_log_curve(ahead))
        curve = self.model._log_forward_curve(paths, step, ahead, bins, part)
        s, features = curve_features(xp, bins, curve, self.model.curves_differ_in_shape)
        if self.features:
            features = xp.concatenate([features, xp.stack([paths.parameters[name][part] for name in self.features])])
        left = float(steps.sum())
        by_volatility = left**0.5 / s if self.model.curves_differ_in_shape else paths.variance[step][part] ** -0.5
        return s, by_volatility, features

    def _device_marks(self, step: int, expiry_years: float, part: Array, contract: Contract, left: float) -> Marks:
        """See `SmileMarker._device_marks`. Where parameters differ by path the state comes from the array code."""
        paths = self.paths
        variance, now = paths.variance[step][part], int(paths.grid.kept[step])
        known = _ahead(self.library, now, expiry_years, Place.of(variance))
        if known is None:
            return flat_marks(contract, left, paths.model, variance)
        smile, smile_years, curves = known
        if paths.parameters.keys() <= {"drift"}:
            driver = paths.state["driver"][:now][:, part] if curves.loading is not None else None
            state = curves.state(variance, driver)
        else:
            s, by_volatility, features = self._state(step, steps_to(paths.grid.fine, now, expiry_years), part)
            state = cupy().concatenate([s[None], by_volatility[None], features])
        return fitted_marks(contract, left, paths.model, smile, state, smile_years)


def _normal_nodes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss-Hermite quadrature under the standard normal law."""
    nodes, weights = hermegauss(size)
    return nodes, weights / weights.sum()


def extended(fine: np.ndarray, until: float) -> np.ndarray:
    """The fine grid, going on with its last step until a time at least."""
    last = fine[-1] - fine[-2]
    missing = int(np.ceil((until - fine[-1]) / last - 1e-6))
    return fine if missing <= 0 else np.append(fine, fine[-1] + last * np.arange(1, missing + 1))


def steps_to(fine: np.ndarray, now: int, expiry_years: float) -> np.ndarray:
    """Lengths of the steps from fine[now] to expiry, the last one cut short where expiry is between two times."""
    grid = extended(fine, expiry_years)
    tolerance = 1e-9 * max(1.0, expiry_years)
    between = grid[now + 1 :][grid[now + 1 :] < expiry_years - tolerance]
    return np.diff(np.concatenate([[grid[now]], between, [expiry_years]]))
