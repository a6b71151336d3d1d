"""What every model shares: its parameters, how paths are drawn, and the market they make."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np

from hedgerl.pricing._checks import finite, positive, whole_number
from hedgerl.sim.backend import (
    DTYPES,
    Array,
    Workspace,
    enough_memory,
    is_numpy,
    resolve,
    run_blocks,
    single_threaded_blas,
    to_numpy,
    usable_threads,
)
from hedgerl.sim.device import Stream
from hedgerl.sim.grid import TimeGrid, kept_times, refine
from hedgerl.sim.market import Marker, Market
from hedgerl.sim.noise import STREAM_PATHS, device_stream, entropy, normals
from hedgerl.sim.paths import Paths
from hedgerl.sim.perturbation import Distribution, distributions, draw

DEVICE_PATHS = 64 * STREAM_PATHS  # simulated at a time on a device: enough to fill it, and always drawn whole
_SCRATCH_BYTES = 64 << 20  # of noise a thread: wide blocks amortise call overhead, yet must stay near the caches


@dataclass(frozen=True, eq=False)
class Block:
    """A block of paths being simulated: noise and parameters in, views of the result out.

    Scalars are Python floats, never NumPy's: those would turn float32 arrays into float64.
    """

    xp: ModuleType
    work: Workspace
    grid: TimeGrid
    given: Array | None  # (n_noise, n_fine, n_block), standard normal, from outside
    drawn: Callable[[], Array]  # else these, (n_noise, n_fine, at least n_block): streams are whole
    stream: Stream | None  # on a device: where they come from
    parameters: Mapping[str, Any]  # every parameter of the model: a Python float, or (n_block,) where perturbed
    perturbed: frozenset[str]  # the names of those that are arrays
    spot: Array  # (n_steps + 1, n_block), to be filled
    variance: Array  # (n_steps + 1, n_block), to be filled
    state: Mapping[str, Array]  # name -> (rows, n_block), to be filled

    @cached_property
    def whole_noise(self) -> Array:
        """Standard normals (n_noise, n_fine, at least n_block)."""
        return self.drawn() if self.given is None else self.given

    @property
    def noise(self) -> Array:
        """The paths' own noise, (n_noise, n_fine, n_block)."""
        return self.whole_noise[:, :, : self.n_paths]

    @property
    def source(self) -> tuple[Any, ...]:
        """Where a kernel takes its noise from: a stream, and whether it is given an array instead."""
        stream = Stream((0, 0)) if self.stream is None else self.stream
        noise = self.xp.empty(1, dtype=self.spot.dtype) if self.given is None else self.given
        return *stream.arguments, np.int32(self.given is not None), noise

    @property
    def n_paths(self) -> int:
        """How many paths are in this block."""
        return int(self.spot.shape[1])

    def scratch(self, name: str) -> Array:
        """An uninitialised array (n_block,) from the workspace."""
        return self.work.take(name, (self.n_paths,))

    def zeros(self, name: str) -> Array:
        """Zeros (n_block,) in the workspace."""
        array = self.scratch(name)
        array[...] = 0.0
        return array


