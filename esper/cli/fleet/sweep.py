"""What `esper submit` is asked for: a task, or a file of a sweep, and the configurations that it comes to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, get_args

import yaml

from esper.cli.commands.options import random_seeds
from esper.cli.run import RunRequest, check_names, check_pool
from esper.errors import EsperError, InvalidInput
from esper.kasmina.settings import Lifecycle
from esper.leyline.names import meant
from esper.tolaria.config import Policy, RatePolicy, RunConfig

MOST_RUNS: Final = 10_000
"""Of one submission."""
DECISION_S: Final = 60.0
"""How long a submitted run waits for each decision, where nothing else is set. Nobody watches it, and where a machine
with a decider is lost the others take its packets over in seconds: no result is to depend on that."""
_WORDS: Final[Mapping[str, Sequence[str]]] = {
    "policy": get_args(Policy),
    "lifecycle": get_args(Lifecycle),
    "rate_policy": get_args(RatePolicy),
}
_KEYS: Final = (
    *("task", "seeds", "epochs", "policy", "lifecycle", "rate_policy", "device", "pool", "control"),
    *("ignore_history", "compiled_kernels", "attempts", "priority", "set"),
)


@dataclass(frozen=True, slots=True)
class Sweep:
    """A grid of runs: each task with each choice of the settings with each random seed.

    `settings` are the values of each `--set` name, one or several. `where` says of each name where it was given, for
    what is wrong with it.
    """

    tasks: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    epochs: int | None = None
    policy: Policy = "heuristic"
    lifecycle: Lifecycle | None = None
    rate_policy: RatePolicy | None = None
    device: str = "cpu"
    pool: tuple[str, ...] = ("default",)
    control: bool = False
    ignore_history: bool = False
    compiled_kernels: bool = False
    attempts: int = 0
    priority: int = 0
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many runs it comes to, without their control runs."""
        count = len(self.tasks) * len(self.seeds)
        for values in self.settings.values():
            count *= len(values)
        return count

    def configs(self, data_dir: Path) -> Iterator[tuple[RunConfig, dict[str, str]]]:
        """Every configuration, with the labels that tell it from the others.

        All know the same of blueprints' earlier outcomes: what the data folder knows now. Raises InvalidInput.
        """
        if self.count > MOST_RUNS:
            raise InvalidInput(f"the sweep comes to {self.count:,} runs; submit at most {MOST_RUNS:,} at a time")
        dossier = None
        for task in self.tasks:
            request = self._request(data_dir, task)
            with self._at("task"):
                check_names(replace(request, settings=()))
            for choice in itertools.product(*self.settings.values()):
                pairs = dict(zip(self.settings, choice, strict=True))
                with self._at(*pairs):
                    settled = [f"{name}={value}" for name, value in pairs.items()]
                    if "decision_timeout_s" not in pairs:
                        settled.append(f"decision_timeout_s={DECISION_S}")
                    base, _ = replace(request, settings=tuple(settled)).configs(dossier)
                    dossier = base.dossier
                    check_pool(base)
                for seed in self.seeds:
                    varied = {name: value for name, value in pairs.items() if len(self.settings[name]) > 1}
                    yield replace(base, seed=seed), {"task": task, "seed": str(seed), **varied}

    def _request(self, data_dir: Path, task: str) -> RunRequest:
        return RunRequest(
            data_dir=data_dir,
            task=task,
            epochs=self.epochs,
            seed=self.seeds[0],
            policy=self.policy,
            lifecycle=self.lifecycle,
            rate_policy=self.rate_policy,
            device=self.device,
            pool=self.pool,
            drill=(),
            compiled_kernels=self.compiled_kernels,
            control=False,
            static=False,
            ignore_history=self.ignore_history,
            as_json=False,
            verb="submit",
        )

    def _at(self, *names: str) -> _Told:
        """Within, an InvalidInput says where in the file what is wrong was given: the one name that it mentions."""
        return _Told(self.where, names)


