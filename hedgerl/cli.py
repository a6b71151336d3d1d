"""`hedgerl`: a subcommand, then Hydra overrides. Every expected error is one line on stderr and exit status 2."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib
import itertools
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hedgerl

COMMANDS = {
    "backtest": "compare hedges on simulated markets and on history, and report risk and cost",
    "simulate": "write a dataset of simulated paths and option marks",
    "train": "train an agent, test it against the baselines, and save its policy",
    "sweep": "search parameters of an agent or a baseline with Optuna",
    "generate-pareto": "train and test a grid of reward weights, and draw risk against cost",
    "report": "a table of finished runs",
    "data": "read option chains of vendors into a store, and check one",
    "calibrate": "fit a model to a day's option chain, and write it down as a market",
    "walk-forward": "fit hedges on a window of history, test them on the next, and go on",
    "stress": "replay crashes of history on today's book, and revalue it under shocks",
}
PLAIN = {  # commands that are not Hydra jobs: their modules
    "report": "hedgerl.runs",
    "data": "hedgerl.data_commands",
    "calibrate": "hedgerl.calibrate",
}
GROUPS = (  # folders of conf/ that a key may choose from
    *("market", "data", "execution", "task"),
    *("agent", "reward", "curriculum", "tracking", "search", "refit"),
)
LAUNCHER = "hydra/launcher"  # the group of Hydra's own that a key may choose from
FLAGS = {"--seed": "seed"}  # classic flags and the keys that they stand for
FLAGS_OF = {"train": {"--loss_type": "reward.loss", "--w": "reward.w", "--lam": "reward.lam"}}  # of one command
FAILURE = 2  # exit status of every expected error


class UsageError(ValueError):
    """The command line cannot be understood."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit status: 0, 2 after an expected error, 130 or 143 when stopped.

    HEDGERL_DEBUG=1 shows the traceback of an error instead of its line.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        command = _command(arguments)
        if command is not None:
            with _sigterm_interrupts():
                if command in PLAIN:
                    importlib.import_module(PLAIN[command]).main(arguments[1:])
                else:
                    arguments = [command, *_without_flags(arguments[1:], FLAGS | FLAGS_OF.get(command, {}))]
                    arguments = [command, *_overrides(command, arguments[1:])]
                    _run(command, arguments[1:])
            sys.stdout.flush()  # here, not at exit, so that a full disk or a closed pipe is seen
        return 0
    except SystemExit as leave:  # --help, --version and Hydra's own
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except KeyboardInterrupt as stop:
        print("hedgerl: interrupted", file=sys.stderr)
        return 128 + (signal.SIGTERM if stop.args == (signal.SIGTERM,) else signal.SIGINT)
    except BrokenPipeError:
        # The reader has gone (`hedgerl ... | head`): no more can be said, and the interpreter must not try at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        message = None if os.environ.get("HEDGERL_DEBUG") == "1" else _explain(error, arguments)
        if message is None:
            raise
        print(f"hedgerl: error: {message}", file=sys.stderr)
        return FAILURE


