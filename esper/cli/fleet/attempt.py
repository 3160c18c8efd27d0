"""One worker's attempt at a requested run: how it begins here, its trainer, and what came of it."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contracts.leyline.v1.event_pb2 import RunRequested
from esper.cli.history import history_of, wait_for_archive
from esper.cli.replay import recorded_run
from esper.cli.trainers import PREPARE_S, Outcome, Trainer, Trainers
from esper.cli.trust import foreign_code, own_keys
from esper.errors import EsperError, InvalidInput, LogUnavailable
from esper.leyline.names import checked
from esper.record.recorded import lacked
from esper.record.work import COMPLETED, DIED, FAILED, INTERRUPTED, Asked
from esper.tolaria.config import RunConfig
from esper.tolaria.fork_change import place_of, read_change
from esper.tolaria.told import HALTED
from esper.weatherlight.beginning import Plan
from projections.history import History
from projections.run_queries import run_ids
from streams.consumer import ends_of

ARCHIVE_S: Final = 60.0
MOVING_S: Final = 600.0
"""How long a machine that is new may take in what all others wrote, before it goes on with somebody's run."""
POLL_S: Final = 0.2
START: Final = "start"
FORK: Final = "fork"


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended, as RunReleased says it."""

    status: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Here:
    """What an attempt needs of this machine. `forking` guards the one socket by which trainers are asked for."""

    data_dir: Path
    brokers: str
    trainers: Trainers
    forking: threading.Lock
    unwritable: Callable[[], str]
    trust: bool


class Attempt:
    """A thread that trains one run, or goes on with it, until it is over or `stop` was called.

    `number` is the attempt's, 1 for the first; `ending` is there once it has ended.
    """

    def __init__(self, run: Asked, number: int, here: Here) -> None:
        self.run_id, self.number = run.run_id, number
        self.ending: Ending | None = None
        self.lost = False
        """Whether the run is another worker's by now, so that nobody waits for what comes of this."""
        self._body = run.body
        self._here = here
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._main, name=f"attempt-{run.run_id}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Have the trainer record that it was interrupted, and end."""
        self._stopping.set()

    def join(self, timeout_s: float) -> bool:
        """Whether it has ended, given so much time."""
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def _main(self) -> None:
        try:
            self.ending = self._carry_out()
        except InvalidInput as error:
            self.ending = Ending(FAILED, str(error))
        except EsperError as error:
            self.ending = Ending(INTERRUPTED if self._stopping.is_set() else DIED, str(error))
        except Exception as error:  # noqa: BLE001 - the worker goes on with other runs, and the log has this one's reason
            traceback.print_exc()
            self.ending = Ending(DIED, f"{type(error).__name__}: {error}")

    def _carry_out(self) -> Ending:
        checked(self.run_id, "the run id")  # files are named by it
        begun = self._begin()
        if isinstance(begun, Ending):
            return begun
        config, plan = begun
        here = self._here
        with here.forking:
            trainer = here.trainers.add("submitted", self.run_id, config, plan)
        try:
            outcome = self._trained(trainer)
        finally:
            with here.forking:
                here.trainers.remove(trainer)
        return ending_of(outcome, stopped=self._stopping.is_set())

    def _trained(self, trainer: Trainer) -> Outcome:
        waited_s = 0.0
        while not trainer.prepared.wait(POLL_S) and not self._stopping.is_set():
            waited_s += POLL_S
            if waited_s > PREPARE_S:
                raise InvalidInput(f"its task was not loaded within {PREPARE_S:.0f} s")
        if not self._stopping.is_set():
            trainer.begin(self._here.brokers)
        asked = False
        while not trainer.wait(POLL_S):
            if self._stopping.is_set() and not asked:
                trainer.ask_to_stop()
                asked = True
        assert trainer.outcome is not None
        return trainer.outcome

    def _begin(self) -> tuple[RunConfig, Plan] | Ending:
        """How the trainer begins; or how the run had ended already, under the worker before."""
        body = self._body
        if body.begin not in {START, FORK}:
            raise InvalidInput(f"begin {body.begin!r} is of a newer Esper; this one knows {START} and {FORK}")
        if self.number == 1 and body.begin == START:
            return RunConfig.from_json(body.config_json), Plan(fresh=True, source=body.task_source)
        here = self._here
        wait_for_archive(
            here.data_dir, ends_of(here.brokers), ARCHIVE_S, self._meanwhile, here.unwritable, moving_s=MOVING_S
        )
        with history_of(here.data_dir) as history:
            if self.number > 1 and self.run_id in run_ids(history):
                return self._go_on(history)
            if body.begin == START:
                return RunConfig.from_json(body.config_json), Plan(source=body.task_source)
            return self._fork(history, body)

    def _meanwhile(self, _to_go: int) -> None:
        if self._stopping.is_set():
            raise LogUnavailable("the worker was stopped while it waited for the archive")

    def _go_on(self, history: History) -> tuple[RunConfig, Plan] | Ending:
        self._check_code(history, self.run_id)
        recorded = recorded_run(history, self.run_id)
        end = recorded.facts[-1].run_finished
        # What failed by itself waits for a person to mend it; a machine without room says nothing of the run.
        if end.status == COMPLETED or (end.status == FAILED and not lacked(end.reason)):
            return Ending(end.status, end.reason)
        return RunConfig.from_json(recorded.root.config_json), Plan("resume", source=recorded.task_source)

    def _fork(self, history: History, body: RunRequested) -> tuple[RunConfig, Plan]:
        change = read_change(body.change)
        self._check_code(history, body.parent_run_id)
        parent = recorded_run(history, body.parent_run_id)
        place_of(parent, body.step, change)
        config = RunConfig.from_json(parent.begun(len(parent.facts)).run_started.config_json)
        plan = Plan("fork", parent.task_source, body.parent_run_id, body.step, change.text, fresh=self.number == 1)
        return config, plan

    def _check_code(self, history: History, run_id: str) -> None:
        """Raise InvalidInput for a stranger's code, about which a worker can ask nobody."""
        found = [] if self._here.trust else foreign_code(history, run_id, own_keys())
        if found:
            raise InvalidInput(
                f"run {run_id} was not recorded with the key of this worker, and it runs code that came with it: "
                f"{'; '.join(map(str, found))}; read it, and start the worker with --trust"
            )


def ending_of(outcome: Outcome, *, stopped: bool) -> Ending:
    """What a trainer's end means for the run: over, or to be gone on with, and whether that counts against it.

    What a run records of its own failure is final, as it is for `esper resume`. A trainer that died or lost the log is
    no verdict on the run, but one that dies each time is given up. A run that an emergency halted is over for the
    workers: a person goes on with it.
    """
    if outcome.result is not None:
        status, reason = outcome.result["status"], outcome.result["reason"]
        if status in {COMPLETED, FAILED}:
            return Ending(status, reason)
        if reason.startswith(HALTED):
            return Ending(FAILED, reason)
        return Ending(INTERRUPTED if stopped or status == "superseded" else DIED, reason)
    if outcome.wrong_input:
        return Ending(FAILED, outcome.error)
    return Ending(INTERRUPTED if stopped else DIED, outcome.error)
