"""Kernels of our own: that they compile for a device, and the noise that they draw.

What they compute is compared with NumPy in test_device.py: on a device, or on the stand-in for CuPy, which runs the
same text through g++.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hedgerl.sim import device
from hedgerl.sim.noise import device_normals, device_stream, philox


@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("name", device.KERNELS)
def test_compiles_for_a_device(name: str, real: str, tmp_path: Path) -> None:
    """Limit: no registers spilled to memory at 128 threads a block. Catches a text that only g++ understands."""
    text = device.source(name)
    if nvcc := shutil.which("nvcc"):
        file = tmp_path / f"{name}.cu"
        file.write_text(text)
        flags = ["--std=c++17", "-arch=sm_80", "-cubin", "--resource-usage", f"-DREAL={real}"]
        done = subprocess.run(
            [nvcc, *flags, "-o", str(tmp_path / "cubin"), str(file)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "0 bytes spill stores, 0 bytes spill loads" in done.stderr
        assert "error" not in done.stderr
        return
    try:
        compiler = importlib.import_module("cupy.cuda.compiler")
        compiler.compile_using_nvrtc(text, ("--std=c++14", f"-DREAL={real}"), "80")
    except ImportError as error:
        pytest.skip(f"neither nvcc nor NVRTC is installed ({error})")


def test_philox_known_answers() -> None:
    """Reference: the vectors of Random123 1.14 (kat_vectors, philox4x32-10)."""
    ones = 2**32 - 1
    known = [
        ((0, 0), (0, 0, 0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ones, ones), (ones, ones, ones, ones), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0xA4093822, 0x299F31D0),
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ]
    for key, counter, expected in known:
        assert " ".join(f"{int(word):08x}" for word in philox(key, counter)) == expected


def test_device_noise_is_normal(tools: SimpleNamespace) -> None:
    """Statistical: mean, variance, third and fourth moment, neighbours along every axis, 4 standard errors.

    Catches a counter in which a step, a row or a path is missing, and one word used twice.
    """
    z = device_normals(device_stream(3, "paths"), (2, 10), 40_000)
    tools.assert_mean(z)
    tools.assert_mean(z**2, 1.0)
    tools.assert_mean(z**3)
    tools.assert_mean(z**4, 3.0)
    for axis in range(3):
        near = np.moveaxis(z, axis, 0)
        pairs = (near[1:] * near[:-1]).reshape(-1)
        tools.assert_mean(pairs)
        tools.assert_mean(pairs**2, 1.0)
    tools.assert_mean(z * device_normals(device_stream(4, "paths"), (2, 10), 40_000))


def test_device_noise_of_a_path_is_its_own() -> None:
    """Identity: path i is the same whatever comes with it; an antithetic pair is path i // 2, both ways round."""
    whole = device_normals(device_stream(2**80, "paths", 0), (3, 6), 300)
    part = device_normals(device_stream(2**80, "paths", 200), (3, 6), 100)
    np.testing.assert_array_equal(part, whole[:, :, 200:])
    np.testing.assert_array_equal(device_normals(device_stream(2**80, "paths"), (1, 3), 300), whole[:1, :3])
    pairs = device_normals(device_stream(2**80, "paths", 100, antithetic=True), (3, 6), 50)
    np.testing.assert_array_equal(pairs[:, :, 0::2], whole[:, :, 50:75])
    np.testing.assert_array_equal(pairs[:, :, 1::2], -whole[:, :, 50:75])
    beyond = device_normals(device_stream(1, "paths", 2**32 + 5), (1, 4), 1)
    assert not np.array_equal(beyond, device_normals(device_stream(1, "paths", 5), (1, 4), 1))


def test_tiles() -> None:
    """Identity: the product with tiles, as the kernel takes it, is the product with the matrix."""
    rng = np.random.default_rng(1)
    for n in (1, 15, 16, 37):
        average = np.tril(rng.standard_normal((n, n)))
        noise = rng.standard_normal(n)
        packed = device.tiles(average)
        assert packed.shape == (-(-n // device.TILE), n, device.TILE)
        np.testing.assert_allclose(np.einsum("tki,k->ti", packed, noise).reshape(-1)[:n], average @ noise, atol=1e-12)
