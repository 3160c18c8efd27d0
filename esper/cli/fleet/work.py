"""`esper work`: a worker of the fleet, which takes runs from the topic of work and trains them, a few at a time."""

from __future__ import annotations

import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from contracts.leyline.v1.event_pb2 import RunReleased, RunTaken, WorkerSeen
from contracts.topics import COMMANDS, RUNS, WORK, Topic
from esper.cli import RUN_FAILED
from esper.cli.fleet.attempt import Attempt, Ending, Here
from esper.cli.history import Waiting, check_writable, wait_for_archive
from esper.cli.in_process import stopping
from esper.cli.output import complain, one_line, say_json, say_now
from esper.cli.trainers import Trainers
from esper.errors import LogUnavailable
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.record.work import DIED, INTERRUPTED, OVER, Asked, Work
from esper.weatherlight import client
from esper.weatherlight.alive import lives, this_process
from streams.consumer import ends_of
from streams.keys import load_key_ring
from streams.settings import Settings
from streams.work import WorkLog

BEATS: Final = 5
"""In a lease: so many words of a worker may go missing less one."""
LEAST_S: Final = 3.0
"""For a word to be taken by the log, at least."""
LOOK_S: Final = 0.25
CLAIM_S: Final = 10.0
CAUGHT_UP_S: Final = 60.0
COMMIT_S: Final = 10.0
STOP_S: Final = 10.0
"""How long runs may take to record that they were interrupted."""
ARCHIVE_S: Final = 30.0
WRITTEN: Final = (WORK, RUNS, COMMANDS)
"""What `esper runs` tells of a run that was submitted."""
PAUSE_S: Final = 1.0
"""After a run died here: another worker may be where it can live."""
SICK: Final = 3
"""So many runs that died here one after the other say something about this machine."""
GPU: Final = Path("/dev/nvidiactl")
_CUDA: Final = re.compile(r'"device": "cuda')


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
            sick = worker.work(stop, lambda: tend(lease))
        if worker.ended and not sick:
            archived(asking.data_dir, lease, WRITTEN, STOP_S if stop() else ARCHIVE_S)
    if asking.as_json:
        say_json({"worker": name, "host": worker.host, "runs": worker.ended})
    if sick:
        complain(sick)
    return RUN_FAILED if sick else 0


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


def archived(data_dir: Path, lease: client.Lease, topics: tuple[Topic, ...], timeout_s: float = ARCHIVE_S) -> None:
    """Until whoever looks next finds in the archive what lies on `topics`; one that is behind is told of, and left."""
    try:
        wait_for_archive(data_dir, ends_of(lease.brokers, topics), timeout_s, Waiting(complain).tell, lease.unwritable)
    except LogUnavailable as error:
        complain(str(error))


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
        self._died: dict[str, str] = {}
        """Of the runs that died here since one was over: why."""

    def work(self, stop: Callable[[], bool], tend: Callable[[], None]) -> str:
        """Work until `stop` says so, or until nothing is left where that was asked for.

        Also until nothing lives here: returns why that is so, else an empty string. Raises LogUnavailable.
        """
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
                if len(self._died) >= SICK:
                    break
                self._log.wait_for(lambda _work: any(each.ending for each in self._attempts), LOOK_S)
        finally:
            self._leave()
        if len(self._died) < SICK:
            return ""
        return (
            f"{len(self._died)} runs died here one after the other, so this worker leaves them to others: "
            f"{next(reversed(self._died.values()))}"
        )

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
            self._log.publish([event], timeout_s=max(LEAST_S, self._asking.lease_s / BEATS))
        except LogUnavailable as error:
            complain(f"{error}; the worker waits for it")
            return False
        return True

    def _say(self, line: str) -> None:
        if self._asking.as_json:
            complain(one_line(line))
        else:
            say_now(one_line(line))

    # ---------------------------------------------------------------------------------------------- taking, giving back

    def _take(self) -> bool:
        """Claim a run where a slot is free; whether it tried."""
        if len(self._attempts) >= self._asking.slots or time.monotonic() < self._take_at:
            return False
        with self._log.look() as work:
            run = next((each for each in self._fitting(work) if self._is_mine(each)), None)
            free = ((each, why) for each, why in work.takeable(self.name, time.monotonic(), lives) if fits(each))
            run, why = (run, run.reason) if run is not None else next(free, (None, ""))
            claimed = run is not None and run.worker == self.name
            number = 0 if run is None else run.attempt if claimed else run.attempt + 1
        if run is None:
            return False
        if not claimed and not self._claim(run, number, why):
            return True
        again = f", attempt {number}: {why}" if number > 1 else ""
        what = f" ({told})" if (told := about(run)) else ""
        self._say(f"takes run {run.run_id}{what}{again}")
        self._attempts.append(Attempt(run, number, self._here))
        return True

    def _fitting(self, work: Work) -> Iterator[Asked]:
        return (run for run in work.runs.values() if fits(run))

    def _is_mine(self, run: Asked) -> bool:
        """Whether the log has a run as this worker's that is not trained here: a claim that came after its time."""
        return run.worker == self.name and run.run_id not in {each.run_id for each in self._attempts}

    def _claim(self, run: Asked, number: int, why: str) -> bool:
        """Whether the run is this worker's, once the log has said so."""
        if not self._tell(run.run_id, RunTaken(worker=self.name, host=self.host, attempt=number, reason=why)):
            return False
        self._log.wait_for(lambda work: work.runs[run.run_id].attempt >= number or run.over, CLAIM_S)
        with self._log.look() as work:
            return work.holds(run.run_id, self.name, number)

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
        if ending.status in OVER:
            self._died.clear()
        else:
            self._take_at = time.monotonic() + PAUSE_S
            if ending.status == DIED:
                self._died[attempt.run_id] = ending.reason
        self._log.wait_for(lambda work: not work.holds(attempt.run_id, self.name, attempt.number), CLAIM_S)
        return True

    def _empty(self) -> bool:
        with self._log.look() as work:
            return not self._attempts and all(run.over for run in self._fitting(work))

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


def fits(run: Asked) -> bool:
    """Whether this machine has what the run is to be trained on."""
    return _CUDA.search(run.body.config_json) is None or GPU.exists()


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
