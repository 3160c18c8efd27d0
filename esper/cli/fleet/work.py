"""`esper work`: a worker of the fleet, which takes runs from the topic of work and trains them, a few at a time."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from contracts.leyline.v1.event_pb2 import RunReleased, RunTaken, WorkerSeen
from esper.cli.fleet.attempt import Attempt, Ending, Here
from esper.cli.history import check_writable
from esper.cli.in_process import stopping
from esper.cli.output import complain, say_json, say_now
from esper.cli.trainers import Trainers
from esper.errors import LogUnavailable
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.record.work import INTERRUPTED, OVER, Asked, Work
from esper.weatherlight import client
from esper.weatherlight.alive import lives, this_process
from streams.keys import load_key_ring
from streams.settings import Settings
from streams.work import WorkLog

BEATS: Final = 5
"""In a lease: so many words of a worker may go missing less one."""
LOOK_S: Final = 0.25
CLAIM_S: Final = 10.0
CAUGHT_UP_S: Final = 60.0
COMMIT_S: Final = 10.0
STOP_S: Final = 10.0
"""How long runs may take to record that they were interrupted."""
PAUSE_S: Final = 1.0
"""After a run died here: another worker may be where it can live."""


@dataclass(frozen=True, slots=True)
class Asking:
    """What a person asked of `esper work`."""

    data_dir: Path
    slots: int
    until_empty: bool
    lease_s: float
    trust: bool
    as_json: bool


def work_command(asking: Asking) -> int:
    """Work until Ctrl-C, or until nothing is left; the exit code. Raises InvalidInput and LogUnavailable."""
    settings = Settings.load(data=asking.data_dir)
    check_writable(asking.data_dir)
    load_key_ring(settings)
    name = worker_name()
    joined = client.join(asking.data_dir, client=f"esper work {name}", brokers=settings.brokers)
    with joined as lease, Trainers(asking.data_dir) as trainers, stopping() as stop:
        lease.wait_ready()
        with WorkLog(lease.brokers, load_key_ring(settings, lease.brokers)) as log:
            here = Here(asking.data_dir, lease.brokers, trainers, threading.Lock(), lease.unwritable, asking.trust)
            worker = Worker(asking, name, log, here)
            worker.work(stop, lambda: tend(lease))
    if asking.as_json:
        say_json({"worker": name, "host": worker.host, "runs": worker.ended})
    return 0


def worker_name() -> str:
    """An id for a worker: 40 random bits behind the machine's name."""
    return f"{socket.gethostname()[:40]}-{secrets.token_hex(5)}"


def tend(lease: client.Lease) -> None:
    """Take in what the supervisor says; where it is gone, start the next one."""
    try:
        lease.poll()
    except client.SupervisorGone:
        complain("the supervisor is gone; starting another one")
        lease.renew()
    if lease.status.state == "failed":
        raise LogUnavailable(lease.status.error)


