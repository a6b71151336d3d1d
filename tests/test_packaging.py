"""What is installed is what lies in the tree."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hedgerl

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
LINKED = ["agents", "baselines", "conf", "envs", "model_files", "sim"]


def packages_in_tree() -> set[str]:
    """Every folder with an __init__.py, by the name under which it is imported; links are not followed."""
    found = set()
    for top in ["hedgerl", *LINKED]:
        for init in (ROOT / top).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            if any((ROOT / Path(*parts[: i + 1])).is_symlink() for i in range(len(parts))):
                continue
            found.add(".".join(parts if top == "hedgerl" else ("hedgerl", *parts)))
    return found


def test_every_package_is_listed():
    """Catches a new package that works from the checkout and is silently absent from the wheel."""
    assert set(SETUPTOOLS["packages"]) == packages_in_tree()
    assert len(SETUPTOOLS["packages"]) == len(set(SETUPTOOLS["packages"]))


def test_no_module_outside_a_package():
    """Catches a folder of modules without __init__.py, which setuptools would leave out."""
    listed = {ROOT.joinpath(*name.split(".")).resolve() for name in SETUPTOOLS["packages"]}
    for top in ["hedgerl", *LINKED]:
        for module in (ROOT / top).rglob("*.py"):
            assert module.parent.resolve() in listed, module


@pytest.mark.parametrize("name", LINKED)
def test_links_are_relative_and_agree_with_the_mapping(name):
    """Catches an absolute link, a copy in place of a link, and a mapping that installs something else."""
    link = ROOT / "hedgerl" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
    assert link.resolve() == ROOT / name
    assert SETUPTOOLS["package-dir"][f"hedgerl.{name}"] == name


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_constraints_are_exact_and_within_the_ranges():
    """Catches a requirement without a pin, and a pin that the ranges refuse, which would break `make setup`."""
    assert pins()["torch"] == "2.13.0"
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins().values())
    pinned = {canonicalize_name(name): version for name, version in pins().items()}
    project = PROJECT["project"]
    for line in project["dependencies"] + project["optional-dependencies"]["dev"]:
        requirement = Requirement(line)
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, line


def test_version_is_told_once():
    """Catches an installed package that answers with another version than its code."""
    assert importlib.metadata.version("hedgerl") == hedgerl.__version__


@pytest.mark.slow
def test_wheel_works_outside_the_checkout(tmp_path):
    """Builds an sdist, from it a wheel, installs that alone elsewhere and runs it from there; needs no network.

    Catches what only an editable install hides: missing packages, missing YAML, links that did not survive.
    """
    source = tmp_path / "source"
    source.mkdir()
    for name in ["pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, source)
    for name in ["hedgerl", *LINKED]:
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()

    def python(*arguments: str, cwd: Path = elsewhere, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python("-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(source))
    (wheel,) = (tmp_path / "dist").glob("hedgerl-*.whl")
    python("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel))

    installed = {path.relative_to(site).as_posix() for path in (site / "hedgerl").rglob("*") if path.is_file()}
    expected = {
        path.relative_to(ROOT).as_posix()
        if path.is_relative_to(ROOT / "hedgerl")
        else f"hedgerl/{path.relative_to(ROOT)}"
        for top in ["hedgerl", *LINKED]
        for path in (ROOT / top).rglob("*")
        if path.suffix in {".py", ".yaml", ".typed", ".json", ".safetensors", ".cu", ".cuh"}
        and path.is_file()
        and not (top == "hedgerl" and path.relative_to(ROOT).parts[1] in LINKED)
    }
    assert {name for name in installed if "__pycache__" not in name} == expected

    where = python("-c", "import hedgerl.sim; print(hedgerl.__file__, hedgerl.sim.__file__)", PYTHONPATH=str(site))
    assert all(Path(each).is_relative_to(site) for each in where.split())
    version = python("-m", "hedgerl.cli", "--version", PYTHONPATH=str(site))
    assert version.split() == ["hedgerl", hedgerl.__version__]
    shown = python("-m", "hedgerl.cli", "simulate", "market=heston", "--cfg", "job", PYTHONPATH=str(site))
    assert "_target_: hedgerl.sim.Heston" in shown
    names = importlib.metadata.Distribution.at(next(site.glob("*.dist-info"))).entry_points
    assert names.select(name="hedgerl")["hedgerl"].value == "hedgerl.cli:main"
