"""What a seed comes to: operations of clients, with faults among them, as a list of steps.

The plan knows who ought to live and own what, so that its orders make sense; what faults make of that is for `model`
to find out afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.checker.house import ARCHIVER, BROKER

MOST_TRAINERS = 5
PAUSE_S = 0.03
LASTS = (2, 8)
"""How many operations a pause, a full disk or a clock that is off lasts."""

OPERATIONS = {
    "facts": 38,
    "telemetry": 5,
    "emergency": 4,
    "obey": 8,
    "command": 9,
    "blueprints": 5,
    "start": 5,
    "start_again": 3,
    "race": 3,
    "resume": 7,
    "finish": 2,
    "tail": 4,
    "sql": 3,
    "forge_claim": 3,
    "forge_command": 2,
    "trim": 3,
}
FAULTS = {
    "kill": 5,
    "pause": 4,
    "clock": 3,
    "full_disk": 3,
    "stale": 6,
    "stale_while_running": 1,
    "lost": 2,
    "flip": 3,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: an operation, ordered of the process `who`, or a fault; then wait for `pause_s`."""

    what: str
    who: str = ""
    how: dict[str, Any] = field(default_factory=dict)
    fault: bool = False
    pause_s: float = 0.0


@dataclass
class _Run:
    name: str
    trainers: list[str]
    facts: int = 1
    incarnation: int = 1
    over: bool = False


