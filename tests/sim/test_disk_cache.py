"""Fitted smiles on disk."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from hedgerl.pricing import Option
from hedgerl.sim import SABR, RoughBergomi, disk_cache, forward_variance, mixing
from hedgerl.sim.disk_cache import kept

DAY = 1 / 252
MODEL = SABR(volatility=0.2, volvol=1.0, rho=-0.5)
ANSWER = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(3)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache of this test's own, and no smiles in memory."""
    monkeypatch.setenv(disk_cache.FOLDER, str(tmp_path / "cache"))
    forward_variance.library.cache_clear()
    disk_cache._warn.cache_clear()
    yield tmp_path / "cache"
    forward_variance.library.cache_clear()


def files(folder):
    return sorted(folder.glob("*/*.npz"))


def counted(calls):
    def answer():
        calls.append(1)
        return ANSWER

    return answer


def price(model, monkeypatch):
    """A mark that takes a fit of few groups."""
    monkeypatch.setattr(mixing, "N_GROUPS", 24)
    paths = model.simulate(50, 3, 3 * DAY, seed=1, threads=1)
    return model.market(paths).mark(Option(strike=101.0, expiry_years=3 * DAY), 1).price


def test_a_smile_that_was_kept_is_the_one_that_was_fitted(folder, monkeypatch):
    """Identity: prices are the same to the last bit whether smiles are fitted, kept or read.

    Catches an array that loses its dtype or its name in the file, and a cache that nobody reads.
    """
    monkeypatch.setenv(disk_cache.FOLDER, "")
    fresh = price(MODEL, monkeypatch)
    assert not folder.exists()
    monkeypatch.setenv(disk_cache.FOLDER, str(folder))
    forward_variance.library.cache_clear()
    np.testing.assert_array_equal(price(MODEL, monkeypatch), fresh)
    assert len(files(folder)) == 1
    forward_variance.library.cache_clear()
    monkeypatch.setattr(forward_variance, "fit", None)
    np.testing.assert_array_equal(price(MODEL, monkeypatch), fresh)


def test_another_model_grid_or_code_is_another_smile(folder, monkeypatch):
    """Behaviour: nothing that a smile depends on is missing in its key."""
    price(MODEL, monkeypatch)
    price(SABR(volatility=0.2, volvol=1.0, rho=-0.4), monkeypatch)
    assert len(files(folder)) == 2
    paths = MODEL.simulate(50, 3, 4 * DAY, seed=1, threads=1)
    MODEL.market(paths).mark(Option(strike=101.0, expiry_years=4 * DAY), 1)
    assert len(files(folder)) == 3
    forward_variance.library.cache_clear()
    monkeypatch.setattr(disk_cache, "_of_code", lambda: "other")
    price(MODEL, monkeypatch)
    assert len(files(folder)) == 4


class Mine(SABR):
    """A user's own."""


@pytest.mark.parametrize(
    "model",
    [
        Mine(volatility=0.2, volvol=1.0, rho=-0.5),
        RoughBergomi(hurst=0.1, eta=1.5, rho=-0.7, forward_variance=lambda times: 0.04 + 0.0 * times),
    ],
    ids=["subclass", "curve by a function"],
)
def test_code_of_the_users_is_not_kept(model, folder, monkeypatch):
    """Behaviour: what a function of the user's does cannot be told from its name, so that its smiles are not kept."""
    price(model, monkeypatch)
    assert not files(folder)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"a text", None])
def test_a_file_that_cannot_be_read_is_made_again(content, folder):
    """Behaviour: a torn or strange file costs a computation and nothing else."""
    calls = []
    kept("question", counted(calls))
    (file,) = files(folder)
    file.write_bytes(file.read_bytes()[:-40] if content is None else content)
    found = kept("question", counted(calls))
    np.testing.assert_array_equal(found["a"], ANSWER["a"])
    assert len(calls) == 2
    kept("question", counted(calls))
    assert len(calls) == 2


def test_a_pickle_is_not_executed(folder):
    """Behaviour: a file with an object in it is refused unread. Catches allow_pickle."""
    kept("question", counted([]))
    (file,) = files(folder)
    np.savez(file, a=np.array([Path("x")], dtype=object))
    calls = []
    kept("question", counted(calls))
    assert calls


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    """Behaviour: a warning, once, and the answer."""
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv(disk_cache.FOLDER, str(tmp_path / "a file" / "below"))
    calls = []
    with pytest.warns(RuntimeWarning, match="fitted smiles cannot be kept in .*: set HEDGERL_CACHE"):
        kept("question", counted(calls))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kept("question", counted(calls)) is ANSWER
    assert len(calls) == 2


def test_no_partial_file_is_left(folder, monkeypatch):
    """Behaviour: a write that fails half-way, as on a full disk, leaves no file behind."""

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        kept("question", counted([]))
    assert not list(folder.glob("*/*.npz*"))
    assert not list(folder.glob("*/*.partial"))


def test_where_it_lies(monkeypatch, tmp_path):
    """Behaviour: HEDGERL_CACHE, else below XDG_CACHE_HOME, else below ~/.cache."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(disk_cache.FOLDER)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert disk_cache.folder() == tmp_path / ".cache" / "hedgerl"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert disk_cache.folder() == Path("/elsewhere/hedgerl")


def test_a_user_without_a_home(monkeypatch):
    """Behaviour: in a container whose user has no home nothing is kept, and nothing fails."""
    monkeypatch.delenv(disk_cache.FOLDER)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", lambda self: (_ for _ in ()).throw(RuntimeError("no home directory")))
    assert disk_cache.folder() is None
    calls = []
    kept("question", counted(calls))
    kept("question", counted(calls))
    assert len(calls) == 2


def _ask(log, seconds):
    def answer():
        with open(log, "a") as stream:
            stream.write(f"{os.getpid()}\n")
        time.sleep(seconds)
        return ANSWER

    kept("slow", answer)


def test_processes_wait_for_each_other(tmp_path):
    """Behaviour: of several processes that ask at once one computes; if it is killed, another does.

    Catches a lock that outlives its owner, and fits done once for each worker.
    """
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    first = context.Process(target=_ask, args=(log, 60.0))
    first.start()
    while not log.exists():
        time.sleep(0.01)
    others = [context.Process(target=_ask, args=(log, 0.5)) for _ in range(2)]
    for other in others:
        other.start()
    time.sleep(0.2)
    os.kill(first.pid, signal.SIGKILL)
    for other in others:
        other.join(60.0)
        assert other.exitcode == 0
    first.join()
    who = log.read_text().split()
    assert len(who) == 2
    assert who[0] == str(first.pid)