@dataclass(frozen=True, kw_only=True)
class Model(ABC):
    """A market model. Its own parameters are risk-neutral: they price the options.

    `drift` (the real-world growth of the underlying per year with its dividends; None means the rate) and, where a
    model has one, `variance_risk_premium` move the simulated paths only.
    """

    n_noise: ClassVar[int]  # independent normals a step
    perturbable: ClassVar[tuple[str, ...]]  # parameters that may differ by path

    spot: float = 100.0
    rate: float = 0.0
    dividend: float = 0.0
    drift: float | None = None

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):  # integers and NumPy's numbers become floats: see `Block`
            value = getattr(self, item.name)
            if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
                object.__setattr__(self, item.name, float(value))
        positive("spot", self.spot)
        finite("rate", self.rate)
        finite("dividend", self.dividend)
        if self.drift is not None:
            finite("drift", self.drift)

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters by name."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}

    def with_parameter(self, name: str, value: float) -> Self:
        """This model with one parameter changed, checked as at construction."""
        return dataclasses.replace(self, **{name: value})

    def simulate(
        self,
        n_paths: int,
        n_steps: int | None = None,
        maturity: float | None = None,
        seed: int | None = None,
        *,
        times: Any = None,
        substeps: int = 1,
        antithetic: bool = False,
        perturb: Mapping[str, Any] | None = None,
        noise: Any = None,
        backend: str = "auto",
        dtype: str = "float32",
        threads: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        part: tuple[int, int] | None = None,
    ) -> Paths:
        """Simulated paths, on `n_steps` equal steps to `maturity` years or on the grid `times`.

        Parameters
        ----------
        seed : None draws fresh entropy, which `Paths.seed` keeps. Path i depends on the seed and i alone: not on
            n_paths, threads or dtype (up to rounding). CuPy draws other numbers than NumPy (`noise.device_normals`).
        times : increasing years from 0, instead of n_steps and maturity.
        substeps : steps simulated for each one kept.
        antithetic : paths 2i and 2i + 1 carry opposite noise; n_paths must be even.
        perturb : parameter name -> distribution (`Uniform`, `LogUniform`) or pair (low, high); a draw for each path,
            kept in `Paths.parameters`.
        noise : standard normals (n_noise, steps simulated, n_paths) to be used instead of a stream; the model says what
            each row drives.
        backend : "numpy", "cupy", or "auto": CuPy where a GPU works.
        dtype : "float32" or "float64".
        threads : None uses all cores that the process may run on. The result is the same for any number.
        progress : called with (paths done, n_paths) now and then.
        part : (first, stop): of the n_paths only these, the same to the last bit. `first` is a multiple of the paths
            that are drawn together, 1,024 or, by CuPy, 65,536; noise from outside has no parts.

        Raises ValueError naming the argument, the rule and the value.
        """
        n_paths = whole_number("n_paths", n_paths)
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        if antithetic and n_paths % 2:
            raise ValueError(f"n_paths must be even where antithetic is set, got {n_paths}")
        n_threads = usable_threads() if threads is None else whole_number("threads", threads)
        xp = resolve(backend)
        on_host = is_numpy(xp)
        drawn_together = STREAM_PATHS if on_host else DEVICE_PATHS
        origin, n_paths = _checked_part(part, n_paths, drawn_together)
        grid = self._grid(kept_times(n_steps, maturity, times), substeps)
        n_fine = grid.fine.size - 1
        spread = distributions(self, perturb)
        if noise is None:
            seed = entropy(seed)
        else:
            if seed is not None or antithetic:
                raise ValueError("noise must not be given together with seed or antithetic")
            if spread:
                raise ValueError("noise must not be given together with perturb, which draws from the seed")
            if part is not None:
                raise ValueError("noise must not be given together with part")
            noise = _checked_noise(xp, noise, (self.n_noise, n_fine, n_paths))

        kind = np.dtype(dtype)
        state_rows = self._state_rows(grid)
        with enough_memory(xp, n_paths, (2 * grid.times.size + sum(state_rows.values())) * kind.itemsize):
            spot = xp.empty((grid.times.size, n_paths), dtype=kind)
            variance = self._variance_array(xp, grid, n_paths, kind, spread)
            state = {name: xp.empty((rows, n_paths), dtype=kind) for name, rows in state_rows.items()}
        draws = draw(spread, seed, origin, n_paths) if seed is not None else {}
        kernel = None if on_host else self._kernel(frozenset(spread))
        plan = self._plan(xp, grid, kind, spread) if kernel is None else None
        parameters = {name: xp.asarray(values, dtype=kind) for name, values in draws.items()}

        if on_host:
            width = _block_width(self.n_noise * n_fine * kind.itemsize)
        else:
            width = DEVICE_PATHS if kernel is None else n_paths
        spare: list[Workspace] = []

        def simulate_block(first: int) -> None:
            try:
                work = spare.pop()
            except IndexError:
                work = Workspace(xp, dtype)
            part = slice(first, min(first + width, n_paths))
            # whole streams: BLAS adds up the columns of an uneven width in another order
            drawn_paths = -(-(part.stop - first) // drawn_together) * drawn_together
            shape = (self.n_noise, n_fine)

            def drawn() -> Array:
                assert seed is not None
                return normals(xp, work, seed, "paths", shape, origin + first, drawn_paths, antithetic)

            block = Block(
                xp=xp,
                work=work,
                grid=grid,
                given=None if noise is None else xp.ascontiguousarray(noise[:, :, part], dtype=kind),
                drawn=drawn,
                stream=None if on_host or seed is None else device_stream(seed, "paths", origin + first, antithetic),
                parameters=self.parameters | {name: values[part] for name, values in parameters.items()},
                perturbed=frozenset(parameters),
                spot=spot[:, part],
                variance=variance[:, part],
                state={name: rows[:, part] for name, rows in state.items()},
            )
            if kernel is None:
                self._simulate(block, plan)
            else:
                kernel(block)
            spare.append(work)

        with single_threaded_blas():
            for first in run_blocks(simulate_block, range(0, n_paths, width), n_threads if on_host else 1):
                if progress is not None:
                    progress(min(first + width, n_paths), n_paths)
        ranges = {name: (item.low, item.high) for name, item in spread.items()}
        return Paths(self, grid, seed, spot, variance, parameters, state, ranges)

    def market(self, paths: Paths) -> Market:
        """Prices and Greeks of European options along `paths`, consistent with this model's simulated dynamics."""
        if paths.model != self:
            raise ValueError(f"paths must be simulated by this model, got paths of {paths.model!r}")
        return Market(paths, self._marker(paths))

    def volatility_slope(self, paths: Paths, step: int, expiry_years: float) -> Array:
        """Cov(d volatility, dS) / Var(dS) over the step that begins at times[step], by path (n,).

        `volatility` is the one that vega is by, see `Market.mark`; so delta + vega x slope is the minimum-variance
        delta of an option that expires at `expiry_years`. Zero where the spot alone moves prices.
        """
        return 0.0 * paths.spot[step]

    def growth(self, parameters: Mapping[str, Any]) -> Any:
        """The real-world growth rate of the spot price per year, dividends taken off: drift - dividend."""
        drift = parameters["drift"]
        return (self.rate if drift is None else drift) - self.dividend

    def _grid(self, times: np.ndarray, substeps: int) -> TimeGrid:
        return refine(times, substeps)

    def _variance_array(
        self, xp: ModuleType, grid: TimeGrid, n_paths: int, dtype: np.dtype, spread: Mapping[str, Distribution]
    ) -> Array:
        return xp.empty((grid.times.size, n_paths), dtype=dtype)

    def _state_rows(self, grid: TimeGrid) -> dict[str, int]:
        """Names of further state that marks need, each with its number of rows."""
        return {}

    def _plan(self, xp: ModuleType, grid: TimeGrid, dtype: np.dtype, spread: Mapping[str, Distribution]) -> Any:
        """What all blocks of one simulation share, computed once."""
        return None

    def _kernel(self, perturbed: frozenset[str]) -> Callable[[Block], None] | None:
        """What does on a device what `_simulate` does, by a kernel of our own for all paths; None where none can."""
        return None

    @abstractmethod
    def _marker(self, paths: Paths) -> Marker:
        """What implies volatilities along paths of this model."""

    @abstractmethod
    def _simulate(self, block: Block, plan: Any) -> None:
        """Fills spot, variance and state of one block: deterministic, given its noise and parameters."""


def _block_width(bytes_per_path: int) -> int:
    """Paths simulated at a time: whole streams, 1 to 16 of them."""
    streams = _SCRATCH_BYTES // (bytes_per_path * STREAM_PATHS)
    return STREAM_PATHS * min(max(streams, 1), 16)


def _checked_part(part: Any, n_paths: int, drawn_together: int) -> tuple[int, int]:
    """The first path and how many there are."""
    if part is None:
        return 0, n_paths
    first, stop = part
    first = whole_number("first of part", first, minimum=0)
    if first % drawn_together:
        raise ValueError(f"first of part must be a multiple of {drawn_together}, got {first}")
    stop = whole_number("stop of part", stop)
    if not first < stop <= n_paths:
        raise ValueError(f"stop of part must lie above first and be at most n_paths = {n_paths}, got {first}, {stop}")
    return first, stop - first


def _checked_noise(xp: ModuleType, noise: Any, shape: tuple[int, int, int]) -> Array:
    array = xp.asarray(to_numpy(noise) if is_numpy(xp) else noise)
    if array.shape != shape:
        raise ValueError(f"noise must have shape (n_noise, steps simulated, n_paths) = {shape}, got {array.shape}")
    if not bool(xp.isfinite(array).all()):
        raise ValueError("noise must be finite, got NaN or infinity")
    return array