class Worker:
    """Takes runs as long as it has slots, tells that it lives, and gives back what it does not end."""

    def __init__(self, asking: Asking, name: str, log: WorkLog, here: Here) -> None:
        self.name, self.host = name, socket.gethostname()
        self.ended: list[dict[str, Any]] = []
        self._asking = asking
        self._log = log
        self._here = here
        self._attempts: list[Attempt] = []
        self._beat_at = self._commit_at = self._take_at = 0.0

    def work(self, stop: Callable[[], bool], tend: Callable[[], None]) -> None:
        """Work until `stop` says so, or until nothing is left where that was asked for."""
        if not self._log.caught_up(CAUGHT_UP_S):
            raise LogUnavailable(
                f"the topic of work was not read to its end within {CAUGHT_UP_S:.0f} s: try again, or see whether the "
                "log answers with `esper doctor`"
            )
        slots = f"{self._asking.slots} runs at a time" if self._asking.slots > 1 else "one run at a time"
        self._say(f"worker {self.name} · data {self._asking.data_dir} · log {self._here.brokers} · {slots}")
        try:
            while not stop():
                tend()
                self._beat()
                self._settle()
                if not self._take() and self._asking.until_empty and self._empty():
                    break
                self._log.wait_for(lambda _work: any(each.ending for each in self._attempts), LOOK_S)
        finally:
            self._leave()

    # ---------------------------------------------------------------------------------------------------- what it says

    def _beat(self, *, left: bool = False) -> None:
        """Say that this worker lives, a few times in a lease."""
        now = time.monotonic()
        if now < self._beat_at and not left:
            return
        self._beat_at = now + self._asking.lease_s / BEATS
        body = WorkerSeen(
            worker=self.name,
            host=self.host,
            slots=self._asking.slots,
            runs=[each.run_id for each in self._attempts],
            lease_s=self._asking.lease_s,
            left=left,
            process=this_process(),
        )
        self._tell("", body)
        if now >= self._commit_at:
            self._commit_at = now + COMMIT_S
            self._log.commit()

    def _tell(self, run_id: str, body: Any) -> bool:
        """Write one event; False where the log does not take it now."""
        event = work_event(body, run_id, self.name)
        try:
            self._log.publish([event], timeout_s=self._asking.lease_s)
        except LogUnavailable as error:
            complain(f"{error}; the worker waits for it")
            return False
        return True

    def _say(self, line: str) -> None:
        if self._asking.as_json:
            complain(line)
        else:
            say_now(line)

    # ---------------------------------------------------------------------------------------------- taking, giving back

    def _take(self) -> bool:
        """Claim a run where a slot is free; whether it tried."""
        if len(self._attempts) >= self._asking.slots or time.monotonic() < self._take_at:
            return False
        with self._log.look() as work:
            now, mine = time.monotonic(), {each.run_id for each in self._attempts}
            free = (each for each in work.takeable(self.name, now, lives) if each[0].run_id not in mine)
            run, why = next(free, (None, ""))
            number = 0 if run is None else run.attempt + 1
        if run is None:
            return False
        if not self._tell(run.run_id, RunTaken(worker=self.name, host=self.host, attempt=number, reason=why)):
            return True
        self._log.wait_for(lambda work: work.runs[run.run_id].attempt >= number or run.over, CLAIM_S)
        with self._log.look() as work:
            won = work.holds(run.run_id, self.name, number)
        if won:
            again = f", attempt {number}: {why}" if number > 1 else ""
            self._say(f"takes run {run.run_id} ({about(run)}){again}")
            self._attempts.append(Attempt(run, number, self._here))
        return True

    def _settle(self) -> None:
        """Tell of attempts that have ended, and stop those whose run is another's by now."""
        for attempt in list(self._attempts):
            with self._log.look() as work:
                held = work.holds(attempt.run_id, self.name, attempt.number)
                told = _instead(work, attempt.run_id, self.name)
            if not held and not attempt.lost:
                attempt.lost = True
                attempt.stop()
                self._say(f"leaves run {attempt.run_id}: {told}")
            if attempt.ending is None:
                continue
            if not attempt.lost and not self._release(attempt, attempt.ending):
                continue  # as soon as the log takes it
            self._attempts.remove(attempt)

    def _release(self, attempt: Attempt, ending: Ending) -> bool:
        body = RunReleased(
            worker=self.name, host=self.host, attempt=attempt.number, status=ending.status, reason=ending.reason
        )
        if not self._tell(attempt.run_id, body):
            return False
        self._say(f"run {attempt.run_id} {ending.status}" + (f": {ending.reason}" if ending.reason else ""))
        self.ended.append(
            {
                "run_id": attempt.run_id,
                "attempt": attempt.number,
                "status": ending.status,
                "reason": ending.reason or None,
            }
        )
        if ending.status not in OVER:
            self._take_at = time.monotonic() + PAUSE_S
        self._log.wait_for(lambda work: not work.holds(attempt.run_id, self.name, attempt.number), CLAIM_S)
        return True

    def _empty(self) -> bool:
        with self._log.look() as work:
            return not self._attempts and all(run.over for run in work.runs.values())

    def _leave(self) -> None:
        """End what runs here, each with its last completed epoch kept, and give it back at once."""
        if self._attempts:
            self._say(f"gives back {len(self._attempts)} {'run' if len(self._attempts) == 1 else 'runs'}")
        for attempt in self._attempts:
            attempt.stop()
        deadline = time.monotonic() + STOP_S
        for attempt in self._attempts:
            attempt.join(deadline - time.monotonic())
            ending = attempt.ending or Ending(INTERRUPTED, "the worker was stopped")
            if not attempt.lost:
                self._release(attempt, ending)
        self._attempts.clear()
        self._log.commit()
        self._beat(left=True)


def work_event(body: Any, run_id: str, producer: str) -> Event:
    """An event of the topic of work, of now."""
    now_ns = time.time_ns()
    return new_event(
        body, event_id=ids.uuid7(now_ns, os.urandom(10)), run_id=run_id, producer=producer, recorded_at_ns=now_ns
    )


def about(run: Asked) -> str:
    """What a request is, in a few words."""
    labels = ", ".join(f"{name} {value}" for name, value in sorted(run.body.labels.items()))
    if run.body.parent_run_id:
        at = f"fork of {run.body.parent_run_id} at step {run.body.step}: {run.body.change}"
        return f"{at}, {labels}" if labels else at
    return labels


def _instead(work: Work, run_id: str, worker: str) -> str:
    """Why a run is no longer a worker's."""
    run = work.runs[run_id]
    if run.over:
        return f"it is {run.status}" + (f" ({run.reason})" if run.reason else "")
    if run.worker and run.worker != worker:
        return f"it goes on at {run.host}, attempt {run.attempt}"
    return "its attempt is over"