class Planner:
    """Draws one plan. `seed` decides everything."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._seed = seed
        self._runs: list[_Run] = []
        self._made = 0

    def plan(self, operations: int, faults: int) -> list[Step]:
        """So many operations with so many faults spread over them, every kind of either at least once if it fits."""
        draw = self._random
        ops = self._drawn(OPERATIONS, operations - 2)
        after = sorted(draw.sample(range(10, operations - 2), faults))
        kinds = self._drawn(FAULTS, faults)
        steps = [*self._op("start"), *self._op("start"), Step("copy", fault=True)]
        endings: dict[int, list[Step]] = {}
        for place, kind in enumerate(ops):
            steps += self._op(kind)
            while after and after[0] <= place:
                after.pop(0)
                begun, ended = self._fault(kinds.pop())
                steps += begun
                endings.setdefault(place + draw.randint(*LASTS), []).extend(ended)
            steps += endings.pop(place, [])
            if place % 25 == 24:
                steps.append(Step("copy", fault=True))
        return [*steps, *(step for each in endings.values() for step in each)]

    def _drawn(self, weights: dict[str, int], count: int) -> list[str]:
        kinds = list(weights)[:count]
        kinds += self._random.choices(list(weights), list(weights.values()), k=max(0, count - len(kinds)))
        self._random.shuffle(kinds)
        return kinds

    # ----------------------------------------------------------------------------------------------------- operations

    def _op(self, kind: str) -> Iterator[Step]:
        draw = self._random
        pause_s = draw.random() * PAUSE_S
        run = self._a_run()
        if kind == "start" or run is None:
            run = _Run(f"run-{self._seed}-{len(self._runs)}", [self._new_trainer()])
            self._runs.append(run)
            yield Step("start", run.trainers[0], {"run": run.name})
            yield from self._retire()
            return
        who = run.trainers[-1] if draw.random() < 0.85 else draw.choice(run.trainers)
        match kind:
            case "facts":
                count = draw.randint(1, 6)
                run.facts += count
                yield Step("facts", who, {"count": count}, pause_s=pause_s)
            case "telemetry":
                yield Step("telemetry", who, {"count": draw.randint(1, 5)}, pause_s=pause_s)
            case "emergency" | "obey":
                yield Step(kind, who, pause_s=pause_s)
            case "finish":
                run.over = True
                yield Step(kind, who, pause_s=pause_s)
            case "command":
                yield Step(kind, "author", {"run": run.name}, pause_s=pause_s)
            case "blueprints":
                yield Step(kind, "author", {"count": draw.randint(1, 4)}, pause_s=pause_s)
            case "start_again":
                yield Step("start", self._new_trainer(), {"run": run.name})
            case "resume":
                yield from self._resume(run)
            case "race":
                yield from self._resume(run)
                yield from self._resume(run)
            case "tail" | "sql":
                yield Step(kind, "reader", {"run": run.name}, pause_s=pause_s)
            case "forge_claim":
                how = {"run": run.name, "incarnation": run.incarnation + draw.randint(1, 3), "sequence": 2}
                yield Step("claim", "stranger", {**how, "with_key": draw.choice(("unknown", "retired"))})
            case "forge_command":
                yield Step(kind, "stranger", {"run": run.name, "with_key": draw.choice(("unknown", "retired"))})
            case "trim":
                yield Step(kind, "house", pause_s=pause_s)

    def _resume(self, run: _Run) -> Iterator[Step]:
        name = self._new_trainer()
        run.trainers.append(name)
        run.incarnation += 1
        back = self._random.choice((0, 0, 0, 1, 2))
        yield Step("resume", name, {"run": run.name, "back": back})
        yield from self._retire()

    def _a_run(self) -> _Run | None:
        going = [run for run in self._runs if not run.over]
        return self._random.choice(going[-3:]) if going else None

    def _new_trainer(self) -> str:
        self._made += 1
        return f"trainer{self._made}"

    def _retire(self) -> Iterator[Step]:
        """End the oldest trainers where there are too many."""
        alive = sorted((name for run in self._runs for name in run.trainers), key=lambda name: int(name[7:]))
        for name in alive[:-MOST_TRAINERS]:
            for run in self._runs:
                if name in run.trainers:
                    run.trainers.remove(name)
                    run.over |= not run.trainers
            yield Step("end", name)

    # --------------------------------------------------------------------------------------------------------- faults

    def _fault(self, kind: str) -> tuple[list[Step], list[Step]]:
        """The steps of a fault, and those that end it."""
        draw = self._random
        names = [BROKER, ARCHIVER, *(name for run in self._runs if not run.over for name in run.trainers[-1:])]
        name = draw.choices(names, [3, 3, *[1] * (len(names) - 2)])[0]
        over = [Step("over", fault=True, how={"name": name})]
        parts = ["meta.db", "manifest.json", "tail", "index", "verified.json"]
        some = draw.sample(parts, draw.choice((1, 1, 2)))
        match kind:
            case "kill":
                return [_fault(kind, name=name)], []
            case "pause":
                return [_fault(kind, name=name)], over
            case "clock":
                off_s = draw.choice((-1, 1)) * draw.choice((1.0, 120.0, 7_200.0, 86_400.0))
                return [_fault(kind, name=name, off_s=off_s)], [_fault("clock", name=name, off_s=0.0)]
            case "full_disk":
                name = draw.choice((BROKER, ARCHIVER))
                over = [Step("over", fault=True, how={"name": name})]
                return [_fault(kind, name=name, size=draw.choice((2_000, 8_000, 40_000)))], over
            case "stale":
                return [_fault(kind, parts=some, age=draw.random(), kill=draw.random() < 0.5)], []
            case "stale_while_running":
                return [_fault(kind, parts=["verified.json", "manifest.json"][: draw.randint(1, 2)], age=draw.random())], []
            case "lost":
                parts = ["meta.db", "tail", "index", "verified.json"]
                return [_fault(kind, parts=[draw.choice(parts)], kill=draw.random() < 0.5)], []
            case "flip":
                where = {"which": draw.random(), "where": draw.random(), "kill": draw.random() < 0.5}
                return [_fault(kind, kind=draw.choice(("segment", "index", "parquet", "verified.json")), **where)], []
        raise AssertionError(kind)


def _fault(what: str, **how: Any) -> Step:
    return Step(what, fault=True, how=how, pause_s=0.1)


# --------------------------------------------------------------------------------- short ones, for one known fault each


def _facts(who: str, count: int) -> Step:
    return Step("facts", who, {"count": count})


def _start(who: str, run: str) -> Step:
    return Step("start", who, {"run": run})


REST = Step("rest", "house")
COPY = Step("copy", fault=True)
BESIDE = ("one", "five")
"""Two runs of one partition; a test checks that."""

SHORT = {
    "producer ids": [
        COPY,
        _start("trainer1", BESIDE[0]),
        _facts("trainer1", 3),
        REST,
        Step("end", "trainer1"),
        _fault("stale", parts=["meta.db"], age=1.0, kill=False),
        _start("trainer2", BESIDE[1]),
        _facts("trainer2", 3),
        REST,
    ],
    "manifest": [
        _start("trainer1", "one"),
        REST,
        COPY,
        _facts("trainer1", 5),
        REST,
        Step("trim", "house"),
        _fault("stale", parts=["manifest.json"], age=0.0, kill=False),
        REST,
    ],
    "retired key": [
        _start("trainer1", "one"),
        _facts("trainer1", 2),
        REST,
        Step("claim", "stranger", {"run": "one", "incarnation": 2, "sequence": 2, "with_key": "retired"}),
        REST,
        _facts("trainer1", 2),
    ],
    "second start": [
        _start("trainer1", "one"),
        _facts("trainer1", 2),
        REST,
        _start("trainer2", "one"),
        _facts("trainer2", 2),
    ],
    "bad batch": [
        _start("trainer1", "one"),
        REST,
        _fault("pause", name=ARCHIVER),
        *[_facts("trainer1", 8) for _ in range(5)],
        Step("done", "house"),
        _fault("flip", kind="segment", which=0.0, where=0.5, kill=True),
        _facts("trainer1", 2),
    ],
}
"""By the cause that each is to find (cases 1, 2, 9, 10 and 12 of issue 10)."""