@dataclass(frozen=True, slots=True)
class _Told:
    where: Mapping[str, str]
    names: Sequence[str]

    def __enter__(self) -> None:
        """Nothing is done on the way in."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, InvalidInput):
            return
        blamed = [name for name in self.names if name.removeprefix("seeds.") in str(error)] or list(self.names[:1])
        place = next((self.where[name] for name in blamed if name in self.where), "")
        if place:
            raise InvalidInput(f"{place}: {error}") from None


def asked_for(what: str, pairs: Sequence[str], **given: Any) -> Sweep:
    """The sweep in the file `what`, or of the task `what`; `pairs` and what of `given` is not None go before that.

    Raises InvalidInput.
    """
    is_file = what.endswith((".yaml", ".yml"))
    sweep = read_sweep(Path(what)) if is_file else Sweep((what,))
    own: dict[str, list[str]] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise InvalidInput(f"--set {pair!r} is no NAME=VALUE, such as learning_rate=0.01")
        own.setdefault(name.strip(), []).append(value.strip())
    settings = {**sweep.settings, **{name: tuple(values) for name, values in own.items()}}
    options = {name: value for name, value in given.items() if value is not None}
    where = {name: place for name, place in sweep.where.items() if name not in {*own, *options}}
    return replace(sweep, settings=settings, where=where, **options)


def read_sweep(path: Path) -> Sweep:
    """The sweep in a YAML file. Raises InvalidInput, with file, line and value, for what it cannot mean."""
    found: dict[str, Any] = {}
    where: dict[str, str] = {}
    for name, value, place in _entries(_composed(path), path, _KEYS):
        where[name] = place
        if name == "set":
            found["settings"] = _settings(value, path, place, where)
        else:
            found["tasks" if name == "task" else name] = _value(name, value, place)
    if "tasks" not in found:
        raise InvalidInput(f"{path}:1: a sweep needs a task, such as `task: digits`")
    return Sweep(**found, where=where)


def _composed(path: Path) -> yaml.MappingNode:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is no text in UTF-8, as a sweep has to be") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise InvalidInput(f"{path}:{line}: not YAML: {error.problem}; see docs/fleet.md for an example") from None
    except yaml.YAMLError as error:
        raise InvalidInput(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(node, yaml.MappingNode):
        raise InvalidInput(f"{path}:1: a sweep has a name and a value on each line, such as `task: digits`")
    return node


def _settings(node: yaml.Node, path: Path, place: str, where: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """What stands under `set`; where each setting stands goes into `where`."""
    if not isinstance(node, yaml.MappingNode):
        raise InvalidInput(f"{place}: set has settings below it, such as `learning_rate: [0.01, 0.02]`")
    settings = {}
    for setting, values, at in _entries(node, path, ()):
        where[setting] = at
        settings[setting] = tuple(_texts(values, at, setting))
    return settings


def _entries(node: yaml.MappingNode, path: Path, known: Sequence[str]) -> Iterator[tuple[str, yaml.Node, str]]:
    """The names and values of a mapping, each with FILE:LINE; all names are `known`, where any are, and stand once."""
    seen: set[str] = set()
    for key, value in node.value:
        place, name = f"{path}:{key.start_mark.line + 1}", str(key.value)
        if known and name not in known:
            raise InvalidInput(f"{place}: {name!r} is no part of a sweep; {meant(name, known, ', '.join(known))}")
        if name in seen:
            raise InvalidInput(f"{place}: {name} is given twice; leave one of them out")
        seen.add(name)
        yield name, value, place


def _texts(node: yaml.Node, place: str, name: str) -> list[str]:
    """One value or several, as they are written."""
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not nodes or not all(isinstance(each, yaml.ScalarNode) for each in nodes):
        raise InvalidInput(f"{place}: {name} is neither a value nor a list of values, such as [0.01, 0.02]")
    return [str(each.value) for each in nodes]


def _value(name: str, node: yaml.Node, place: str) -> Any:
    """What a name of the file means."""
    texts = _texts(node, place, name)
    if name == "task":
        return tuple(texts)
    if name == "pool":
        return tuple(part.strip() for text in texts for part in text.split(","))
    if name == "seeds":
        return seeds_of(",".join(texts), place)
    if len(texts) != 1:
        raise InvalidInput(f"{place}: {name} takes one value; several are for task, seeds and what stands under set")
    (text,) = texts
    if name in {"epochs", "attempts", "priority"}:
        number = _whole(text)
        if number is None or (number < 1 and name != "priority"):
            least = "a whole number" if name == "priority" else "a whole number from 1 on"
            raise InvalidInput(f"{place}: {name} is {text!r}; it must be {least}")
        return number
    if name in {"control", "ignore_history", "compiled_kernels"}:
        if text.lower() not in {"true", "false"}:
            raise InvalidInput(f"{place}: {name} is {text!r}; it must be true or false")
        return text.lower() == "true"
    if name in _WORDS and text not in _WORDS[name]:
        raise InvalidInput(f"{place}: {name} {text!r} is unknown; choose {', '.join(_WORDS[name])}")
    return text


def _whole(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def seeds_of(text: str, place: str) -> tuple[int, ...]:
    """The random seeds that `0..4` or `0,3,7` means, or one."""
    try:
        return random_seeds(text) or (0,)
    except EsperError as error:
        raise InvalidInput(f"{place}: {str(error).replace('--seeds', 'seeds')}") from None
