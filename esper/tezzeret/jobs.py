"""Compile jobs as the fold of their events, and which job is taken up next. Nothing here knows a clock or the log.

A job's id is derived from what it makes, so asking twice is one job. `MOVES` is the whole life of a job: an event that
it does not have for a job's stage changes nothing, because the log delivers at least once and late; nor does an event
of another attempt than the one that goes on. A forge that takes over finds in `needs` what is left to do: compile (an
attempt that was cut is made again under its own number), publish what is finished, or park.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from contracts.leyline.v1.event_pb2 import CompileRequested
from contracts.leyline.v1.leyline_pb2 import MESSAGE_PRIORITY_CRITICAL, MESSAGE_PRIORITY_LOW
from esper.errors import ContractViolation
from esper.leyline import ids
from esper.leyline.envelope import Event, body_name, body_of
from esper.tezzeret.pipelines import DEFAULT, MAX_RETRIES

JobStage = Literal["requested", "started", "failed", "exhausted", "finished", "stored", "catalogued", "parked"]
Need = Literal["compile", "publish", "park", "nothing"]

Trigger = Literal[
    "compile_requested",
    "compile_started",
    "compile_finished",
    "compile_failed, will retry",
    "compile_failed, for good",
    "compile_parked",
    "artifact_stored",
    "kernel_catalog_update",
]
"""An event by its body's name; a failure says whether another attempt follows."""


@dataclass(frozen=True, slots=True)
class Move:
    """One row of the table. A job begins where `source` is None; `meaning` is for people."""

    source: JobStage | None
    trigger: Trigger
    target: JobStage
    meaning: str


MOVES: Final[tuple[Move, ...]] = (
    Move(None, "compile_requested", "requested", "somebody asks for a kernel"),
    Move("requested", "compile_started", "started", "a child begins"),
    Move("started", "compile_finished", "finished", "the artifact is in the object store"),
    Move("started", "compile_failed, will retry", "failed", "timeout, memory or error"),
    Move("started", "compile_failed, for good", "exhausted", "refused, or the last attempt"),
    Move("failed", "compile_started", "started", "the next attempt, emergency if it is the last"),
    Move("exhausted", "compile_parked", "parked", "given up"),
    Move("finished", "compile_failed, will retry", "failed", "the disk lost it before it was told of"),
    Move("finished", "artifact_stored", "stored", "a version of the library"),
    Move("stored", "kernel_catalog_update", "catalogued", "everybody is told"),
    Move("parked", "compile_requested", "requested", "asked for again, with all attempts anew"),
)

NEEDS: Final[dict[JobStage, Need]] = {
    "requested": "compile",
    "started": "compile",
    "failed": "compile",
    "exhausted": "park",
    "finished": "publish",
    "stored": "publish",
    "catalogued": "nothing",
    "parked": "nothing",
}
"""What is left to do in each stage."""
STAGES: Final[tuple[JobStage, ...]] = tuple(NEEDS)

_TARGETS: Final[dict[tuple[JobStage | None, Trigger], JobStage]] = {
    (row.source, row.trigger): row.target for row in MOVES
}

_TRIGGERS: Final[dict[str, Trigger]] = {row.trigger: row.trigger for row in MOVES}


def trigger_of(event: Event) -> Trigger | None:
    """What an event is to a job; None where it is nothing."""
    name = body_name(event)
    if name == "compile_failed":
        return "compile_failed, will retry" if event.compile_failed.will_retry else "compile_failed, for good"
    return _TRIGGERS.get(name)


def target(source: JobStage | None, trigger: Trigger) -> JobStage | None:
    """Where the table leads from `source`; None where it has no such row, so that nothing changes."""
    return _TARGETS.get((source, trigger))


