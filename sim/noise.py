"""Standard normal noise: named, spawned streams, one for each group of paths.

Path i of a simulation is drawn from stream (seed, name, i // STREAM_PATHS), whatever the number of paths, threads or
blocks: a larger run begins with the smaller one.
"""

from __future__ import annotations

import math
import zlib
from types import ModuleType

import numpy as np

from hedgerl.sim.backend import Array, Workspace, is_numpy

STREAM_PATHS = 1024  # paths that share a stream
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
        _fill_on_device(xp, out, seed_sequence(seed, name, first_path // STREAM_PATHS), antithetic)
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


def _fill_on_device(xp: ModuleType, out: Array, sequence: np.random.SeedSequence, antithetic: bool) -> None:
    """Normals drawn by cuRAND on the device: other numbers than NumPy's from the same seed, the same law.

    CuPy keeps 32 bits of the seed: of 65,000 seeds two are likely to share a stream.
    """
    rng = xp.random.Generator(xp.random.Philox4x3210(sequence))
    if not antithetic:
        rng.standard_normal(dtype=out.dtype, out=out)
        return
    half = rng.standard_normal((*out.shape[:2], (out.shape[2] + 1) // 2), dtype=out.dtype)
    out[:, :, 0::2] = half
    out[:, :, 1::2] = -half[:, :, : out.shape[2] // 2]
