"""The project's commands and its configuration tree."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import hedgerl.backtest
import hedgerl.envs
import hedgerl.sim
import hedgerl.simulate
from hedgerl import generate_pareto

ROOT = Path(__file__).resolve().parent.parent
MARKETS = [file for file in sorted((ROOT / "conf" / "market").glob("*.yaml")) if "_target_" in file.read_text()]
TASKS = sorted((ROOT / "conf" / "task").glob("*.yaml"))


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    return subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "target", ["setup", "run", "test", "lint", "typecheck", "simulate", "backtest", "optimize", "bench", "clean"]
)
def test_make_target_exists(target):
    """Catches a documented command that was renamed. -n shows what would run, and runs nothing."""
    assert make("-n", target).returncode == 0


def test_make_optimize_means_something():
    """Catches a key of the small study that was renamed; it is planned, not run."""
    (line,) = [each for each in make("-n", "optimize").stdout.splitlines() if "generate-pareto" in each]
    keys = shlex.split(line)[2:]
    with initialize_config_module("hedgerl.conf", version_base="1.3"):
        config = compose("generate_pareto", overrides=generate_pareto.hydra_overrides(keys, keys))
    assert len(generate_pareto.plan(OmegaConf.to_object(config)).cells) == 6


def test_setup_names_what_it_needs_where_python_is_too_old(tmp_path):
    """Catches a set-up that fails with a page of make where no Python 3.11 is on PATH."""
    for tool in ["make", "sh", "bash", "env"]:
        found = shutil.which(tool)
        if found:
            (tmp_path / tool).symlink_to(found)
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for name in ["Makefile", "pyproject.toml", "constraints.txt"]:
        shutil.copy(ROOT / name, tmp_path)
    if not (tmp_path / "make").exists():
        pytest.skip("make is not installed")
    done = subprocess.run(
        ["make", "setup"], cwd=tmp_path, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "hedgerl: error: no Python 3.11 or later" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_runs_what_the_readme_says():
    """Catches a CI script that cannot be executed, or that tests by another command than the README's."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text()
    assert "make test" in (ROOT / "README.md").read_text()
    assert "make run" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("file", MARKETS, ids=lambda file: file.stem)
def test_market_has_every_parameter_of_its_model(file):
    """Catches a parameter that cannot be set on the command line, or a key that no field reads."""
    keys = yaml.safe_load(file.read_text())
    model = getattr(hedgerl.sim, keys.pop("_target_").removeprefix("hedgerl.sim."))
    assert set(keys) == {item.name for item in dataclasses.fields(model)}


def test_every_model_has_a_market():
    """Catches a model that the command line does not know."""
    models = {each.__name__ for each in hedgerl.sim.Model.__subclasses__() if each.__module__.startswith("hedgerl.")}
    assert {yaml.safe_load(file.read_text())["_target_"].rpartition(".")[2] for file in MARKETS} == models


@pytest.mark.parametrize("file", TASKS, ids=lambda file: file.stem)
def test_task_has_every_field_of_its_class(file):
    """Catches a setting of a task that cannot be reached from the command line, or a key that no field reads."""
    content = yaml.safe_load(file.read_text())
    keys = content.get("task", content)
    task = getattr(hedgerl.envs, keys.pop("_target_").removeprefix("hedgerl.envs."))
    assert set(keys) - {"defaults"} == {item.name for item in dataclasses.fields(task)} - {"market", "execution"}


@pytest.mark.parametrize(
    ("name", "schema"),
    [("backtest", hedgerl.backtest.BacktestConfig), ("simulate", hedgerl.simulate.SimulateConfig)],
)
def test_yaml_and_dataclass_have_the_same_keys(name, schema):
    """Catches a default that lives in the code alone, unseen by who reads the YAML."""
    keys = set(yaml.safe_load((ROOT / "conf" / f"{name}.yaml").read_text())) - {"defaults", "hydra"}
    assert keys == {item.name for item in dataclasses.fields(schema)} - {"market", "data", "execution", "task"}
