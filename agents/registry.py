"""Saved policies in MLflow: one store for all runs, versions of registered models, and who is champion.

    models:/hedgerl-short_option@champion     the bundle that an alias names
    models:/hedgerl-short_option/3            a version

The store is that of MLFLOW_TRACKING_URI, or else runs/mlflow.db in the current directory, with runs/mlflow_artifacts
beside it. A store in a file is made whole under another name and then given its own, one process at a time: MLflow
makes its tables in many steps, and a second process that comes upon them halfway fails.

Aliases of a model: `champion` is the version that a comparison has not yet beaten, `challenger` the last one that was
compared and did not beat it, `former_champion` the one before the champion. MLflow itself loads on first use.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import re
import secrets
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

PREFIX = "models:/"
CHAMPION, CHALLENGER, FORMER_CHAMPION = "champion", "challenger", "former_champion"

_STORE, _ARTIFACTS = "mlflow.db", "mlflow_artifacts"
_FILE = re.compile(r"(?P<scheme>sqlite(?:\+\w+)?):///(?P<path>[^?]+)(?P<rest>.*)")
_SERVED = ("http", "https", "databricks")  # these choose where artifacts go
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # 7 hold up a training for minutes where a server is away
}
_PATIENCE = 60.0  # seconds that a database may be locked
_LONGEST_COMPARISON = 3600.0  # seconds that another training may hold the aliases
_ROUNDS = 5  # comparisons, each with another champion, before a version stays challenger

T = TypeVar("T")


def check(what: str, uri: str | None = None) -> None:
    """Raises ValueError where a package that the store of `uri` needs is not installed; `what` needs it."""
    if importlib.util.find_spec("mlflow") is None:
        raise ValueError(f"{what} needs MLflow, which is not installed: pip install 'hedgerl[track]'")
    if _file(_located(uri)) is not None:
        lacking = [name for name in ("sqlalchemy", "alembic", "filelock") if importlib.util.find_spec(name) is None]
        if lacking:
            raise ValueError(
                f"{what} keeps a SQLite store, which needs {' and '.join(lacking)}: pip install 'hedgerl[track]'"
            )


def check_name(field: str, name: str) -> str:
    """The name of a registered model. Raises ValueError for one that `models:/NAME@ALIAS` cannot hold."""
    if not name.strip() or set(name) & set("/:@"):
        raise ValueError(f"{field} must be a name without / : @, got {name!r}")
    return name


def is_registered(text: str) -> bool:
    """Whether a text names a policy in a registry."""
    return text.startswith(PREFIX)


@contextmanager
def bundle(text: str) -> Iterator[Path]:
    """The folder of `models:/NAME@ALIAS` or `models:/NAME/VERSION`, which may be gone afterwards.

    Raises ValueError for another form, a store that is not there, and a model, an alias or a version that it lacks.
    """
    found = re.fullmatch(r"models:/(?P<name>[^/:@]+)(?:@(?P<alias>[^/:@]+)|/(?P<version>\d+))", text)
    if found is None:
        raise ValueError(f"name_or_path must be models:/NAME@ALIAS or models:/NAME/VERSION, got {text!r:.200}")
    check(text)
    store = Store.open()
    model = found["name"]
    with _told(store.uri):
        known = store.aliases(model) if found["alias"] else {str(each): each for each in store.versions(model)}
        version = known.get(found["alias"] or str(int(found["version"])))
        if version is None:
            raise ValueError(f"there is no {text}: {store.described(model)}")
    with store.folder(model, version) as folder:
        yield folder


@dataclass(frozen=True)
class Difference:
    """A new version's objective less the champion's on the same paths: less is better."""

    measure: str  # for people
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """What a new version became."""

    model: str
    version: int
    alias: str  # CHAMPION or CHALLENGER
    against: int | None  # version of the champion that it met
    difference: Difference | None  # None where they were not compared
    reason: str

    @property
    def tags(self) -> dict[str, str]:
        """For the version."""
        told = {"verdict": self.alias, "verdict_reason": self.reason}
        if self.against is not None:
            told["against_version"] = str(self.against)
        if self.difference is not None:
            told |= {name: repr(getattr(self.difference, name)) for name in ("difference", "low", "high")}
        return told

    def __str__(self) -> str:
        became = "is champion" if self.alias == CHAMPION else "stays challenger"
        return f"{self.model} version {self.version} {became}: {self.reason}"


class Store:
    """A store of MLflow that is there; `client` is MLflow's own."""

    def __init__(self, uri: str) -> None:
        mlflow = _mlflow()
        self.uri = uri
        self.client: Any = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)

    @classmethod
    def open(cls, uri: str | None = None, create: bool = False) -> Store:
        """The store of `uri`; None: of MLFLOW_TRACKING_URI or else the default. With `create` it is made if need be.

        Raises ValueError where it is not there, or cannot be used.
        """
        uri = _located(uri)
        file = _file(uri)
        if file is not None and not file.exists() and not create:
            raise ValueError(f"there is no MLflow store at {file}; MLFLOW_TRACKING_URI names another")
        _mlflow()
        with _told(uri):
            if file is None or not create:
                return _patiently(cls, uri)
            file.parent.mkdir(parents=True, exist_ok=True)
            with _lock(file, "lock"):
                if not file.exists():
                    _make(file)
                return _patiently(cls, uri)  # brings a database that is not whole up to date, one process at a time

    def patiently(self, method: str, *arguments: Any, **named: Any) -> Any:
        """A method of the client, again for a while where the database is locked."""
        return _patiently(getattr(self.client, method), *arguments, **named)

    def experiment(self, name: str) -> str:
        """The number of the experiment of that name, made if need be, with its artifacts beside the store."""
        scheme, file = urllib.parse.urlsplit(self.uri).scheme, _file(self.uri)
        where = None
        if scheme not in _SERVED and not self.uri.startswith("databricks"):
            where = _artifacts(Path("runs").resolve() / _STORE if file is None else file)
        for _ in range(2):
            found = self.patiently("get_experiment_by_name", name)
            if found is not None:
                return str(found.experiment_id)
            try:
                return str(self.patiently("create_experiment", name, artifact_location=where))
            except Exception as error:  # another process was faster
                if _code(error) != "RESOURCE_ALREADY_EXISTS":
                    raise
        raise ValueError(f"tracking.experiment {name!r} can neither be found nor made in {_shown(self.uri)}")

    def new_run(self, experiment: str, name: str) -> str:
        """The number of a run that begins. Raises ValueError where the store refuses it."""
        with _told(self.uri):
            return str(self.patiently("create_run", self.experiment(experiment), run_name=name).info.run_id)

    def goes_on(self, run_id: str) -> bool:
        """Marks a run as running again; False where the store has it no more."""
        with _told(self.uri):
            try:
                found = str(self.patiently("get_run", run_id).info.lifecycle_stage) == "active"
            except Exception as error:
                if _code(error) != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return False
            if found:
                self.patiently("update_run", run_id, status="RUNNING")
            return found

    def last_step(self, run_id: str, metric: str) -> int:
        """The last step that has the metric, -1 where none has."""
        return max((int(row.step) for row in self.patiently("get_metric_history", run_id, metric)), default=-1)

    def log(
        self,
        run_id: str,
        parameters: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        metrics: Sequence[tuple[str, float, int, int]] = (),  # name, value, time in ms, step
    ) -> None:
        """Writes to a run, in one transaction for every hundred parameters."""
        from mlflow.entities import Metric, Param, RunTag

        given = [Param(name, value) for name, value in (parameters or {}).items()]
        labels = [RunTag(name, value) for name, value in (tags or {}).items()]
        with _told(self.uri):
            for first in range(0, len(given), 100):
                self.patiently("log_batch", run_id, params=given[first : first + 100])
            if labels or metrics:
                self.patiently("log_batch", run_id, tags=labels, metrics=[Metric(*row) for row in metrics])

    def versions(self, model: str) -> list[int]:
        """The versions of a registered model, in order; none where there is no such model."""
        quoted = model.replace("'", "''")
        return sorted(int(each.version) for each in self._pages("search_model_versions", f"name='{quoted}'"))

    def aliases(self, model: str) -> dict[str, int]:
        """Alias -> version. Raises ValueError where there is no such model, with those that there are."""
        try:
            found = self.patiently("get_registered_model", model)
        except Exception as error:
            if _code(error) != "RESOURCE_DOES_NOT_EXIST":
                raise
            names = sorted(each.name for each in self._pages("search_registered_models", None))
            there = f"it has {', '.join(names)}" if names else "it has none yet"
            raise ValueError(f"there is no model {model!r} in the store {_shown(self.uri)}; {there}") from None
        return {str(name): int(version) for name, version in found.aliases.items()}

    def described(self, model: str) -> str:
        """The model's versions and aliases, for people. Raises ValueError where there is no such model."""
        named = [f"{alias} (version {version})" for alias, version in sorted(self.aliases(model).items())]
        versions = self.versions(model)
        told = f"the versions {', '.join(map(str, versions))}" if versions else "no version"
        return f"{model} has {told} and {'the aliases ' + ', '.join(named) if named else 'no alias'}"

    @contextmanager
    def folder(self, model: str, version: int) -> Iterator[Path]:
        """The files of a version: where they are, or a copy for as long as it is needed."""
        mlflow = _mlflow()
        with _told(self.uri):
            source = str(self.patiently("get_model_version_download_uri", model, str(version)))
        parts = urllib.parse.urlsplit(source)
        if parts.scheme == "file" and parts.netloc in ("", "localhost"):
            yield Path(urllib.request.url2pathname(parts.path))
            return
        with tempfile.TemporaryDirectory(prefix="hedgerl-") as scratch:
            with _told(self.uri):
                local = mlflow.artifacts.download_artifacts(
                    artifact_uri=source, dst_path=scratch, tracking_uri=self.uri, registry_uri=self.uri
                )
            yield Path(local)

    def register(
        self,
        model: str,
        run_id: str,
        artifact: str,
        tags: Mapping[str, str],
        compare: Callable[[int, Path], Difference],
        promote: str,
    ) -> Verdict:
        """Makes a version of the model from a run's artifact, and finds its place: what it became.

        promote: "auto", or "never": no version takes a champion's place.
        compare: what is told the champion's version and folder, and says how far the new one is from it; it raises
        ValueError where the two cannot be compared. A version is promoted where the whole interval is below zero.
        Others that end at the same time wait, or, on a server, are seen before an alias moves.
        """
        with _told(self.uri):
            try:
                self.patiently("create_registered_model", model)
            except Exception as error:
                if _code(error) != "RESOURCE_ALREADY_EXISTS":
                    raise
            query = f"run_id='{run_id}'"  # a run makes one, also where its end came twice
            known = [int(each.version) for each in self._pages("search_model_versions", query) if each.name == model]
            if known:
                number = max(known)
            else:
                source = f"{self.patiently('get_run', run_id).info.artifact_uri}/{artifact}"
                made = self.patiently("create_model_version", model, source, run_id, tags=dict(tags))
                number = int(made.version)
            with self._alone():
                verdict = self._place(model, number, compare, promote)
            for name, value in verdict.tags.items():
                self.patiently("set_model_version_tag", model, str(number), name, value)
        return verdict

    def _place(self, model: str, number: int, compare: Callable[[int, Path], Difference], promote: str) -> Verdict:
        def name(alias: str, version: int) -> None:
            self.patiently("set_registered_model_alias", model, alias, str(version))

        challenging = False
        for _ in range(_ROUNDS):
            champion = self.aliases(model).get(CHAMPION)
            if champion is None:
                name(CHAMPION, number)
                if challenging:
                    self._drop(model, number)
                return Verdict(model, number, CHAMPION, None, None, "there was none")
            if champion == number:
                return Verdict(model, number, CHAMPION, None, None, "it was already")
            name(CHALLENGER, number)
            challenging = True
            met = None
            try:
                with self.folder(model, champion) as folder:
                    met = compare(champion, folder)
            except Exception as error:  # whatever it is, the champion stays
                told = f"not compared with version {champion}: {' '.join(str(error).split()) or type(error).__name__}"
                return Verdict(model, number, CHALLENGER, champion, None, told)
            told = f"{met.measure} {met.difference:+.4g} against version {champion}"
            told += f", 95 % interval [{met.low:+.4g}, {met.high:+.4g}]"
            if not met.high < 0.0:
                return Verdict(model, number, CHALLENGER, champion, met, told)
            if promote == "never":
                return Verdict(model, number, CHALLENGER, champion, met, f"{told}, better, but tracking.promote=never")
            if self.aliases(model).get(CHAMPION) != champion:
                continue  # on a server, another one was faster
            name(CHAMPION, number)
            name(FORMER_CHAMPION, champion)
            self._drop(model, number)
            return Verdict(model, number, CHAMPION, champion, met, told)
        return Verdict(model, number, CHALLENGER, None, None, f"the champion changed {_ROUNDS} times meanwhile")

    def _drop(self, model: str, number: int) -> None:
        """The champion is no challenger any more."""
        if self.aliases(model).get(CHALLENGER) == number:
            self.patiently("delete_registered_model_alias", model, CHALLENGER)

    def _alone(self) -> AbstractContextManager[Any]:
        """The only one that compares and moves aliases, where the store is a file."""
        file = _file(self.uri)
        return contextlib.nullcontext() if file is None else _lock(file, "aliases.lock", _LONGEST_COMPARISON)

    def _pages(self, method: str, query: str | None) -> Iterator[Any]:
        token = None
        while True:
            page = self.patiently(method, filter_string=query, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def _located(uri: str | None) -> str:
    """The URI that is meant, the path of a file absolute."""
    given = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///runs/{_STORE}"
    file = _FILE.fullmatch(given)
    if file is None or file["path"] == ":memory:":
        return given
    return f"{file['scheme']}:///{os.path.abspath(file['path'])}{file['rest']}"


def _file(uri: str) -> Path | None:
    """Of a SQLite store."""
    found = _FILE.fullmatch(uri)
    return None if found is None or found["path"] == ":memory:" else Path(found["path"])


def _artifacts(file: Path) -> str:
    return file.with_name(_ARTIFACTS).as_uri()


def _shown(uri: str) -> str:
    """Without a password."""
    return re.sub(r"://([^/@:]*):[^/@]*@", r"://\1:***@", uri)


def _mlflow() -> Any:
    """MLflow, told to keep to itself."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import mlflow

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # logs what it raises, too
    logging.getLogger("mlflow.store.model_registry.abstract_store").setLevel(logging.WARNING)
    return mlflow


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """What MLflow raises becomes a ValueError of one line."""
    from filelock import Timeout
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, Timeout) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"MLflow at {_shown(uri)}: {_shown(reason)}") from error


def _code(error: BaseException) -> str:
    """MLflow has one class for all errors."""
    return str(getattr(error, "error_code", ""))


def _patiently(call: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """The call's answer, asked again while the database is locked."""
    end, pause = time.monotonic() + _PATIENCE, 0.05
    while True:
        try:
            return call(*arguments, **named)
        except Exception as error:
            if "database is locked" not in str(error) or time.monotonic() + pause > end:
                raise
        time.sleep(pause)
        pause = min(2.0 * pause, 2.0)


def _make(file: Path) -> None:
    """A new store, whole when it gets its name."""
    stores: Any = importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
    partial = file.with_name(f".{file.name}.partial-{secrets.token_hex(4)}")
    try:
        stores.SqlAlchemyStore(f"sqlite:///{partial}", _artifacts(file)).engine.dispose()
        partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)


def _lock(file: Path, suffix: str, timeout: float = 10 * _PATIENCE) -> AbstractContextManager[Any]:
    from filelock import FileLock

    return FileLock(file.with_name(f"{file.name}.{suffix}"), timeout=timeout)
