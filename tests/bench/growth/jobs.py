"""The tasks of the growth table with their hosts, and a job: a training run by all that decides its result."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, Literal

from esper.kasmina.settings import Lifecycle, SeedSettings
from esper.tolaria.config import RunConfig
from esper.tolaria.hosts import ResNetLite
from esper.tolaria.structure import Piece
from esper.tolaria.tasks import Task
from esper.tolaria.tasks.chars import chars
from esper.tolaria.tasks.digits import CLASSES, digits, digits_wide
from esper.tolaria.tasks.doc import doc
from esper.tolaria.tasks.tabular import tab, tabn

Measure = Literal["accuracy", "loss"]

ROOT: Final = Path(__file__).parents[3]
MOVES_RESULTS: Final = ("esper/kasmina", "esper/karn", "esper/tamiyo", "esper/tolaria")
"""The code on which a result depends."""


@dataclass(frozen=True, slots=True)
class Family:
    """A task of the table: `make` gives it with a host of a size, `sizes` are the five of the sweep, the host's first.

    `measure` is what rates and sizes are chosen by, on the probe set, and what the verdicts are about.
    """

    make: Callable[[str], Task]
    sizes: tuple[str, ...]
    wide: str
    """A host that is big enough, which has nothing to gain from growth."""

    seeds: int = 10
    measure: Measure = "accuracy"


def _digits(size: str) -> Task:
    """`blockless` is the task's own host, `wide` the one that is big enough, a number a ResNetLite of that width."""
    if size in ("blockless", "wide"):
        return digits() if size == "blockless" else digits_wide()
    return replace(digits(), make_host=lambda: ResNetLite(1, int(size), CLASSES), sites=())  # its sites are others


def _of_width(make: Callable[[int], Task], size: str) -> Task:
    return make(int(size))


def _of_blocks(make: Callable[[int, int], Task], size: str) -> Task:
    width, blocks = size.split("x")
    return make(int(width), int(blocks))


def _signal(name: str, size: str) -> Task:
    from tests.bench import m1d

    make: Callable[[int], Task] = getattr(m1d, name)
    return make(int(size))


FAMILIES: Final[dict[str, Family]] = {
    "tab": Family(partial(_of_width, tab), ("8", "12", "16", "32", "64"), "128", seeds=20),
    "tabn": Family(partial(_of_width, tabn), ("8", "12", "16", "32", "64"), "64", seeds=20),
    "m1d_mlp": Family(partial(_signal, "m1d_mlp"), ("16", "24", "32", "64", "128"), "256", seeds=20),
    "digits": Family(_digits, ("blockless", "2", "3", "4", "6"), "wide"),
    "m1d_cnn": Family(partial(_signal, "m1d_cnn"), ("8", "12", "16", "32", "64"), "64"),
    "doc": Family(partial(_of_blocks, doc), ("24x1", "24x2", "24x3", "48x1", "48x2"), "48x2", measure="loss"),
    "chars": Family(partial(_of_blocks, chars), ("32x1", "32x2", "32x3", "64x1", "64x2"), "64x2", measure="loss"),
}


@cache
def task_of(family: str, size: str) -> Task:
    """The task with a host of this size; made once in a process."""
    return FAMILIES[family].make(size)


_DIGESTS: Final[dict[str, str]] = {}
"""Of the jobs of this process, by what they say of themselves: a plan asks for each again and again."""

Germination = tuple[int, Piece]
"""The epoch after which a seed germinates, 0 for before the first step, and what it is."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training run. Jobs that are equal give the same row."""

    task: str
    arm: str
    schedule: str
    seed: int
    on: Literal["probe", "test"]
    """What the finished network is evaluated on: the test set only when everything was chosen."""

    size: str
    rate: float
    steps: int = 0
    """Optimiser steps of the whole run; 0 for as many as the task has."""

    budget: float = 0.0
    """FLOPs of all kinds that a run of a grown arm must stay within; 0 for no limit."""

    script: tuple[Germination, ...] = ()
    """What germinates whatever the policy thinks, inserted at once."""

    structure: tuple[Piece, ...] = ()
    """What the host has built in from its first step."""

    @property
    def key(self) -> tuple[str, ...]:
        """The place in the table: of two rows with one key the newer holds."""
        return (
            self.task,
            self.arm,
            self.schedule,
            str(self.seed),
            self.on,
            self.size,
            repr(self.rate) if self.on == "probe" else "",
        )

    def config(self) -> RunConfig:
        """The run's configuration: every default of the product but the lifecycle, which the arm names."""
        grows = self.arm.startswith("grown")
        lifecycle: Lifecycle = "careful" if self.arm == "grown-careful" else "direct" if self.script else "swift"
        return RunConfig(
            task=self.task,
            seed=self.seed,
            policy="heuristic" if grows else "none",
            learning_rate=self.rate,
            rate_policy=self.schedule,  # type: ignore[arg-type]  # checked by RunConfig
            decision_timeout_s=None,
            structure=self.structure,
            seeds=SeedSettings(lifecycle=lifecycle),
        )

    def what(self) -> str:
        """A digest of the job alone, whatever the defaults of its configuration are."""
        return digest_of([asdict(self), self.shape()])

    def digest(self) -> str:
        """Of all that decides the result, with every default of the configuration: equal for equal runs of one code."""
        said = repr(self)
        if said not in _DIGESTS:
            settled = [asdict(self), json.loads(self.config().to_json())]
            _DIGESTS[said] = digest_of([*settled, self.shape()] if self.steps else settled)
        return _DIGESTS[said]

    def shape(self) -> tuple[int, int] | None:
        """Epochs, and steps of each, of a job that has so many steps."""
        task = task_of(self.task, self.size)
        return fitted(self.steps, task.steps(task.batch_size)) if self.steps else None


def fitted(steps: int, steps_per_epoch: int) -> tuple[int, int]:
    """(epochs, steps an epoch) of a run of `steps` steps or a few less, an epoch of `steps_per_epoch` or less.

    With epochs down to three quarters as long hardly a step is left over; of equals the fewest epochs come first.
    """
    fewest = max(1, -(-steps // steps_per_epoch))
    shapes = [(epochs, steps // epochs) for epochs in range(fewest, fewest + fewest // 3 + 6) if steps >= epochs]
    return max(shapes or [(1, 1)], key=lambda shape: (shape[0] * shape[1], -shape[0]))


def digest_of(settled: Any) -> str:
    """Of what JSON can hold."""
    return hashlib.sha256(json.dumps(settled, sort_keys=True).encode()).hexdigest()[:16]


def row_key(row: dict[str, Any]) -> tuple[str, ...]:
    """The key of the job that made this row."""
    names = ("task", "arm", "schedule", "seed", "on", "size")
    return (*(str(row[name]) for name in names), repr(row["rate"]) if row["on"] == "probe" else "")


def code_version(folders: Sequence[Path] | None = None) -> str:
    """A digest of the code that a result depends on, without its comments, docstrings and line breaks."""
    digest = hashlib.sha256()
    for folder in folders or [ROOT / name for name in MOVES_RESULTS]:
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(ast.dump(_bare(ast.parse(path.read_bytes()))).encode())
    return digest.hexdigest()[:16]


def _bare(tree: ast.Module) -> ast.Module:
    """The tree without strings that stand alone, which is what docstrings are."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_docstring(each)]  # type: ignore[attr-defined]
    return tree


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
