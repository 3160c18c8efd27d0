"""`esper submit`: runs for whoever works; `esper withdraw`: runs that nobody is to train any more."""

from __future__ import annotations

import getpass
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from contracts.leyline.v1.event_pb2 import RunReleased, RunRequested
from contracts.topics import WORK
from esper.cli import RUN_FAILED
from esper.cli.fleet.attempt import START
from esper.cli.fleet.sweep import Sweep
from esper.cli.fleet.work import WRITTEN, about, archived, work_event
from esper.cli.history import (
    check_writable,
    control_of,
    new_run_id,
)
from esper.cli.output import complain, one_line, say, say_json, say_now, table
from esper.cli.run import names_own_code
from esper.cli.runs import told_of, work_row
from esper.errors import InvalidInput, LogUnavailable
from esper.leyline.envelope import Event
from esper.record.work import COMPLETED, QUEUED, RUNNING, WITHDRAWN, Asked, Work
from esper.weatherlight import client
from esper.weatherlight.alive import lives
from streams.keys import load_key_ring
from streams.objects import object_store
from streams.settings import Settings
from streams.work import WorkLog

SEEN_S: Final = 30.0
LOOK_S: Final = 1.0
ALONE_S: Final = 20.0
"""So long nobody works before a person who waits is told."""
CHUNK: Final = 500
PRODUCER: Final = "submit"


@dataclass(frozen=True, slots=True)
class Submission:
    """What a person asked of `esper submit`."""

    data_dir: Path
    sweep: Sweep
    wait: bool
    as_json: bool


def submit_command(asked: Submission) -> int:
    """Ask for the runs, and wait until they are over where that is wanted; RUN_FAILED where one of them failed then."""
    settings = Settings.load(data=asked.data_dir)
    check_writable(asked.data_dir)
    load_key_ring(settings)
    batch = new_run_id()
    events = list(requests(asked, batch))
    with opened(asked.data_dir, settings, f"esper submit {batch}") as (log, lease):
        for first in range(0, len(events), CHUNK):
            log.publish(events[first : first + CHUNK])
        run_ids = [event.run_id for event in events]
        if not log.wait_for(lambda work: all(each in work.runs for each in run_ids), SEEN_S):
            raise LogUnavailable(f"the requests of batch {batch} did not come back within {SEEN_S:.0f} s")
        if not asked.as_json:
            say(f"batch {batch}: {len(run_ids)} {'run' if len(run_ids) == 1 else 'runs'} asked for")
        if asked.wait:
            _wait(log, run_ids, quiet=asked.as_json)
        else:
            log.commit()
        archived(asked.data_dir, lease, WRITTEN if asked.wait else (WORK,))
        with log.look() as work:
            found = [_row(work.runs[run_id]) for run_id in run_ids]
    if asked.as_json:
        say_json({"batch": batch, "runs": found})
    elif asked.wait:
        say(table(("run", "what", "status", "attempts"), [(each["run_id"], *_cells(each)) for each in found]))
    else:
        say("`esper work` on any machine trains them; `esper runs` shows how far they are")
    return RUN_FAILED if asked.wait and any(each["status"] != COMPLETED for each in found) else 0


def requests(asked: Submission, batch: str) -> Iterator[Event]:
    """A request for each run of a sweep, and for its control run where it has one."""
    sweep, by = asked.sweep, f"{getpass.getuser()}@{socket.gethostname()}"
    sources: dict[str, str] = {}
    place = 0
    for config, labels in sweep.configs(asked.data_dir):
        if config.task not in sources:
            sources[config.task] = _stored(asked.data_dir, config.task)
        run_id = new_run_id()
        family = {run_id: config}
        if sweep.control and config.policy != "none":
            family[control_of(run_id)] = replace(config, policy="none", control_of=run_id)
        for each, its_config in family.items():
            body = RunRequested(
                begin=START,
                config_json=its_config.to_json(),
                task_source=sources[config.task],
                batch=batch,
                place=place,
                max_attempts=sweep.attempts,
                priority=sweep.priority,
                labels=labels | ({"control_of": run_id} if each != run_id else {}),
                submitted_by=by,
            )
            yield work_event(body, each, PRODUCER)
            place += 1


