"""A compile job as the fold of its events, and what is to be done next. It knows no clock and no log.

    requested ─► started ─► finished ─► stored ─► catalogued
                   │  ▲
                   ▼  │ will retry
                 failed ──► exhausted ─► parked        (asked for again, a parked job begins anew)

A job's id is derived from what it makes, so asking twice is one job. Whoever dies in between finds in `needs` what is
left to do: compile (an attempt that was cut is made again under its own number), publish what is stored, or park.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from contracts.leyline.v1.event_pb2 import CompileFailed, CompileRequested
from contracts.leyline.v1.leyline_pb2 import MESSAGE_PRIORITY_CRITICAL, MESSAGE_PRIORITY_LOW
from esper.errors import ContractViolation
from esper.leyline import ids
from esper.leyline.envelope import Event, body_name
from esper.tezzeret.pipelines import DEFAULT, MAX_RETRIES

OLD_MS: Final = 5 * 60 * 1000
"""A job that waits this long gains one priority, and another for every such time more."""

JobStage = Literal["requested", "started", "failed", "exhausted", "finished", "parked"]
Need = Literal["compile", "publish", "park", "nothing"]

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
    stored: bool = False
    catalogued: bool = False

    @property
    def needs(self) -> Need:
        """What is left to do."""
        match self.stage:
            case "requested" | "started" | "failed":
                return "compile"
            case "exhausted":
                return "park"
            case "finished":
                return "nothing" if self.stored and self.catalogued else "publish"
            case "parked":
                return "nothing"

    @property
    def can_wait(self) -> bool:
        """Whether nobody waits for it: a run wished for it and goes on without."""
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
    """The job after `event`, one of `JOB_EVENTS`. Repetitions and what an earlier attempt says late change nothing.

    Raises ContractViolation for a request whose id is not that of its content, and for news of a job never asked for.
    """
    name = body_name(event)
    if name == "compile_requested":
        return _requested(job, event, place)
    if job is None:
        raise ContractViolation(f"{name} for a job that nobody asked for: {event.event_id.hex()}")
    match name:
        case "compile_started":
            attempt = event.compile_started.attempt
            return replace(job, stage="started", attempt=attempt) if attempt > job.attempt else job
        case "compile_finished":
            body = event.compile_finished
            if job.stage != "started" or body.attempt != job.attempt:
                return job
            return replace(job, stage="finished", artifact_ref=body.artifact_ref, reason="")
        case "compile_failed":
            return _failed(job, event.compile_failed)
        case "compile_parked":
            return replace(job, stage="parked") if job.stage == "exhausted" else job
        case _:
            raise ContractViolation(f"{name} is no event of a compile job")


def request_id(job_id: str, attempts_made: int = 0) -> bytes:
    """The event id under which a kernel is asked for, or asked for again once its job is parked."""
    return ids.derived_id(ids.from_text(job_id), "tezzeret.requested", attempts_made)


def wish_id(job_id: str) -> bytes:
    """The event id under which a kernel is wished for by who found it missing; it does not begin a parked job anew."""
    return ids.derived_id(ids.from_text(job_id), "tezzeret.wished")


def _requested(job: Job | None, event: Event, place: Place) -> Job:
    body, priority = event.compile_requested, int(event.priority)
    if job is not None:
        # By its id a new request is told from the old one that comes again.
        again = job.stage == "parked" and event.event_id == request_id(job.job_id, job.attempt)
        if again:
            return replace(job, stage="requested", base=job.attempt, submitted=place, priority=priority)
        return replace(job, priority=max(job.priority, priority))
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


def _failed(job: Job, body: CompileFailed) -> Job:
    """A finished job still fails where its artifact was lost before it was published."""
    under_way = job.stage == "started" or (job.stage == "finished" and not job.stored)
    if not under_way or body.attempt != job.attempt:
        return job
    stage: JobStage = "failed" if body.will_retry else "exhausted"
    return replace(job, stage=stage, reason=body.reason, artifact_ref="")


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
