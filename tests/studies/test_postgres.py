"""Studies in a real PostgreSQL, shared by several commands."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hedgerl.studies import storage

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent

PROGRAM = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from test_conduct import conducted
from hedgerl.studies.workers import InlinePool
study = conducted(Path(sys.argv[1]), 16, InlinePool(), address={address!r}, log=sys.argv[2], seconds=0.1, window=8)
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a database of a server that ends with the tests."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    if not (shutil.which("initdb") and shutil.which("pg_ctl")):
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="hedgerl-pg-"))
    user = "nobody" if os.geteuid() == 0 else None  # the server refuses root
    if user:
        shutil.chown(folder, user)

    def run(*command: str) -> None:
        subprocess.run(command, user=user, cwd=folder, check=True, capture_output=True, timeout=60.0)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = str(folder / "data")
    try:
        run("initdb", "-D", data, "-A", "trust", "-U", "hedgerl", "--no-sync")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
    except (subprocess.SubprocessError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"PostgreSQL does not start here: {error}")
    try:
        yield f"postgresql://hedgerl@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def test_commands_that_start_at_once_find_one_study(address, tmp_path):
    """Behaviour: four that open a new database and the same study in it at the same time all get it."""
    together = threading.Barrier(4)

    def opened(_: int) -> Mapping[str, Any]:
        together.wait()
        study = storage.study(storage.opened(address, tmp_path), "at once", {"of": "x"}, ["risk"])
        return study.user_attrs

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(opened, range(4))) == [{"hedgerl": {"of": "x"}}] * 4


def test_two_commands_share_a_study_and_one_is_killed(address, tmp_path):
    """Behaviour: two coordinators ask and tell one study, each trial is tried to its end once; what a killed one had
    under way is taken over, and no trial is lost."""
    file, log = tmp_path / "program.py", tmp_path / "log"
    file.write_text(PROGRAM.format(here=str(HERE), address=address))

    def start(name: str) -> subprocess.Popen[str]:
        arguments = [sys.executable, str(file), str(tmp_path / name), str(log)]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    first, second = start("first"), start("second")
    deadline = time.monotonic() + 120.0
    while not log.exists() or len(log.read_text().split()) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.kill()
    first.communicate()
    _, said = second.communicate(timeout=180.0)
    assert second.returncode == 0, said
    program = (
        "import json, optuna\n"
        f"study = optuna.load_study(study_name='toy', storage={address.replace('://', '+psycopg://')!r})\n"
        "print(json.dumps([[t.number, t.state.name, t.params['x']] for t in study.trials]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    trials = json.loads(done.stdout)
    finished = [trial for trial in trials if trial[0] < 16]
    assert [trial[0] for trial in finished] == list(range(16))
    assert {state for _, state, _ in finished} <= {"COMPLETE", "FAIL"}
    tried = log.read_text().split()
    assert {repr(x) for _, _, x in finished} == set(tried)
    assert len(tried) <= 17  # the one that was cut off may have begun twice
