"""A saved policy: a folder of two files, neither of which can run anything.

    folder/
      weights.safetensors   parameters and buffers of the `PolicyModule`, its normaliser among them
      card.json             what they are the weights of, and where they come from; see `Card`

card.json has a format and its version, the network's kind and configuration, the task, the observation (names, order,
formulas, ranges, and a SHA-256 of these), the action, and the SHA-256 of the weights and of its own content. The sums
find damage and mix-ups; they are no signature.

A bundle is read whole and checked whole before anything is handed out. It is written into a hidden folder beside its
own, which is then given its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

import hedgerl
from hedgerl.agents import networks
from hedgerl.agents.marks import GreekMarks
from hedgerl.agents.networks import PolicyModule
from hedgerl.agents.settings import described, plain, task_of
from hedgerl.envs.action import Action
from hedgerl.envs.observation import FEATURES, Flat, Raw, observed_as
from hedgerl.envs.task import TASKS, Task
from hedgerl.pricing._checks import nearest

FORMAT = "hedgerl policy"
FORMAT_VERSION = 1
WEIGHTS, CARD = "weights.safetensors", "card.json"
_MOST_BYTES = {WEIGHTS: 1 << 30, CARD: 1 << 24}
_KEYS = {
    *("format", "format_version", "hedgerl", "name", "policy", "task", "observation", "action"),
    *("observed", "marks", "training", "seed", "commit", "metrics", "sha256"),
}


@dataclass(frozen=True)
class Interface:
    """What a policy is shown and how its answers are read, for `hedgerl.evaluate` and the environments."""

    observation: Flat
    action: Action


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a policy beside its weights.

    `observation` and `action` as the environments take them; None: the task's own, as they are now. `observed` is the
    least and the largest value of each column of the observation in training: `Agent.hedge` acts on no other. `marks`
    lets it see the Greeks of the training's market; None: Black-Scholes's.
    """

    task: Task
    observation: Any = None  # becomes a Flat
    action: Any = None  # becomes an Action
    name: str = ""
    observed: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # (low, high), (d,) each
    marks: GreekMarks | None = None
    training: Mapping[str, Any] = field(default_factory=dict)  # the configuration of the run
    seed: int | None = None
    commit: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)  # with their intervals

    def __post_init__(self) -> None:
        task = TASKS[self.task]() if isinstance(self.task, str) and self.task in TASKS else self.task
        if not isinstance(task, Task):
            raise ValueError(f"task must be a Task, got {task!r:.80}")
        object.__setattr__(self, "task", task)
        observation = observed_as(self.observation, task)
        if isinstance(observation, Raw):
            raise ValueError("observation must be flat for a network, got raw arrays")
        object.__setattr__(self, "observation", observation)
        object.__setattr__(self, "action", Action.of(self.action, task))
        for name, kinds in (("name", (str,)), ("seed", (int, type(None))), ("commit", (str, type(None)))):
            if not isinstance(getattr(self, name), kinds):
                raise ValueError(f"{name} must be of {kinds[0].__name__}, got {getattr(self, name)!r:.80}")
        if not isinstance(self.marks, GreekMarks | None):
            raise ValueError(f"marks must be GreekMarks or None, got {self.marks!r:.80}")
        for name in ("training", "metrics"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} must be a mapping, got {getattr(self, name)!r:.80}")
            object.__setattr__(self, name, plain(getattr(self, name), name))
        if self.observed is not None:
            low, high = (tuple(float(value) for value in end) for end in self.observed)
            size = len(observation.columns(task))
            if not len(low) == len(high) == size:
                raise ValueError(f"observed must be two ends of {size} numbers, got {len(low)} and {len(high)}")
            object.__setattr__(self, "observed", (low, high))

    @property
    def interface(self) -> Interface:
        """See `Interface`."""
        return Interface(self.observation, self.action)

    @classmethod
    def of(cls, given: Card | Mapping[str, Any], module: PolicyModule | None = None) -> Card:
        """The card that is meant: itself or a mapping of its fields. A module's `interface` fills what is not given.

        Raises ValueError for a field that is not known, with the nearest that is.
        """
        if isinstance(given, Card):
            return given
        known = [item.name for item in fields(cls)]
        for key in given:
            if key not in known:
                raise ValueError(f"card has no {key!r}; the nearest is {nearest(key, known)!r}")
        if "task" not in given:
            raise ValueError("card must have a task, got none")
        own: Any = getattr(module, "interface", None)
        filled = {name: getattr(own, name, None) for name in ("observation", "action")}
        return cls(**filled | {key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]


def schema(observation: Flat, task: Task) -> list[dict[str, Any]]:
    """What each column of an observation shows: a change of any of it makes another observation."""
    instruments = task.instruments
    options = instruments[1:] if instruments[:1] == ("underlying",) else instruments
    columns = []
    for name, place in observation.columns(task):
        feature = FEATURES[name]
        of = {"path": "", "option": options, "instrument": instruments}[feature.per]
        columns.append(
            {
                "name": name,
                "of": of[place] if of else "",
                "formula": feature.formula,
                "low": feature.low,
                "high": feature.high,
            }
        )
    return columns


def save_bundle(folder: str | os.PathLike[str], module: PolicyModule, card: Card | Mapping[str, Any]) -> Path:
    """Writes a policy and its card; the same policy and card give the same bytes. Returns the folder.

    A bundle that is there already is replaced, whole; any other folder or file is left alone. Raises ValueError where
    the module and the card do not go together, FileExistsError where something else has the name.
    """
    target = Path(os.path.abspath(folder))
    weights, content = _content(module, Card.of(card, module))
    if os.path.lexists(target) and not _is_bundle(target):
        raise FileExistsError(f"{target} is there already and is not a saved policy")
    token = secrets.token_hex(4)
    partial = target.with_name(f".{target.name}.partial-{token}")
    retired = target.with_name(f".{target.name}.replaced-{token}")
    partial.mkdir(parents=True)
    try:
        for name, data in ((WEIGHTS, weights), (CARD, content)):
            with open(partial / name, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if os.path.lexists(target):
            target.rename(retired)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if os.path.lexists(retired) and not os.path.lexists(target):
            retired.rename(target)
        raise
    shutil.rmtree(retired, ignore_errors=True)
    return target


def read_bundle(folder: str | os.PathLike[str]) -> tuple[PolicyModule, Card]:
    """The policy and its card, after every check.

    Raises FileNotFoundError where there is nothing, ValueError for what is not a bundle, is damaged, is of a newer
    format, or does not fit this version of hedgerl.
    """
    root = Path(folder)
    if not root.exists():
        raise FileNotFoundError(f"there is no policy at {root}")
    raw = {name: _file(root, name) for name in (CARD, WEIGHTS)}
    content = _parsed(root, raw[CARD])
    _check_version(root, content)
    sums = content.get("sha256")
    if not isinstance(sums, dict) or sums.keys() != {"weights", "card"}:
        raise ValueError(f"{root / CARD} is damaged: it lacks its SHA-256 sums")
    try:
        whole = sums["card"] == _card_sum(content)
    except ValueError:  # a number that is too large to be one
        whole = False
    if not whole:
        raise ValueError(f"{root / CARD} is damaged or has been changed: its SHA-256 is not the one that it names")
    if sums["weights"] != hashlib.sha256(raw[WEIGHTS]).hexdigest():
        raise ValueError(f"{root / WEIGHTS} is damaged or of another policy: its SHA-256 is not the one of {CARD}")
    try:
        card, module = _card(content), _module(content["policy"], raw[WEIGHTS])
        _check_fit(module, card)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{root} cannot be used: {reason}") from error
    return module, card


# Writing


def _content(module: PolicyModule, card: Card) -> tuple[bytes, bytes]:
    """The bytes of the two files."""
    if not isinstance(module, PolicyModule):
        raise ValueError(f"module must be a PolicyModule, got {type(module).__name__}")
    state = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    _check_finite(state)
    _check_fit(module, card)
    policy = {"kind": module.kind, "config": plain(module.config, "config")}
    weights = safetensors.torch.save(state)
    _module(policy, weights)  # raises now where it could not be loaded
    columns = schema(card.observation, card.task)
    content: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "hedgerl": hedgerl.__version__,
        "name": card.name,
        "policy": policy,
        "task": described(card.task),
        "observation": {"names": list(card.observation.names), "columns": columns, "sha256": _sum(columns)},
        "action": {"kind": card.action.kind, "scale": card.action.scale},
        "observed": None if card.observed is None else {"low": card.observed[0], "high": card.observed[1]},
        "marks": None if card.marks is None else asdict(card.marks),
        "training": card.training,
        "seed": card.seed,
        "commit": card.commit,
        "metrics": card.metrics,
    }
    content = plain(content, "card") | {"sha256": {"weights": hashlib.sha256(weights).hexdigest()}}
    content["sha256"]["card"] = _card_sum(content)
    return weights, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def _canonical(content: Any) -> bytes:
    """One form for one content, whatever the white space and the order of names in the file."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _sum(content: Any) -> str:
    return hashlib.sha256(_canonical(content)).hexdigest()


def _card_sum(content: Mapping[str, Any]) -> str:
    """SHA-256 of a card without this sum."""
    return _sum({**content, "sha256": {key: value for key, value in content["sha256"].items() if key != "card"}})


def _is_bundle(folder: Path) -> bool:
    try:
        return folder.is_dir() and _parsed(folder, _file(folder, CARD)).get("format") == FORMAT
    except (ValueError, OSError):
        return False


# Reading


def _file(root: Path, name: str) -> bytes:
    path = root / name
    if not root.is_dir() or not path.is_file():
        raise ValueError(f"{root} is not a saved policy: it has no {name}")
    if path.stat().st_size > _MOST_BYTES[name]:
        raise ValueError(f"{path} must have at most {_MOST_BYTES[name]} bytes, got {path.stat().st_size}")
    return path.read_bytes()


def _parsed(root: Path, raw: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            raise ValueError("a name comes twice")
        return content

    def never(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    try:
        content = json.loads(raw.decode(), object_pairs_hook=once, parse_constant=never)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{root / CARD} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{root / CARD} does not describe a policy of hedgerl")
    return content


def _check_version(root: Path, content: Mapping[str, Any]) -> None:
    version, by = content.get("format_version"), content.get("hedgerl")
    if type(version) is not int or version < 1:
        raise ValueError(f"{root / CARD} is damaged: format_version must be a whole number, got {version!r:.80}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{root} has format_version {version}, written by hedgerl {by!r:.80}; "
            f"hedgerl {hedgerl.__version__} reads up to {FORMAT_VERSION}"
        )


def _card(content: Mapping[str, Any]) -> Card:
    if content.keys() != _KEYS:
        lacking, more = sorted(_KEYS - content.keys()), sorted(content.keys() - _KEYS)
        raise ValueError(
            f"card.json lacks {', '.join(lacking) or 'nothing'} and has besides {', '.join(more) or 'nothing'}"
        )
    task = task_of(content["task"])
    given = content["observation"]
    card = Card(
        task=task,
        observation=Flat(tuple(given["names"])),
        action=Action(**content["action"]),
        name=content["name"],
        observed=None if content["observed"] is None else (content["observed"]["low"], content["observed"]["high"]),
        marks=None if content["marks"] is None else GreekMarks(**content["marks"]),
        training=content["training"],
        seed=content["seed"],
        commit=content["commit"],
        metrics=content["metrics"],
    )
    columns = schema(card.observation, task)
    if given["sha256"] != _sum(given["columns"]):
        raise ValueError("the SHA-256 of its observation is not the one that it names")
    if _canonical(given["columns"]) != _canonical(columns):
        raise ValueError(f"its observation is not what hedgerl {hedgerl.__version__} shows: {_change(given, columns)}")
    return card


def _change(given: Mapping[str, Any], now: list[dict[str, Any]]) -> str:
    saved = list(given["columns"])
    if len(saved) != len(now):
        return f"{len(saved)} columns were saved, it has {len(now)}"
    index = next(i for i, (old, new) in enumerate(zip(saved, now, strict=True)) if old != new)
    return f"column {index} was saved as {saved[index]!r:.200}, it is {now[index]!r:.200}"


def _module(policy: Mapping[str, Any], raw: bytes) -> PolicyModule:
    """The network with its weights; nothing is allocated before the shapes have been compared."""
    if not isinstance(policy["config"], dict):
        raise ValueError(f"config must be a mapping, got {policy['config']!r:.80}")
    try:
        state = safetensors.torch.load(raw)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{WEIGHTS} is damaged: {error}") from error
    module = _built(policy["kind"], policy["config"])
    wanted = module.state_dict()
    for what, names in (("lacks", wanted.keys() - state.keys()), ("has besides", state.keys() - wanted.keys())):
        if names:
            raise ValueError(f"{WEIGHTS} {what} {', '.join(sorted(names))}")
    for name, value in wanted.items():
        if state[name].shape != value.shape or state[name].dtype != value.dtype:
            raise ValueError(
                f"{name} must be {tuple(value.shape)} of {value.dtype}, "
                f"got {tuple(state[name].shape)} of {state[name].dtype}"
            )
    _check_finite(state)
    module.load_state_dict(state, strict=True, assign=True)
    if any(value.is_meta for value in (*module.parameters(), *module.buffers())):  # a buffer that is not saved
        module = networks.build(policy["kind"], policy["config"])
        module.load_state_dict(state, strict=True)
    return module.eval().requires_grad_(False)


def _built(kind: str, config: dict[str, Any]) -> PolicyModule:
    """The network without memory for its weights."""
    try:
        with torch.device("meta"):
            return networks.build(kind, config)
    except (RuntimeError, OverflowError, AttributeError, NotImplementedError) as error:
        raise ValueError(f"{kind} does not take this configuration: {error}") from error


def _check_finite(state: Mapping[str, Tensor]) -> None:
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} must be finite, got NaN or infinity")


def _check_fit(module: PolicyModule, card: Card) -> None:
    """The module takes the card's observation and answers with its action."""
    size = len(card.observation.columns(card.task))
    space: Any = card.action.space(card.task)
    wanted = int(space.n) if card.action.kind == "discrete" else int(space.shape[0])
    names = module.config.get("observation")
    if names is not None and tuple(names) != card.observation.names:
        raise ValueError(f"the network sees {', '.join(names)}; the observation is {', '.join(card.observation.names)}")
    sizes = {"observation_size": size, "action_size": wanted, "size": card.task.size}
    for name, value in sizes.items():
        if module.config.get(name, value) != value:
            raise ValueError(f"{name} of the network must be {value}, as its task has it, got {module.config[name]!r}")
    try:
        with torch.inference_mode():
            given = next((value for value in module.state_dict().values()), torch.zeros(()))
            answer = module(torch.zeros(1, size, device=given.device), *module.initial_state(1))
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"the network does not take an observation of {size} columns: {error}") from error
    if tuple(answer[0].shape) != (1, wanted):
        raise ValueError(f"the network must give {wanted} numbers for an action, got shape {tuple(answer[0].shape)}")