def _stored(data_dir: Path, task: str) -> str:
    """Keep a person's own task where the worker finds it; its source, as a run records it."""
    if not names_own_code(task):
        return ""
    return f"file:{object_store(data_dir).put(Path(task.rpartition(':')[0]).read_bytes()).removeprefix('sha256:')}"


def withdraw_command(data_dir: Path, words: Sequence[str], *, as_json: bool) -> int:
    """Have nobody train these runs, or those of these batches, that are not over; raises InvalidInput for unknown ones.

    One that is being trained ends after its step, as an interrupted run does.
    """
    settings = Settings.load(data=data_dir)
    check_writable(data_dir)
    with opened(data_dir, settings, "esper withdraw") as (log, lease):
        with log.look() as work:
            chosen = [run for word in words for run in _meant(work, word)]
        going = [run.run_id for run in chosen if not run.over]
        body = RunReleased(status=WITHDRAWN, reason=f"by {getpass.getuser()}@{socket.gethostname()}")
        log.publish([work_event(body, run_id, PRODUCER) for run_id in going])
        log.wait_for(lambda work: all(work.runs[run_id].over for run_id in going), SEEN_S)
        log.commit()
        archived(data_dir, lease, (WORK,))
    if as_json:
        say_json({"withdrawn": going})
    else:
        say(f"{len(going)} {'run is' if len(going) == 1 else 'runs are'} withdrawn")
    return 0


def _meant(work: Work, word: str) -> list[Asked]:
    found = [run for run in work.runs.values() if word in {run.run_id, run.body.batch}]
    if not found:
        raise InvalidInput(
            f"nobody asked for a run or batch {word!r}, or all of it was over long ago: see `esper runs`"
        )
    return found


@contextmanager
def opened(data_dir: Path, settings: Settings, name: str) -> Iterator[tuple[WorkLog, client.Lease]]:
    """The topic of work, read to its end, and the lease on the processes by which it is there."""
    with client.join(data_dir, client=name, brokers=settings.brokers) as lease:
        lease.wait_ready()
        with WorkLog(lease.brokers, load_key_ring(settings, lease.brokers)) as log:
            if not log.caught_up(SEEN_S):
                raise LogUnavailable(f"the topic of work was not read to its end within {SEEN_S:.0f} s; try again")
            yield log, lease


def _wait(log: WorkLog, run_ids: Sequence[str], *, quiet: bool) -> None:
    """Until all are over; a bar at a terminal, lines elsewhere."""
    said: dict[str, str] = {}
    worked_at = time.monotonic()
    with _bar(len(run_ids), quiet=quiet) as tell:
        while True:
            with log.look() as work:
                runs = [work.runs[run_id] for run_id in run_ids]
                states = {run.run_id: (run.status, told_of(run), about(run)) for run in runs}
                now = time.monotonic()
                anyone = any(not work.lapsed(each, now, lives) for each in work.members)
            done = sum(run.over for run in runs)
            running = sum(run.status == RUNNING for run in runs)
            tell(done, running)
            for run_id, (status, told, what) in states.items():
                if said.get(run_id, QUEUED) != told and not quiet and (status != RUNNING or not sys.stderr.isatty()):
                    say_now(one_line(f"run {run_id} ({what}): {told}"))
                said[run_id] = told
            if done == len(run_ids):
                return
            worked_at = now if anyone else worked_at
            if now - worked_at > ALONE_S:
                complain("nobody works on these: start `esper work` here or on another machine")
                worked_at = float("inf")
            log.wait_for(lambda work: any(told_of(work.runs[each]) != said[each] for each in run_ids), LOOK_S)


@contextmanager
def _bar(total: int, *, quiet: bool) -> Iterator[Any]:
    """A bar on stderr, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda _done, _running: None
        return
    from rich.console import Console  # noqa: PLC0415 - only for people
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda done, running: progress.update(task, completed=done, description=f"{running} running")


def _row(run: Asked) -> dict[str, Any]:
    return {**work_row(run), "about": about(run)}


def _cells(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["about"], row["told"], row["attempts"]
