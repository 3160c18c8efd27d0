"""What a seed comes to: operations of clients, with faults among them, as a list of steps.

The plan knows who ought to live and own what, so that its orders make sense; what faults make of that is for `model`
to find out afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tests.checker.faults import FLIPPED, MOVED, PARTS
from tests.checker.house import ARCHIVER, BROKER, PROJECTOR

MOST_TRAINERS = 5
PAUSE_S = 0.03
CONTENTS = 12
"""Of objects, so that some are kept twice."""
LASTS = (2, 8)
"""How many operations a pause, a full disk or a clock that is off lasts."""

JUMPS_S = (1.0, 120.0, 7_200.0, 86_400.0)
FULL_AT = (2_000, 8_000, 40_000)
"""The sizes in bytes beyond which no file grows."""

OPERATIONS = {
    "facts": 38,
    "checkpoint": 6,
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
    "feed": 1,
    "forge_claim": 3,
    "forge_command": 2,
    "trim": 3,
}
UNDER_FEET = ["verified.json", "manifest.json", "objects", MOVED]
"""What can be put back while its users run, as other programs put files back: the one in use is exchanged."""
FAULTS = {
    "kill": 5,
    "pause": 4,
    "clock": 3,
    "full_disk": 3,
    "stale": 7,
    "stale_while_running": 2,
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
        ops = self._drawn(OPERATIONS, operations - 2)
        after = sorted(self._random.sample(range(10, operations - 2), faults))
        kinds = self._drawn(FAULTS, faults)
        steps = [*self._op("start"), *self._op("start"), Step("copy", fault=True)]
        endings: dict[int, list[Step]] = {}
        for place, kind in enumerate(ops):
            steps += self._op(kind)
            while after and after[0] <= place:
                after.pop(0)
                begun, ended = self._fault_steps(kinds.pop())
                steps.append(begun)
                endings.setdefault(place + self._random.randint(*LASTS), []).extend(ended)
            steps += endings.pop(place, [])
            if place % 25 == 24:
                steps.append(Step("copy", fault=True))
        return [*steps, *(step for each in endings.values() for step in each)]

    def _drawn(self, weights: dict[str, int], count: int) -> list[str]:
        kinds = list(weights)[:count]
        kinds += self._random.choices(list(weights), list(weights.values()), k=max(0, count - len(kinds)))
        self._random.shuffle(kinds)
        return kinds

    # ------------------------------------------------------------------------------------ operations, one for each name

    def _op(self, kind: str) -> Iterator[Step]:
        """The steps of an operation on one of the newest runs; without any a new one begins."""
        run = self._a_run()
        if kind == "start" or run is None:
            run = _Run(f"run-{self._seed}-{len(self._runs)}", [self._new_trainer()])
            self._runs.append(run)
            yield Step("start", run.trainers[0], {"run": run.name})
            yield from self._retire()
            return
        who = run.trainers[-1] if self._random.random() < 0.85 else self._random.choice(run.trainers)
        for step in self._ways(run, who)[kind]():
            yield replace(step, pause_s=self._random.random() * PAUSE_S)

    def _ways(self, run: _Run, who: str) -> dict[str, Callable[[], Iterable[Step]]]:
        """What each operation's steps are for a run and one of its trainers."""
        draw, name = self._random, {"run": run.name}
        return {
            "facts": lambda: [Step("facts", who, {"count": draw.randint(1, 6)})],
            "checkpoint": lambda: [Step("checkpoint", who, {"content": draw.randint(1, CONTENTS)})],
            "telemetry": lambda: [Step("telemetry", who, {"count": draw.randint(1, 5)})],
            "emergency": lambda: [Step("emergency", who)],
            "obey": lambda: [Step("obey", who)],
            "finish": lambda: self._finish(run, who),
            "resume": lambda: self._resume(run),
            "race": lambda: [*self._resume(run), *self._resume(run)],
            "start_again": lambda: [Step("start", self._new_trainer(), name)],
            "command": lambda: [Step("command", "author", name)],
            "blueprints": lambda: [Step("blueprints", "author", {"count": draw.randint(1, 4)})],
            "tail": lambda: [Step("tail", "reader", name)],
            "sql": lambda: [Step("sql", "reader", name)],
            "feed": lambda: [Step("feed", "reader", name)],
            "forge_claim": lambda: [
                Step(
                    "forge_claim",
                    "stranger",
                    {**name, "incarnation": run.incarnation + draw.randint(1, 3), "sequence": 2, **self._key()},
                )
            ],
            "forge_command": lambda: [Step("forge_command", "stranger", {**name, **self._key()})],
            "trim": lambda: [Step("trim", "house")],
        }

    def _key(self) -> dict[str, str]:
        return {"with_key": self._random.choice(("unknown", "retired"))}

    def _finish(self, run: _Run, who: str) -> Iterator[Step]:
        run.over = True
        yield Step("finish", who)

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

    # ----------------------------------------------------- faults, one for each name: the steps, and those that end it

    def _fault_steps(self, kind: str) -> tuple[Step, list[Step]]:
        return getattr(self, f"_{kind}")()

    def _somebody(self) -> str:
        trainers = [name for run in self._runs if not run.over for name in run.trainers[-1:]]
        return self._random.choices([BROKER, ARCHIVER, PROJECTOR, *trainers], [3, 3, 2, *[1] * len(trainers)])[0]

    def _kill(self) -> tuple[Step, list[Step]]:
        return _fault("kill", name=self._somebody()), []

    def _pause(self) -> tuple[Step, list[Step]]:
        name = self._somebody()
        return _fault("pause", name=name), [_fault("over", name=name)]

    def _clock(self) -> tuple[Step, list[Step]]:
        name, off_s = self._somebody(), self._random.choice((-1, 1)) * self._random.choice(JUMPS_S)
        return _fault("clock", name=name, off_s=off_s), [_fault("clock", name=name, off_s=0.0)]

    def _full_disk(self) -> tuple[Step, list[Step]]:
        name = self._random.choice((BROKER, ARCHIVER, PROJECTOR))
        return _fault("full_disk", name=name, size=self._random.choice(FULL_AT)), [_fault("over", name=name)]

    def _stale(self) -> tuple[Step, list[Step]]:
        parts = self._random.sample([*PARTS, MOVED], self._random.choice((1, 1, 2)))
        return _fault("stale", parts=parts, age=self._random.random(), kill=self._random.random() < 0.5), []

    def _stale_while_running(self) -> tuple[Step, list[Step]]:
        parts = self._random.sample(UNDER_FEET, self._random.choice((1, 1, 2)))
        return _fault("stale_while_running", parts=parts, age=self._random.random()), []

    def _lost(self) -> tuple[Step, list[Step]]:
        part = self._random.choice([part for part in PARTS if part != "manifest.json"])
        return _fault("lost", parts=[part], kill=self._random.random() < 0.5), []

    def _flip(self) -> tuple[Step, list[Step]]:
        where = {"which": self._random.random(), "where": self._random.random()}
        return _fault("flip", kind=self._random.choice(list(FLIPPED)), **where, kill=self._random.random() < 0.5), []


