"""Standard normal noise: named, spawned streams, one for each group of paths.

Path i of a simulation is drawn from stream (seed, name, i // STREAM_PATHS), whatever the number of paths, threads or
blocks: a larger run begins with the smaller one. A device draws by counters instead, each path its own.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from hedgerl.sim.backend import Array, Workspace, is_numpy
from hedgerl.sim.device import Stream, launch

STREAM_PATHS = 1024  # paths that share a stream
_FACTORS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)  # of Philox4x32
_WEYL = 0x9E3779B9, 0xBB67AE85
_WORD, _HALF = np.uint64(2**32 - 1), np.uint64(32)
CHUNK = 1 << 15  # normals made at a time: small enough to stay in a core's cache, large enough to hide call overhead


def entropy(seed: int | None) -> int:
    """The seed, or fresh entropy of the operating system where it is None.

    Raises ValueError unless the seed is None or a whole number of at least 0.
    """
    if seed is None:
        fresh = np.random.SeedSequence().entropy
        assert isinstance(fresh, int)
        return fresh
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be a whole number of at least 0 or None, got {seed!r}")
    return int(seed)


def seed_sequence(seed: int, name: str, *index: int) -> np.random.SeedSequence:
    """The seed sequence of a named stream: other names and other indices give independent streams."""
    return np.random.SeedSequence(seed, spawn_key=(zlib.crc32(name.encode()), *index))


def drawn_seed(sequence: np.random.SeedSequence) -> int:
    """A whole number of 63 bits from a sequence: the seed of a simulation of its own."""
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, name: str, *index: int) -> np.random.Generator:
    """A PCG64 generator on the named stream."""
    return np.random.Generator(np.random.PCG64(seed_sequence(seed, name, *index)))


def fill_normals(rng: np.random.Generator, out: np.ndarray, scratch: np.ndarray) -> None:
    """Fills the flat float32 or float64 array `out` (even size) with standard normals (Box & Muller 1958).

    Both dtypes turn the same 32-bit numbers into the same normals up to rounding, so a float64 run is the float32 run,
    seen more sharply. Vectorised Box-Muller takes a quarter of the time of NumPy's ziggurat in float32. Normals are cut
    at sqrt(2 ln 2^33) = 6.76, which one draw in 7e10 would pass. `scratch`: at least CHUNK / 2 of the same dtype.
    """
    dtype = out.dtype.type
    for start in range(0, out.size, CHUNK):
        half = min(CHUNK, out.size - start) // 2
        bits = rng.integers(0, 1 << 64, size=half, dtype=np.uint64).view(np.uint32)
        radius = out[start : start + half]
        angle = out[start + half : start + 2 * half]
        cosine = scratch[:half]
        radius[...] = bits[:half]
        radius += dtype(0.5)
        radius *= dtype(2.0**-32)  # uniform on (0, 1]
        np.log(radius, out=radius)
        radius *= dtype(-2.0)
        np.sqrt(radius, out=radius)
        angle[...] = bits[half:].view(np.int32)
        angle *= dtype(math.pi * 2.0**-31)  # uniform on [-pi, pi)
        np.cos(angle, out=cosine)
        np.sin(angle, out=angle)
        angle *= radius
        radius *= cosine


def normals(
    xp: ModuleType,
    work: Workspace,
    seed: int,
    name: str,
    shape: tuple[int, int],
    first_path: int,
    n_paths: int,
    antithetic: bool,
) -> Array:
    """Standard normals (n_noise, n_steps, n_paths) for the paths from `first_path` on; shape is (n_noise, n_steps).

    With `antithetic` the paths 2i and 2i + 1 carry opposite noise. `first_path` is a multiple of STREAM_PATHS. The
    array lies in `work` and is valid until the next call.
    """
    n_noise, n_steps = shape
    out = work.take("noise", (n_noise, n_steps, n_paths))
    if not is_numpy(xp):
        stream = device_stream(seed, name, first_path, antithetic)
        sizes = np.int32(n_noise), np.int32(n_steps), np.int64(n_paths)
        launch("normals", out.dtype, n_noise * -(-n_steps // 4) * n_paths, *stream.arguments, *sizes, out)
        return out
    width = STREAM_PATHS // 2 if antithetic else STREAM_PATHS
    drawn = work.take("noise_stream", (n_noise, n_steps, width))
    scratch = work.take("noise_scratch", (CHUNK // 2,))
    for start in range(0, n_paths, STREAM_PATHS):
        stop = min(start + STREAM_PATHS, n_paths)
        rng = generator(seed, name, (first_path + start) // STREAM_PATHS)
        fill_normals(rng, drawn.reshape(-1), scratch)
        target = out[:, :, start:stop]
        if antithetic:
            target[:, :, 0::2] = drawn[:, :, : (stop - start + 1) // 2]
            np.negative(drawn[:, :, : (stop - start) // 2], out=target[:, :, 1::2])
        else:
            target[...] = drawn[:, :, : stop - start]
    return out


def device_stream(seed: int, name: str, first_path: int = 0, antithetic: bool = False) -> Stream:
    """The named stream by which kernels draw."""
    low, high = seed_sequence(seed, name).generate_state(2, np.uint32).tolist()
    return Stream((low, high), first_path, antithetic)


def device_normals(stream: Stream, shape: tuple[int, int], n_paths: int, dtype: str = "float64") -> np.ndarray:
    """The normals (n_noise, n_steps, n_paths) that a device draws from the stream, made on the host; shape is (n_noise,
    n_steps). Twin of `four_normals` in sim/kernels/common.cuh, up to rounding."""
    n_noise, n_steps = shape
    real = np.dtype(dtype).type
    paths = np.arange(stream.first, stream.first + n_paths, dtype=np.uint64)
    numbers = paths >> np.uint64(1) if stream.antithetic else paths
    out = np.empty((n_noise, -(-n_steps // 4) * 4, n_paths), dtype=dtype)
    for row in range(n_noise):
        for quad in range(-(-n_steps // 4)):
            words = philox(stream.key, (numbers & _WORD, numbers >> _HALF, quad, row))
            for pair in (0, 2):
                radius = np.sqrt(real(-2.0) * np.log((words[pair].astype(dtype) + real(0.5)) * real(2.0**-32)))
                angle = words[pair + 1].view(np.int32).astype(dtype) * real(math.pi * 2.0**-31)
                out[row, 4 * quad + pair] = radius * np.cos(angle)
                out[row, 4 * quad + pair + 1] = radius * np.sin(angle)
    if stream.antithetic:
        out[:, :, (paths & np.uint64(1)).astype(bool)] *= -1
    return out[:, :n_steps]


def philox(key: tuple[int, int], counter: Sequence[Any]) -> tuple[np.ndarray, ...]:
    """Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011): four arrays of 32-bit words, of a counter of four."""
    a, b, c, d = (np.asarray(each, dtype=np.uint64) for each in np.broadcast_arrays(*counter))
    for place in range(10):
        first, second = (np.uint64((word + place * step) % 2**32) for word, step in zip(key, _WEYL, strict=True))
        of_a, of_c = a * _FACTORS[0], c * _FACTORS[1]
        a, b, c, d = (of_c >> _HALF) ^ b ^ first, of_c & _WORD, (of_a >> _HALF) ^ d ^ second, of_a & _WORD
    return tuple(each.astype(np.uint32) for each in (a, b, c, d))
