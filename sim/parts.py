"""Paths made in parts, by other processes or devices, and joined."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hedgerl.pricing._checks import whole_number
from hedgerl.sim.backend import Array, namespace, resolve
from hedgerl.sim.model import DEVICE_PATHS
from hedgerl.sim.paths import Paths

_PARTS = 4  # for each device, that one which is slower holds the others up less


class Joined:
    """Arrays for all of n_paths, to be filled part by part, beside those of one part."""

    def __init__(self, part: Paths, n_paths: int) -> None:
        self.part = part
        self.n_paths = n_paths
        self._xp = namespace(part.spot)
        self.arrays = {
            name: self._xp.empty((*array.shape[:-1], n_paths), dtype=array.dtype)
            for name, array in arrays_of(part).items()
        }

    @property
    def bytes_per_path(self) -> int:
        """Of all arrays."""
        return sum(array.nbytes for array in self.arrays.values()) // self.n_paths

    def put(self, columns: slice, arrays: dict[str, Array]) -> None:
        """Takes in the paths of these columns, by `arrays_of`."""
        for name, array in arrays.items():
            self.arrays[name][..., columns] = array

    def paths(self) -> Paths:
        """All of them."""
        part, arrays = self.part, self.arrays
        constant = self._xp.broadcast_to(part.variance[:, :1], (part.variance.shape[0], self.n_paths))
        return dataclasses.replace(
            part,
            spot=arrays["spot"],
            variance=arrays.get("variance", constant),
            parameters={name: arrays[f"parameters/{name}"] for name in part.parameters},
            state={name: arrays[f"state/{name}"] for name in part.state},
        )


def arrays_of(paths: Paths) -> dict[str, Array]:
    """The arrays of paths by name, without one that is a single number seen as an array."""
    arrays = {"spot": paths.spot, "variance": paths.variance}
    arrays |= {f"parameters/{name}": array for name, array in paths.parameters.items()}
    arrays |= {f"state/{name}": array for name, array in paths.state.items()}
    return {name: array for name, array in arrays.items() if 0 not in array.strides}


def simulate_on_devices(
    devices: Sequence[int],
    simulate: Callable[..., Paths],
    n_paths: int,
    progress: Callable[[int, int], None] | None = None,
) -> Paths:
    """What `simulate(n_paths)` gives by CuPy, made on several CUDA devices at once and gathered on the first of them.

    devices: their numbers. simulate: `Model.simulate` with whatever it is given but n_paths, part, backend and
    progress. Parts are of 65,536 paths at least: fewer paths than two of these are made on the first device. Raises
    ValueError for a device that is not there, or named twice, and what `simulate` and `resolve` raise.

    >>> import functools
    >>> from hedgerl.sim import BlackScholes
    >>> simulate = functools.partial(BlackScholes(volatility=0.2).simulate, n_steps=252, maturity=1.0, seed=1)
    >>> paths = simulate_on_devices([0, 1], simulate, 1_000_000)  # doctest: +SKIP
    """
    cupy: Any = resolve("cupy")
    found = int(cupy.cuda.runtime.getDeviceCount())
    if not devices:
        raise ValueError("devices must name a CUDA device at least, got none")
    for number in devices:
        if whole_number("devices", number, minimum=0) >= found:
            raise ValueError(f"devices must be numbers of CUDA devices, of which there are {found}, got {number}")
    if len(set(devices)) < len(devices):
        raise ValueError(f"devices must name each CUDA device once, got {list(devices)}")
    whole_number("n_paths", n_paths)
    home = cupy.cuda.Device(devices[0])
    with home:
        first = simulate(n_paths, part=(0, 1), backend="cupy")  # refuses what is wrong, draws the seed
        joined = Joined(first, n_paths)
    width = max(1, n_paths // (_PARTS * len(devices) * DEVICE_PATHS)) * DEVICE_PATHS
    waiting = iter([(start, min(start + width, n_paths)) for start in range(0, n_paths, width)])
    lock, failed = threading.Lock(), threading.Event()
    done = 0

    def work(number: int) -> None:
        nonlocal done
        while not failed.is_set():
            with lock:
                part = next(waiting, None)
            if part is None:
                return
            try:
                with cupy.cuda.Device(number) as device:
                    arrays = arrays_of(simulate(n_paths, part=part, seed=first.seed, backend="cupy"))
                    device.synchronize()
                with home:  # `asarray` takes what lies on another device to the current one
                    joined.put(slice(*part), {name: cupy.asarray(array) for name, array in arrays.items()})
                    home.synchronize()
            except BaseException:
                failed.set()
                raise
            with lock:
                done += part[1] - part[0]
                if progress is not None:
                    progress(done, n_paths)

    with ThreadPoolExecutor(len(devices)) as pool:
        for future in [pool.submit(work, number) for number in devices]:
            future.result()
    with home:
        return joined.paths()