def _fault(what: str, **how: Any) -> Step:
    return Step(what, fault=True, how=how, pause_s=0.1)


# --------------------------------------------------------------------------------- short ones, for one known fault each


def _facts(who: str, count: int) -> Step:
    return Step("facts", who, {"count": count})


def _start(who: str, run: str) -> Step:
    return Step("start", who, {"run": run})


REST = Step("rest", "house")
COPY = Step("copy", fault=True)
SHORT = {
    "producer ids": [
        COPY,
        Step("blueprints", "author1", {"count": 1}),
        REST,
        _fault("stale", parts=["meta.db"], age=1.0, kill=False),
        Step("blueprints", "author2", {"count": 1}),
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
        Step("forge_claim", "stranger", {"run": "one", "incarnation": 2, "sequence": 2, "with_key": "retired"}),
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
    "projection": [
        Step("blueprints", "author", {"count": 3}),
        REST,
        Step("trim", "house"),
        _fault("lost", parts=["projections"], kill=False),
        REST,
    ],
    "object": [
        _start("trainer1", "one"),
        Step("checkpoint", "trainer1", {"content": 1}),
        Step("done", "house"),
        _fault("flip", kind="object", which=0.0, where=0.5, kill=False),
        Step("checkpoint", "trainer1", {"content": 1}),
    ],
}
"""By the cause that each is to find: cases 1, 2, 9, 10 and 12 of issue 10, and what lies beside log and archive."""