def _command(arguments: list[str]) -> str | None:
    """The subcommand; None where the usage was printed instead. Raises UsageError for an unknown one."""
    parser = _Parser(
        prog="hedgerl",
        allow_abbrev=False,
        description="Learn, test and run cost-aware option hedging.",
        epilog="\n".join(
            ["commands:"]
            + [f"  {name:<16} {what}" for name, what in COMMANDS.items()]
            + ["", "example: hedgerl simulate market=heston n_paths=10000 out=my_paths"]
            + ["`hedgerl COMMAND --help` lists a command's keys; -m runs a grid of them: seed=1,2,3"]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hedgerl {hedgerl.__version__}")
    parser.add_argument("command", nargs="?", metavar="COMMAND [key=value ...]")
    command = parser.parse_args(arguments[:1]).command
    if command is None:
        parser.print_help()
        return None
    if command not in COMMANDS:
        raise UsageError(f'unknown command "{command}"; {_suggest(command, COMMANDS)}')
    return str(command)


def _without_flags(arguments: list[str], flags: dict[str, str]) -> list[str]:
    """The arguments with `--flag value` and `--flag=value` turned into `key=value`."""
    rest, result = iter(arguments), []
    for item in rest:
        name, equals, value = item.partition("=")
        if name not in flags:
            result.append(item)
            continue
        value = value if equals else next(rest, "")
        if not value:
            raise UsageError(f"{name} needs a value")
        result.append(f"{flags[name]}={value}")
    return result


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM, by which schedulers stop a job, does as Ctrl-C does: what is half-written is removed."""

    def interrupt(number: int, _: object) -> NoReturn:
        raise KeyboardInterrupt(number)

    if threading.current_thread() is not threading.main_thread():  # the only one that may set it
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _module(command: str) -> Any:
    return importlib.import_module(f"hedgerl.{command.replace('-', '_')}")


def _overrides(command: str, arguments: list[str]) -> list[str]:
    """The arguments as Hydra takes them: -m first, and as the command's `hydra_overrides` makes them.

    Raises UsageError for a flag that Hydra does not have.
    """
    import hydra._internal.utils as hydra_utils

    arguments = sorted(arguments, key=lambda item: item not in ("-m", "--multirun"))  # Hydra wants it first
    flags = hydra_utils.get_args_parser()
    flags.error = _Parser.error.__get__(flags)  # type: ignore[method-assign]
    keys = flags.parse_args(arguments).overrides
    module = _module(command)
    return list(module.hydra_overrides(arguments, keys)) if hasattr(module, "hydra_overrides") else arguments


def _run(command: str, overrides: list[str]) -> None:
    """Runs the command's `from_hydra` as a Hydra job with these overrides."""
    import hydra
    from hydra.errors import ConfigCompositionException

    from hedgerl import multirun, runs

    multirun.register()
    job = multirun.Job(command, _work, _explain)
    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [f"hedgerl {command}", *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # an error before the job is raised, not printed
    try:
        with multirun.launched() as many:
            hydra.main("pkg://hedgerl.conf", command.replace("-", "_"), version_base="1.3")(job)()
            if many.folder is not None:
                failure = many.ended()
                print(runs.summary(many.folder))
                if failure is not None:
                    raise failure
    except multirun.Failed as failed:
        raise failed.error from failed.error.__cause__
    except AssertionError as error:  # OmegaConf asserts what an override cannot do, as with a key below a null
        raise ConfigCompositionException("the overrides do not fit the configuration") from error
    finally:
        sys.argv = before[0]
        if before[1] is None:
            del os.environ["HYDRA_FULL_ERROR"]


def _work(command: str, config: Any, folder: Path) -> None:
    """What a command does with its configuration, in the folder of the run."""
    from omegaconf import OmegaConf

    _check_keys(config, OmegaConf.get_type(config))
    _module(command).from_hydra(config, folder)


def _check_keys(config: Any, schema: Any, prefix: str = "") -> None:
    """UsageError for a key that was added (`+key=value`) beside the fields of the configuration's dataclass."""
    from omegaconf import OmegaConf

    types = {item.name: item.type for item in dataclasses.fields(schema)}
    for key in config:
        if key not in types:
            raise UsageError(f"unknown key {prefix}{key}; {_suggest(str(key), types)}")
        node = OmegaConf.get_type(config, key)
        if dataclasses.is_dataclass(node):
            _check_keys(config[key], node, f"{prefix}{key}.")


def _explain(error: BaseException, arguments: list[str]) -> str | None:
    """The error in one line; None for one that is not expected and deserves its traceback."""
    from hydra.errors import (
        HydraException,
        InstantiationException,
        MissingConfigException,
        OverrideParseException,
    )
    from omegaconf.errors import OmegaConfBaseException, ValidationError

    if isinstance(error, UsageError):
        return _one_line(error)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return _explain_choice(group, name, error.options)
    if isinstance(error, OverrideParseException):
        hint = re.fullmatch(r"""([\w.]+)=([^]["'{}\\]+)""", str(error.override))
        quoted = f"; with quotes: '{hint[1]}=\"{hint[2]}\"'" if hint else ""
        return f'cannot read "{error.override}" as key=value{quoted}'
    if isinstance(error, InstantiationException):
        return _explain_key(arguments[0], arguments[1:]) or _one_line(error.__cause__ or error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
        if isinstance(cause, ValidationError):
            return f"{cause.full_key}: {_first_line(cause)}"
        return _explain_key(arguments[0], arguments[1:]) or _explain_field(cause) or _first_line(cause or error)
    if type(error).__name__ == "OutOfMemoryError" and isinstance(error, RuntimeError):  # torch's, which is not imported
        asked = ". ".join(_one_line(error).split(". ")[:3])  # what was asked for, and what is free
        return (
            f"not enough memory on the device ({asked}): smaller n_paths, agent.batch_paths or agent.num_envs take less"
        )
    if isinstance(error, MemoryError):
        return f"not enough memory ({_one_line(error) or 'allocation failed'})"
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or _one_line(error)}{where}"
    if isinstance(error, ValueError):
        return _one_line(error)
    return None


def _explain_choice(group: str, name: str, options: Sequence[str]) -> str:
    """Says that a group has no such choice; of launchers, which package brings it."""
    if group == LAUNCHER:
        from hedgerl.multirun import LAUNCHERS

        if name in LAUNCHERS:
            return f"{group}={name} needs {LAUNCHERS[name]}: pip install 'hedgerl[dist]'"
        options = sorted({*options, *LAUNCHERS})
    return f'unknown {group} "{name}"; {_suggest(name, options)}'


def _explain_key(command: str, overrides: list[str]) -> str | None:
    """Names the first override whose key the configuration does not have, with the nearest that it has."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides([item for item in overrides if not item.startswith("-")])
    groups = {LAUNCHER, *set(GROUPS).intersection(_known_keys(command, ()))}
    choices = [each for each in parsed if each.get_key_element() in groups]
    for chosen in itertools.product(*map(_values, choices)):  # more than one in a multirun
        known = _known_keys(command, chosen)
        for override in parsed:
            key = override.get_key_element().lstrip("+~").partition("@")[0]
            if key not in known and override not in choices:
                visible = [name for name in known if name.startswith("hydra") == key.startswith("hydra")]
                prefix = key.rpartition(".")[0]
                siblings = [name for name in visible if name.rpartition(".")[0] == prefix]
                if siblings == ["hydra.launcher._target_"]:
                    return f"unknown key {key}; choose a launcher that has it, as in {LAUNCHER}=joblib"
                return f"unknown key {key}; {_suggest(key, siblings or visible)}"
    return None


def _values(override: Any) -> list[str]:
    """An override for each value that a multirun gives the key: one, where it is not swept over."""
    if not override.is_discrete_sweep():
        return [str(override.input_line)]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _known_keys(command: str, choices: Iterable[str]) -> list[str]:
    """The dotted names of all keys of the command's configuration, with these choices of groups."""
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    running = GlobalHydra.instance().hydra  # of a multirun, one of whose runs asks
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("hedgerl.conf", version_base="1.3"):
            config = compose(command.replace("-", "_"), overrides=list(choices), return_hydra_config=True)
    finally:
        GlobalHydra.instance().hydra = running
    return list(_keys(OmegaConf.to_container(config, resolve=False)))


def _explain_field(cause: Any) -> str | None:
    """Names a key that is unknown to a dataclass inside a value, as in a list of options."""
    schema = getattr(cause, "object_type", None)
    if not dataclasses.is_dataclass(schema):
        return None
    names = [item.name for item in dataclasses.fields(schema)]
    return None if cause.key in names else f"unknown key {cause.key}; {_suggest(str(cause.key), names)}"


def _keys(node: Any, prefix: str = "") -> Iterable[str]:
    """The dotted names of all keys of nested mappings."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _keys(value, f"{prefix}{key}.")


def _suggest(name: str, known: Iterable[str]) -> str:
    """The nearest known name, or all of them where none is near."""
    names = {item.rpartition(".")[2]: item for item in known if not item.rpartition(".")[2].startswith("_")}
    near = difflib.get_close_matches(name.rpartition(".")[2], names, n=1, cutoff=0.5)
    listed = f"known: {', '.join(names.values())}"
    if not near:
        return listed
    return f"did you mean {names[near[0]]}?" + (f" ({listed})" if len(names) <= 12 else "")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(importlib.import_module("hedgerl.cli").main())  # under its own name, by which other processes know it
