"""How much better than the heuristic could any policy be? Every state of a sample of runs is left by every action.

Each rollout is a row in a file of JSON lines that is on the disk before the next begins, so that a measurement that was
stopped goes on where it was. Rows are no events: a rollout of this kind is trained to be counted and thrown away, and
its run is no run of the person's. What was seen (the observation's bytes) lies in the object store beside the rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from esper.errors import CorruptState, InvalidInput
from esper.kasmina.settings import Lifecycle, SeedSettings
from esper.leyline.objects import ObjectStore
from esper.simic.ledger import Key, Ledger, Row
from esper.simic.rollouts import Decided, Lived, Rollouts
from esper.simic.states import Tried, choose_actions, choose_states
from esper.tamiyo.serving import Serving
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Clock
from esper.tolaria.tasks import load_task

TASKS: Final = ("tab", "tab@700", "tabn", "tabn@90", "spirals", "spirals@120")
"""Three tasks with two sizes of their host each, all of seconds a run."""
STATES: Final = 120
ACTIONS: Final = 12
ORDERS: Final = 2
STATES_A_RUN: Final = 4
FIRST_SEED: Final = 1000
"""Seeds of training; those of the evidence lie below."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured: `states` in all, as many of each task, of runs of the seeds from `first_seed` on."""

    tasks: tuple[str, ...] = TASKS
    states: int = STATES
    actions: int = ACTIONS
    orders: int = ORDERS
    states_a_run: int = STATES_A_RUN
    first_seed: int = FIRST_SEED
    lifecycle: Lifecycle | None = None
    policy: str = "heuristic"
    """Who decides the runs, and goes on with them after a rollout's own action."""

    epochs: int | None = None

    def __post_init__(self) -> None:
        if not self.tasks:
            raise InvalidInput("there is no task to measure; name one, such as --tasks tab")
        for name, least in (("states", 1), ("actions", 2), ("orders", 2), ("states_a_run", 1)):
            if getattr(self, name) < least:
                raise InvalidInput(f"{name} {getattr(self, name)} is too few; {least} at least")

        each = -(-self.states // len(self.tasks))
        object.__setattr__(self, "states_a_run", min(self.states_a_run, each))

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Task and seed of every run, a seed of each task before the next seed of any."""
        each = -(-self.states // (len(self.tasks) * self.states_a_run))
        return [(task, self.first_seed + number) for number in range(each) for task in self.tasks]

    def config(self, task: str, seed: int, policy: str = "") -> RunConfig:
        """The configuration of a run, every default the product's."""
        seeds = SeedSettings() if self.lifecycle is None else SeedSettings(lifecycle=self.lifecycle)
        decides = policy or self.policy
        return RunConfig(task=task, seed=seed, policy=decides, epochs=self.epochs, seeds=seeds)  # type: ignore[arg-type]

    def what(self) -> str:
        """A digest of all that decides what a row says, but its key."""
        settled = self.config("tab", 0).to_json()
        return hashlib.sha256(settled.encode()).hexdigest()[:16]


@dataclass(slots=True)
class Progress:
    """How far a measurement is: rollouts that are done, and those that there will be as far as is known."""

    done: int = 0
    total: int = 0
    trained_s: float = 0.0
    """Seconds that the rollouts of this call took, and their number."""

    trained: int = 0
    where: str = ""

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest will take at the pace until now; None before the first rollout."""
        return (self.total - self.done) * self.trained_s / self.trained if self.trained else None


class Headroom:
    """Measures `plan` in `folder`, row by row; `tell` is shown the progress after each, `stop` is asked before each."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        clock: Clock,
        *,
        tell: Callable[[Progress], None] = lambda _progress: None,
        stop: Callable[[], bool] = lambda: False,
        serving: Callable[[ObjectStore], Serving] | None = None,
    ) -> None:
        """`serving` puts a learned policy's weights into the objects of a run, and serves it there."""
        self.plan, self.clock, self.tell, self.stop = plan, clock, tell, stop
        self._serving = serving
        self.progress = Progress()
        self.ledger = Ledger(folder / "rows.jsonl", plan.what())
        self.objects = ObjectStore(folder / "objects")
        self.progress.total = len(self.plan.runs) * self.plan.states_a_run * self.plan.actions * self.plan.orders
        self.progress.done = sum(1 for _ in self.ledger.of("rollout"))

    def estimate_s(self) -> float:
        """About how many seconds what is missing takes, on one core: by the rows that there are, else by one control.

        A rollout is taken for as long as three quarters of a run with growth, which is twice a control.
        """
        spent = [row["wall_s"] for row in self.ledger.of("rollout")]
        if not spent:
            controls = [self._control(task, self.plan.first_seed) for task in dict.fromkeys(self.plan.tasks)]
            spent = [1.5 * row["wall_s"] for row in controls]
        return max(0, self.progress.total - self.progress.done) * float(sum(spent)) / len(spent)

    def work(self) -> bool:
        """Measure until nothing is missing, or until `stop` says so; whether it is complete."""
        for task, seed in self.plan.runs:
            with TemporaryDirectory(prefix="esper-rollouts-") as folder:
                if not self._run(task, seed, ObjectStore(Path(folder))):
                    return False
        return True

    def _run(self, task: str, seed: int, objects: ObjectStore) -> bool:
        """All rollouts of a run; False where it was stopped."""
        states = [row for row in self.ledger.of("state") if (row["task"], row["seed"]) == (task, seed)]
        known = self.ledger.find(Key("run", task, seed)) is not None
        if known and not list(self._missing(states)):
            return True
        if self.stop():
            return False
        self._control(task, seed)
        serving = None if self._serving is None else self._serving(objects)
        rollouts = Rollouts(load_task(task), objects, self.clock, serving=serving)
        began = self.clock.monotonic()
        lived = rollouts.live(self.plan.config(task, seed), "parent")
        place = Key("run", task, seed)
        config = self.plan.config(task, seed).to_json()
        told = {**asdict(lived.ending), "wall_s": self.clock.monotonic() - began, "config": config}
        decisions = {each.packet.epoch: each for each in lived.decisions}
        if not known:
            states = [self._state(task, seed, each) for each in self._chosen(task, seed, lived)]
        self.ledger.append(place, told)  # after its states: killed between them, a run would be over with none
        for state, tried, order in list(self._missing(states)):
            if self.stop():
                return False
            began = self.clock.monotonic()
            decided = _same(state, decisions)
            ending, digest = rollouts.roll_out(lived, decided, tried.action, order, "rollout")
            if order == 0 and tried.action == decided.chosen and digest != lived.digest:
                raise CorruptState(
                    f"{task} seed {seed}: the action that epoch {state['epoch']} took does not come to the same end "
                    "again: this machine's arithmetic is not the same twice; use one thread"
                )
            spent = self.clock.monotonic() - began
            self.ledger.append(_of(state, tried, order), {**asdict(ending), "wall_s": spent})
            self._tell(f"{task} seed {seed} epoch {state['epoch']}: {tried.action}", spent)
        return True

    def _chosen(self, task: str, seed: int, lived: Lived) -> list[Decided]:
        chosen = choose_states(lived.decisions, self.plan.states_a_run, f"{task} {seed}")
        self.progress.total -= (self.plan.states_a_run - len(chosen)) * self.plan.actions * self.plan.orders
        return chosen

    def _state(self, task: str, seed: int, decided: Decided) -> Row:
        """The row of a state, with the actions that are tried in it."""
        place = f"{task} {seed} {decided.packet.epoch}"
        actions = choose_actions(decided, self.plan.actions, place)
        self.progress.total -= (self.plan.actions - len(actions)) * self.plan.orders
        seen = decided.observation.SerializeToString(deterministic=True)
        row = {
            "chosen": decided.chosen,
            "actions": [asdict(each) for each in actions],
            "legal": len(decided.legal),
            "observation": self.objects.put(seen),
            "what": what_is_seen(decided),
        }
        return self.ledger.append(Key("state", task, seed, decided.packet.epoch), row)

    def _missing(self, states: Sequence[Row]) -> Iterator[tuple[Row, Tried, int]]:
        """What is yet to be trained of these states: all actions in one order of data before any in the next."""
        for state in states:
            for order in range(self.plan.orders):
                for each in state["actions"]:
                    tried = Tried(**each)
                    if self.ledger.find(_of(state, tried, order)) is None:
                        yield state, tried, order

    def _tell(self, where: str, spent_s: float) -> None:
        progress = self.progress
        progress.done += 1
        progress.trained += 1
        progress.trained_s += spent_s
        progress.where = where
        self.tell(progress)

    def _control(self, task: str, seed: int) -> Row:
        """The row of the run that never grows, which FLOPs are counted relative to."""
        place = Key("control", task, seed)
        if (row := self.ledger.find(place)) is not None:
            return row
        with TemporaryDirectory(prefix="esper-control-") as folder:
            began = self.clock.monotonic()
            rollouts = Rollouts(load_task(task), ObjectStore(Path(folder)), self.clock)
            lived = rollouts.live(self.plan.config(task, seed, "none"), "control")
            spent = self.clock.monotonic() - began
        return self.ledger.append(place, {**asdict(lived.ending), "wall_s": spent})


def what_is_seen(decided: Decided) -> str:
    """A digest of the observation without its times and ids: the same run again sees the same."""
    state = decided.observation
    seen = {
        "losses": list(state.probe_loss_history),
        "training": state.state.training_loss,
        "seeds": [each.SerializeToString(deterministic=True).hex() for each in state.seeds],
        "params": state.params,
        "legal": decided.legal,
    }
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]


def _same(state: Row, decisions: dict[int, Decided]) -> Decided:
    """The decision of a row in the run as it is now; raises CorruptState where the run is another one."""
    decided = decisions.get(state["epoch"])
    if decided is None or what_is_seen(decided) != state["what"]:
        raise CorruptState(
            f"{state['task']} seed {state['seed']} is not the run at epoch {state['epoch']} that the rows were made "
            "from: another Esper or machine made them; measure in another folder"
        )
    return decided


def _of(state: dict[str, Any], tried: Tried, order: int) -> Key:
    return Key("rollout", state["task"], state["seed"], state["epoch"], tried.action, order)