OLD_MS: Final = 5 * 60 * 1000
"""A job that waits this long gains one priority, and another for every such time more."""
JOB_EVENTS: Final = ("compile_requested", "compile_started", "compile_finished", "compile_failed", "compile_parked")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a record lies: its time on the log first, so that jobs of all partitions have one order of submission."""

    timestamp_ms: int
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Job:
    """One kernel to make. `attempt` is the last that was started; `base` the last before it was asked for again."""

    job_id: str
    blueprint_id: str
    shape_kind: str
    shape: tuple[int, ...]
    parameters: Mapping[str, float]
    pipeline: str
    priority: int
    submitted: Place
    stage: JobStage = "requested"
    attempt: int = 0
    base: int = 0
    reason: str = ""
    artifact_ref: str = ""

    @property
    def needs(self) -> Need:
        """What is left to do."""
        return NEEDS[self.stage]

    @property
    def stored(self) -> bool:
        """Whether everybody may know of its artifact."""
        return self.stage in ("stored", "catalogued")

    @property
    def can_wait(self) -> bool:
        """Whether nobody waits for it: a run asked for it ahead and goes on without."""
        return self.priority <= MESSAGE_PRIORITY_LOW and self.needs == "compile"

    @property
    def next_attempt(self) -> int:
        """The number under which it is compiled next: that of an attempt that was cut, else a new one."""
        return self.attempt if self.stage == "started" else self.attempt + 1


def job_id_of(
    blueprint_id: str, kind: str, shape: Iterable[int], parameters: Mapping[str, float], pipeline: str
) -> str:
    """The id of the job that makes exactly this: the same on every machine and at every asking."""
    # The log carries doubles: 1 and 1.0 are one setting.
    settings = {name: float(value) for name, value in parameters.items()}
    content = [blueprint_id, kind, list(shape), settings, pipeline]
    return ids.text(ids.derived_id(json.dumps(content, sort_keys=True).encode(), "tezzeret.job"))


def request(
    blueprint_id: str, kind: str, shape: Iterable[int], parameters: Mapping[str, float], pipeline: str = DEFAULT
) -> CompileRequested:
    """The body that asks for a kernel. `parameters` are complete, as `Blueprint.resolve` gives them."""
    sizes = list(shape)
    return CompileRequested(
        job_id=job_id_of(blueprint_id, kind, sizes, parameters, pipeline),
        blueprint_id=blueprint_id,
        pipeline=pipeline,
        shape=sizes,
        shape_kind=kind,
        parameters=parameters,
    )


def attempts_left(job: Job, attempt: int, max_retries: int = MAX_RETRIES) -> bool:
    """Whether another attempt may follow a failed one (R-TEZ-11: n retries are n + 1 attempts)."""
    return attempt - job.base <= max_retries


def evolve(job: Job | None, event: Event, place: Place) -> Job:
    """The job after `event`, one that `MOVES` names.

    Repetitions and what another attempt says late change nothing. Raises ContractViolation for a request whose id is
    not that of its content, for news of a job never asked for, and for an event that is none of a job.
    """
    trigger = trigger_of(event)
    if trigger is None:
        raise ContractViolation(f"{body_name(event)} is no event of a compile job")
    if trigger == "compile_requested":
        return _requested(job, event, place)
    if job is None:
        raise ContractViolation(f"{body_name(event)} for a job that nobody asked for: {event.event_id.hex()}")
    stage = target(job.stage, trigger)
    return job if stage is None or not _is_heeded(job, event) else _moved(job, stage, event)


def _is_heeded(job: Job, event: Event) -> bool:
    """Whether an event is about the attempt that goes on, the one that comes next, or the artifact that was made."""
    match body_name(event):
        case "compile_started":
            return event.compile_started.attempt > job.attempt
        case "compile_finished" | "compile_failed":
            return int(body_of(event).attempt) == job.attempt
        case "artifact_stored" | "kernel_catalog_update":
            return str(body_of(event).artifact_ref) == job.artifact_ref
        case _:
            return True


def _moved(job: Job, stage: JobStage, event: Event) -> Job:
    """The job in its new stage, with what the event says besides."""
    match body_name(event):
        case "compile_started":
            return replace(job, stage=stage, attempt=event.compile_started.attempt)
        case "compile_finished":
            return replace(job, stage=stage, artifact_ref=event.compile_finished.artifact_ref, reason="")
        case "compile_failed":
            return replace(job, stage=stage, reason=event.compile_failed.reason, artifact_ref="")
        case _:
            return replace(job, stage=stage)


def request_id(job_id: str, attempts_made: int = 0) -> bytes:
    """The event id under which a kernel is asked for, or asked for again once its job is parked."""
    return ids.derived_id(ids.from_text(job_id), "tezzeret.requested", attempts_made)


def prefetch_request_id(job_id: str) -> bytes:
    """The event id of a request that follows from a prefetch; it does not begin a parked job anew."""
    return ids.derived_id(ids.from_text(job_id), "tezzeret.wished")


def _requested(job: Job | None, event: Event, place: Place) -> Job:
    body, priority = event.compile_requested, int(event.priority)
    stage = target(None if job is None else job.stage, "compile_requested")
    if job is not None:
        # By its id a new request is told from the old one that comes again.
        if stage is None or event.event_id != request_id(job.job_id, job.attempt):
            return replace(job, priority=max(job.priority, priority))
        return replace(job, stage=stage, base=job.attempt, submitted=place, priority=priority)
    parameters = dict(body.parameters)
    expected = job_id_of(body.blueprint_id, body.shape_kind, body.shape, parameters, body.pipeline)
    if body.job_id != expected:
        raise ContractViolation(f"job {body.job_id!r} asks for what is job {expected}: derive ids with job_id_of")
    return Job(
        job_id=body.job_id,
        blueprint_id=body.blueprint_id,
        shape_kind=body.shape_kind,
        shape=tuple(body.shape),
        parameters=parameters,
        pipeline=body.pipeline,
        priority=priority,
        submitted=place,
    )


def next_jobs(
    jobs: Iterable[Job], now_ms: int, *, running: Iterable[str] = (), at_most: int, idle: bool = True
) -> list[Job]:
    """What to take up now, best first: all that only needs events, then compilations until `at_most` run.

    Among compilations the higher priority goes first, and within one the order of submission, across restarts
    (R-TEZ-16). `running` are the ids of jobs in hand, of whatever kind. Unless the machine is `idle`, jobs that can
    wait do; and of those at most one begins at a time, because it takes up the room that was found.
    """
    busy = set(running)
    free = [job for job in jobs if job.job_id not in busy]
    settle = sorted((job for job in free if job.needs in ("publish", "park")), key=lambda job: job.submitted)
    compile_ = sorted(
        (job for job in free if job.needs == "compile"), key=lambda job: (-_urgency(job, now_ms), job.submitted)
    )
    urgent = [job for job in compile_ if not job.can_wait]
    patient = [job for job in compile_ if job.can_wait][:1] if idle and not urgent else []
    return settle + [*urgent, *patient][: max(0, at_most - len(busy))]


def _urgency(job: Job, now_ms: int) -> int:
    aged = job.priority + max(0, now_ms - job.submitted.timestamp_ms) // OLD_MS
    return min(aged, max(job.priority, int(MESSAGE_PRIORITY_CRITICAL)))


class Ledger:
    """Folds `esper.blueprints` event by event; folding an event again changes nothing.

    It changes in place, because a library may hold ten thousand finished jobs and each event touches one.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.approved: set[str] = set()
        self._open: dict[str, None] = {}
        self._by_artifact: dict[str, str] = {}
        self._versions: dict[str, int] = {}

    def apply(self, event: Event, place: Place) -> None:
        """Fold one event of the topic. Raises ContractViolation as `evolve` does; then nothing has changed."""
        name, body = body_name(event), body_of(event)
        if name in JOB_EVENTS:
            self._keep(evolve(self.jobs.get(body.job_id), event, place))
        elif name == "artifact_stored":
            self._versions[body.blueprint_id] = max(self.latest_version(body.blueprint_id), body.artifact_version)
            self._tell(body.artifact_ref, event, place)
        elif name == "kernel_catalog_update":
            self._tell(body.artifact_ref, event, place)
        elif name == "blueprint_approved":
            (self.approved.add if body.approved else self.approved.discard)(body.blueprint_id)

    def open(self) -> list[Job]:
        """The jobs that still need something."""
        return [self.jobs[job_id] for job_id in self._open]

    def latest_version(self, blueprint_id: str) -> int:
        """The highest artifact version stored of a blueprint, 0 where none is."""
        return self._versions.get(blueprint_id, 0)

    def _keep(self, job: Job) -> None:
        self.jobs[job.job_id] = job
        if job.artifact_ref:
            self._by_artifact[job.artifact_ref] = job.job_id
        if job.needs == "nothing":
            self._open.pop(job.job_id, None)
        else:
            self._open[job.job_id] = None

    def _tell(self, artifact_ref: str, event: Event, place: Place) -> None:
        """Tell a job of its artifact; one that no job made, from a vetted bundle, has none."""
        job_id = self._by_artifact.get(artifact_ref)
        if job_id is not None:
            self._keep(evolve(self.jobs[job_id], event, place))
