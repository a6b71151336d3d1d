"""A simulation on disk: what comes back, and what a crash, a full disk or a damaged file leaves."""

from __future__ import annotations

import builtins
import dataclasses
import errno
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from hedgerl.pricing import Option
from hedgerl.sim import GARCH, SABR, BlackScholes, ForwardVarianceCurve, Heston, LogUniform, RoughBergomi, dataset

CURVE = ForwardVarianceCurve((0.0, 0.5), (0.04, 0.06))
MODELS = [
    BlackScholes(volatility=0.2, drift=0.1),
    Heston(kappa=3.0, theta=0.05, sigma=0.7, rho=-0.7, v0=0.04, rate=0.03),
    RoughBergomi(hurst=0.07, eta=1.9, rho=-0.9, forward_variance=CURVE),
    SABR(volatility=0.2, volvol=1.0, rho=-0.5, dividend=0.01),
    GARCH(omega=2e-6, alpha=0.01, gamma=0.15, beta=0.89),
]
CALL = Option(strike=100.0, expiry_years=5 / 252)


@pytest.fixture
def small():
    return BlackScholes(volatility=0.2).simulate(64, 6, 6 / 252, seed=5, backend="numpy")


def nothing_half_written(folder):
    """No data set, and no trace of one, below the folder."""
    return list(folder.iterdir()) == []


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_comes_back_as_it_was(model, dtype, tmp_path):
    """Identity: model, grid, seed, paths, state and marks come back bit for bit, and mark again to the same numbers.

    Catches a parameter that is rounded or forgotten, a state that marks need and files lack, and a wrong strike.
    """
    paths = model.simulate(32, 6, 6 / 252, seed=5, dtype=dtype, backend="numpy")
    dataset.save(paths, tmp_path / "set", {"call": CALL})
    back = dataset.load(tmp_path / "set", verify=True)
    assert back.model == model
    assert (back.seed, back.n_paths, back.n_steps, back.spot.dtype) == (5, 32, 6, np.dtype(dtype))
    for name in ["times", "fine", "kept"]:
        np.testing.assert_array_equal(getattr(back.grid, name), getattr(paths.grid, name))
    np.testing.assert_array_equal(back.spot, paths.spot)
    np.testing.assert_array_equal(back.variance, paths.variance)
    assert back.state.keys() == paths.state.keys()
    for name, values in paths.state.items():
        np.testing.assert_array_equal(back.state[name], values)

    saved = dataset.load_marks(tmp_path / "set")["call"]
    assert saved.option == CALL
    assert saved.times.shape == (6,)
    assert saved.greeks.price.shape == (6, 32)
    market = back.model.market(back)
    for step in (0, 3, 5):
        mark = market.mark(CALL, step)
        for greek in dataset.GREEKS:
            np.testing.assert_allclose(getattr(saved.greeks, greek)[step], getattr(mark, greek), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(saved.greeks.price[5], np.maximum(paths.spot[5] - 100.0, 0.0), rtol=0, atol=1e-5)


def test_perturbed_parameters_come_back(tmp_path):
    """Identity: the draws stay beside the paths. Catches a data set whose parameters cannot be told any more."""
    model = MODELS[1]
    paths = model.simulate(16, 3, 0.1, seed=0, perturb={"kappa": (1.0, 4.0)}, backend="numpy")
    dataset.save(paths, tmp_path / "set")
    back = dataset.load(tmp_path / "set")
    assert back.seed == 0
    assert list(back.parameters) == ["kappa"]
    np.testing.assert_array_equal(back.parameters["kappa"], paths.parameters["kappa"])
    assert dataset.load_marks(tmp_path / "set") == {}


@pytest.mark.parametrize(
    ("model", "perturb"),
    [
        (MODELS[1], {"kappa": (2.0, 4.0)}),
        (dataclasses.replace(MODELS[2], forward_variance=0.05), {"hurst": (0.05, 0.1)}),
        (dataclasses.replace(MODELS[2], forward_variance=0.05), {"eta": (1.5, 2.0)}),
        (dataclasses.replace(MODELS[2], forward_variance=0.05), {"rho": (-0.9, -0.5)}),
        (dataclasses.replace(MODELS[2], forward_variance=0.05), {"forward_variance": LogUniform(0.03, 0.1)}),
        (MODELS[3], {"volatility": (0.1, 0.3), "volvol": (0.5, 1.5), "rho": (-0.9, -0.1)}),
        (MODELS[4], {"alpha": (0.005, 0.02), "v0": (0.01, 0.1)}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else type(value).__name__,
)
def test_marks_of_perturbed_paths_come_back(model, perturb, tmp_path):
    """Identity: mark(load(save(paths))) is mark(paths), bit for bit.

    Catches a range of a parameter that the fit of the marks needs and the files lack.
    """
    paths = model.simulate(64, 4, 4 / 252, seed=5, perturb=perturb, backend="numpy")
    dataset.save(paths, tmp_path / "set")
    back = dataset.load(tmp_path / "set")
    assert back.ranges == paths.ranges
    option = Option(strike=102.0, expiry_years=4 / 252)
    before, after = (each.model.market(each) for each in (paths, back))
    for step in (0, 3):
        for greek in dataset.GREEKS:
            np.testing.assert_array_equal(
                getattr(after.mark(option, step), greek), getattr(before.mark(option, step), greek), greek
            )


def test_arrays_are_mapped_and_read_only(small, tmp_path):
    """Behaviour: nothing large is read at load, and the data set cannot be changed by accident."""
    dataset.save(small, tmp_path / "set")
    back = dataset.load(tmp_path / "set")
    assert isinstance(back.spot, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        back.spot[0, 0] = 1.0


def test_same_seed_same_files(small, tmp_path):
    """Identity: two runs of one seed agree byte for byte, so that a checksum identifies a data set."""
    for name in ["one", "two"]:
        again = small.model.simulate(64, 6, 6 / 252, seed=5, backend="numpy", threads=1 if name == "one" else 2)
        dataset.save(again, tmp_path / name, {"call": CALL})
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 11
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_existing_folder_is_kept(small, tmp_path):
    """Behaviour: a data set is replaced only when told so, and anything that is not a data set never is."""
    dataset.save(small, tmp_path / "set")
    with pytest.raises(ValueError, match="folder must not exist yet, unless overwrite is set, got .*set"):
        dataset.save(small, tmp_path / "set")
    other = small.model.simulate(8, 6, 6 / 252, seed=6, backend="numpy")
    dataset.save(other, tmp_path / "set", overwrite=True)
    assert dataset.load(tmp_path / "set", verify=True).n_paths == 8

    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    with pytest.raises(ValueError, match="folder must be a data set to be overwritten"):
        dataset.save(small, tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter").read_text() == "years of work"
    assert {path.name for path in tmp_path.iterdir()} == {"set", "thesis"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_meanwhile_is_kept(small, overwrite, tmp_path):
    """Behaviour: while one data set is written, another and then a folder of the user's take its name.

    Catches a rename over whatever is there at the end, and a clean-up that takes a live run for a killed one.
    """

    def other_run(done, total):
        if done == 1:
            dataset.save(small, tmp_path / "set")

    mine = small.model.simulate(8, 6, 6 / 252, seed=6, backend="numpy")
    marks = {"call": CALL}
    if overwrite:
        dataset.save(mine, tmp_path / "set", marks, overwrite=True, progress=other_run)
    else:
        with pytest.raises(ValueError, match="folder must not exist yet, unless overwrite is set, got .*set"):
            dataset.save(mine, tmp_path / "set", marks, progress=other_run)
    assert dataset.load(tmp_path / "set", verify=True).n_paths == (8 if overwrite else 64)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]

    def user(done, total):
        (tmp_path / "thesis").mkdir(exist_ok=True)
        (tmp_path / "thesis" / "chapter").write_text("years of work")

    with pytest.raises(ValueError, match="folder must"):
        dataset.save(mine, tmp_path / "thesis", marks, overwrite=overwrite, progress=user)
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter"]
    assert {path.name for path in tmp_path.iterdir()} == {"set", "thesis"}


def test_what_appears_at_the_last_moment_is_kept(small, tmp_path, monkeypatch):
    """Behaviour: a folder that comes between the last look and the rename. Catches a look alone."""
    real, looks = dataset.check_destination, []

    def look(folder, *, overwrite=False):
        target = real(folder, overwrite=overwrite)
        looks.append(target)
        if len(looks) == 2:
            target.mkdir()
            (target / "chapter").write_text("years of work")
        return target

    monkeypatch.setattr(dataset, "check_destination", look)
    with pytest.raises(OSError, match="cannot write the data set, Directory not empty"):
        dataset.save(small, tmp_path / "set")
    assert (tmp_path / "set" / "chapter").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_symbolic_link_is_followed(small, tmp_path):
    """Behaviour: overwriting through a link replaces what it leads to. Catches a link that becomes a folder."""
    dataset.save(small, tmp_path / "set")
    (tmp_path / "link").symlink_to("set")
    other = small.model.simulate(8, 6, 6 / 252, seed=6, backend="numpy")
    dataset.save(other, tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert dataset.load(tmp_path / "set", verify=True).n_paths == 8
    assert {path.name for path in tmp_path.iterdir()} == {"set", "link"}


@pytest.mark.parametrize("space", [0, 100, 3_000, 7_500])
def test_full_disk(small, space, tmp_path, monkeypatch):
    """Behaviour: a disk that fills up, at any moment, raises one clear error and leaves nothing.

    The files of this data set hold some 9,000 bytes; writes fail once `space` of them are used.
    """
    left = space

    class Full(io.FileIO):
        def write(self, data):
            nonlocal left
            left -= memoryview(data).nbytes
            if left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    real = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda path, mode="r", *rest: Full(path, "x") if mode == "xb" else real(path, mode, *rest)
    )
    with pytest.raises(OSError, match="cannot write the data set, No space left on device: .*set") as raised:
        dataset.save(small, tmp_path / "set", {"call": CALL})
    assert raised.value.errno == errno.ENOSPC
    assert nothing_half_written(tmp_path)


def test_full_disk_while_replacing(small, tmp_path, monkeypatch):
    """Behaviour: the data set that was to be replaced survives."""
    dataset.save(small, tmp_path / "set")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        dataset.save(small, tmp_path / "set", overwrite=True)
    assert dataset.load(tmp_path / "set", verify=True).n_paths == 64
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_interrupt_cleans_up(small, tmp_path):
    """Behaviour: Ctrl-C while marking leaves nothing."""

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dataset.save(small, tmp_path / "set", {"call": CALL}, progress=interrupt)
    assert nothing_half_written(tmp_path)


def test_kill_leaves_no_folder_that_looks_finished(small, tmp_path):
    """Behaviour: kill -9 half-way through the marks: no folder of that name, and load refuses what is left.

    The next data set of that name takes it away, not while the process lives. Catches a data set written in place,
    meta.json written first, and a disk that fills with leftovers.
    """
    script = """
import sys, time
from hedgerl.pricing import Option
from hedgerl.sim import BlackScholes, dataset
paths = BlackScholes(volatility=0.2).simulate(64, 6, 6 / 252, seed=5, backend="numpy")
def progress(done, total):
    if done == 3:
        print("half", flush=True)
        time.sleep(60)
dataset.save(paths, sys.argv[1], {"call": Option(100.0, 5 / 252)}, progress=progress)
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "set")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "half\n"
        dataset.save(small, tmp_path / "set")
        assert len(list(tmp_path.iterdir())) == 2
        shutil.rmtree(tmp_path / "set")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert not (tmp_path / "set").exists()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".set.partial-")
    with pytest.raises(ValueError, match="is not a data set: it has no meta.json"):
        dataset.load(left)
    dataset.save(small, tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def damage(folder, name, change):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


def test_truncated_file_is_named(small, tmp_path):
    """Behaviour: a file cut short, missing, or with other bytes is named. Catches zeros read past the end of a map."""
    dataset.save(small, tmp_path / "set", {"call": CALL})
    damage(tmp_path / "set", "variance.npy", lambda data: data[:-1])
    with pytest.raises(ValueError, match=r"variance.npy is damaged: it must have \d+ bytes, got \d+"):
        dataset.load(tmp_path / "set")
    (tmp_path / "set" / "marks" / "call" / "gamma.npy").unlink()
    damage(tmp_path / "set", "variance.npy", lambda data: data + b"x")
    with pytest.raises(ValueError, match="gamma.npy is missing"):
        dataset.load_marks(tmp_path / "set")


def test_flipped_bit_is_found_by_verify(small, tmp_path):
    """Behaviour: sizes alone cannot see it, the checksum does; a spoilt header is seen without it."""
    dataset.save(small, tmp_path / "set")
    damage(tmp_path / "set", "spot.npy", lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    dataset.load(tmp_path / "set")
    with pytest.raises(ValueError, match="spot.npy is damaged: its sha256"):
        dataset.load(tmp_path / "set", verify=True)
    damage(tmp_path / "set", "spot.npy", lambda data: b"\0" + data[1:])
    with pytest.raises(ValueError, match="spot.npy is damaged"):
        dataset.load(tmp_path / "set")


def test_bad_meta_is_named(small, tmp_path):
    """Behaviour: half a meta.json, another program's, a newer version's and an unknown model are each refused."""
    dataset.save(small, tmp_path / "set")
    path = tmp_path / "set" / "meta.json"
    good = json.loads(path.read_text())
    for content, message in [
        (path.read_text()[:-20], "meta.json is damaged"),
        ("[]", "meta.json does not describe a data set"),
        (json.dumps(good | {"format_version": 2}), "format_version must be 1 for hedgerl .*, got 2"),
        (json.dumps({key: good[key] for key in good if key != "files"}), "meta.json is damaged: it lacks files"),
        (
            json.dumps(good | {"model": {"class": "Popen", "parameters": {}}}),
            "meta.json .* model must be one of .*'Popen'",
        ),
    ]:
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            dataset.load(tmp_path / "set")
    with pytest.raises(ValueError, match="nowhere is not a data set"):
        dataset.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["model"], None),
        (["model"], {}),
        (["model", "class"], []),
        (["model", "parameters"], {"volatility": 0.2, "colour": 1.0}),
        (["model", "parameters"], {}),
        (["model", "parameters", "volatility"], -1.0),
        (["model", "parameters", "volatility"], {"time": []}),
        (["seed"], "x"),
        (["ranges"], None),
        (["ranges"], {"volatility": [0.1]}),
        (["files"], []),
        (["files"], None),
        (["files", "spot.npy"], None),
        (["files", "spot.npy", "bytes"], ...),
        (["files", "spot.npy", "shape"], ...),
        (["files", "spot.npy", "sha256"], ...),
        (["marks"], []),
        (["marks", "call"], {"strike": 100.0, "expiry": 0.1}),
        (["marks", "call", "strike"], "x"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, list) else None,
)
def test_wrong_content_of_meta_names_the_file(small, place, value, tmp_path):
    """Behaviour: valid JSON that holds something else. Catches a KeyError of ours in place of the file's name."""
    dataset.save(small, tmp_path / "set", {"call": CALL})
    path = tmp_path / "set" / "meta.json"
    meta = json.loads(path.read_text())
    node = functools.reduce(lambda node, key: node[key], place[:-1], meta)
    if value is ...:
        del node[place[-1]]
    else:
        node[place[-1]] = value
    path.write_text(json.dumps(meta))
    read = dataset.load_marks if place[0] == "marks" else dataset.load
    with pytest.raises(ValueError, match="meta.json is damaged: "):
        read(tmp_path / "set", verify=True)


def test_what_cannot_be_saved_is_said_before_anything_is_written(small, tmp_path):
    """Behaviour: a curve given as a function, an option that differs by path, and a name that leaves the folder."""
    model = RoughBergomi(hurst=0.1, eta=1.0, rho=0.0, forward_variance=lambda times: 0.04 + 0.0 * times)
    paths = model.simulate(4, 2, 0.1, seed=1, backend="numpy")
    with pytest.raises(ValueError, match="forward_variance must be a number or a curve"):
        dataset.save(paths, tmp_path / "set")
    with pytest.raises(ValueError, match="must have one strike and expiry for all paths"):
        dataset.save(small, tmp_path / "set", {"call": Option(np.full(64, 100.0), 5 / 252)})
    with pytest.raises(ValueError, match="expiry_years of option call must not be negative, got -1.0"):
        dataset.save(small, tmp_path / "set", {"call": Option(100.0, -1.0)})
    with pytest.raises(ValueError, match="option name must consist of letters"):
        dataset.save(small, tmp_path / "set", {"../call": CALL})
    assert nothing_half_written(tmp_path)


def test_only_own_leftovers_are_removed(small, tmp_path):
    """Behaviour: a killed run's folder goes; a file, a link and the folders of another data set stay."""
    (tmp_path / ".set.partial-dead").mkdir()
    (tmp_path / ".set.partial-dead" / "spot.npy").write_bytes(b"half")
    kept = {".set.partial-file", ".set.partial-link", ".other.partial-dead", "thesis"}
    (tmp_path / ".set.partial-file").write_bytes(b"")
    (tmp_path / "thesis").mkdir()
    (tmp_path / ".set.partial-link").symlink_to("thesis")
    (tmp_path / ".other.partial-dead").mkdir()
    dataset.save(small, tmp_path / "set")
    assert {path.name for path in tmp_path.iterdir()} == kept | {"set"}
