"""The forge's scheduler: folds the blueprints' topic, starts compile jobs in child processes, publishes their outcome.

The log is the only memory. What is not on it when the forge is killed is done again, or, where a child had finished,
taken from the child's folder. Every event's id is derived from its job, so publishing one again changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from contracts.leyline.v1.event_pb2 import BreakerChanged
from esper.errors import CorruptState, InvalidInput, LogUnavailable
from esper.leyline.envelope import Event
from esper.leyline.objects import ObjectStore
from esper.tezzeret import events, results
from esper.tezzeret.jobs import Job, Ledger, Place, attempts_left, next_jobs
from esper.tezzeret.pipelines import (
    MAX_JOBS,
    MAX_JOBS_CONSERVATIVE,
    MAX_RETRIES,
    Breakers,
    Limits,
    conservative_reason,
    limits,
)
from esper.tezzeret.results import REFUSED, Artifact, Failure, Report, order_of
from streams.forge.child import compile_in_child
from streams.forge.machine import IdleMonitor, memory
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.records import Record

LOOK_S: Final = 1.0
"""How often open jobs and open breakers are looked at, which time alone may change."""
IDLE_LOOK_S: Final = 30.0
"""The same where there are none: a forge with nothing to do takes no time of the processor."""
LOG_PAUSE_S: Final = 1.0
LEAST_FREE_BYTES: Final = 256 * 2**20
"""A child takes tens of megabytes of the disk. Below this none is started and a failed one has used up no attempt."""
_UNPLACED: Final = Place(0, 0, 0)

logger = logging.getLogger(__name__)


class CompileScheduler:
    """Runs compile jobs, at most two at a time. Children work in `folder`; `aggressive` permits that pipeline."""

    def __init__(
        self, folder: Path, objects: ObjectStore, publisher: Publisher, metrics: Metrics, *, aggressive: bool = False
    ) -> None:
        self.ledger = Ledger()
        self._folder = folder
        self._objects = objects
        self._publisher = publisher
        self._metrics = metrics
        self._aggressive = aggressive
        self._breakers = Breakers(time.monotonic)
        self._idle = IdleMonitor()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._waits_for_room = False
        self._versions = asyncio.Lock()
        self._changed = asyncio.Event()
        for breaker, state in self._breakers.states().items():
            metrics.set("esper_tezzeret_breaker_state", state, breaker=breaker)

    async def fold(self, event: Event, record: Record) -> None:
        """Fold one event of the topic."""
        self.ledger.apply(event, Place(record.timestamp_ms, record.partition, record.offset))
        self._changed.set()

    async def run(self) -> None:
        """Run jobs until cancelled; then every child is killed. Raises what nobody foresaw in a job."""
        self._clear_folders()
        try:
            while True:
                self._changed.clear()
                await self._publish_breakers(self._breakers.poll())
                self._start_jobs()
                changed = asyncio.create_task(self._changed.wait())
                pause_s = LOOK_S if self.ledger.open() or self._breakers.open_ones() else IDLE_LOOK_S
                tasks = [changed, *self._running.values()]
                await asyncio.wait(tasks, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                self._drop_ended()
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    def figures(self) -> dict[str, float]:
        """What `/health` shows."""
        return {
            "jobs_running": len(self._running),
            "jobs_open": len(self.ledger.open()),
            "conservative": float(bool(self._conservative())),
        }

    # ------------------------------------------------------------------------------------------------- scheduling

    def _start_jobs(self) -> None:
        conservative = self._conservative()
        self._metrics.set("esper_tezzeret_mode_conservative", float(bool(conservative)))
        self._metrics.set("esper_tezzeret_jobs_open", len(self.ledger.open()))
        at_most = MAX_JOBS_CONSERVATIVE if conservative else MAX_JOBS
        now_ms = time.time_ns() // 1_000_000
        idle = self._idle.has_room(time.monotonic())
        room = self._disk_has_room()
        for job in next_jobs(self.ledger.open(), now_ms, running=self._running, at_most=at_most, idle=idle):
            if job.needs == "compile" and not room:
                continue
            if job.can_wait:
                self._idle.restart()
            self._running[job.job_id] = asyncio.create_task(self._advance(job))

    def _disk_has_room(self) -> bool:
        """Whether a child could write; said once when there is none, and once when there is again."""
        free = shutil.disk_usage(self._folder).free
        waits = free < LEAST_FREE_BYTES
        if waits != self._waits_for_room:
            self._waits_for_room = waits
            if waits:
                logger.warning(
                    "kernels wait for room on the disk of %s: %d MB are free and %d MB are needed",
                    *(self._folder, free // 2**20, LEAST_FREE_BYTES // 2**20),
                )
            else:
                logger.warning("there is room on the disk again: kernels are compiled")
        return not waits

    def _drop_ended(self) -> None:
        for job_id, task in list(self._running.items()):
            if task.done():
                del self._running[job_id]
                task.result()

    async def _advance(self, job: Job) -> None:
        match job.needs:
            case "compile":
                await self._compile(job)
            case "publish":
                await self._finish_publishing(job)
            case "park":
                await self._publish([events.parked(job, job.attempt, job.reason, time.time_ns())])
            case "nothing":
                return

    def _conservative(self) -> str:
        available, total = memory()
        return conservative_reason(self._breakers.open_ones(), 1.0 - available / total)

    # ---------------------------------------------------------------------------------------------------- one job

    async def _compile(self, job: Job) -> None:
        attempt = job.next_attempt
        folder = self._folder / f"{job.job_id}-{attempt}"
        report = results.read_report(folder) if job.stage == "started" else None
        outcome: Report | Failure = report or await self._run_child(job, folder)
        if isinstance(outcome, Failure):  # what the child itself took is no reason to wait
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        if isinstance(outcome, Failure) and outcome.kind != REFUSED and not self._disk_has_room():
            # Left as it is, begun: a forge goes on with the attempt under its own number once there is room.
            logger.warning("%s attempt %d is made again: %s", job.blueprint_id, attempt, outcome.reason)
        elif isinstance(outcome, Failure):
            await self._failed(job, attempt, outcome)
        else:
            await self._finished(job, folder, outcome)
        shutil.rmtree(folder, ignore_errors=True)

    async def _run_child(self, job: Job, folder: Path) -> Report | Failure:
        allowed = self._limits(job)
        if job.stage != "started":
            attempt, now_ns = job.next_attempt, time.time_ns()
            started = events.started(job, attempt, allowed.pipeline, now_ns)
            await self._publish([started, events.retries(job, attempt, now_ns)])
        order = order_of(job, allowed.pipeline, allowed.memory_bytes, approved=job.blueprint_id in self.ledger.approved)
        begun = time.monotonic()
        outcome = await compile_in_child(folder, order, allowed.timeout_s)
        self._metrics.observe(
            "esper_tezzeret_compilation_duration_seconds", time.monotonic() - begun, strategy=allowed.pipeline
        )
        return outcome

    def _limits(self, job: Job) -> Limits:
        return limits(
            job.pipeline,
            attempt=job.next_attempt - job.base,
            attempts=MAX_RETRIES + 1,
            conservative=bool(self._conservative()),
            aggressive=self._aggressive,
        )

    async def _finished(self, job: Job, folder: Path, report: Report) -> None:
        try:
            stored = await asyncio.to_thread(results.store, self._objects, folder, report)
        except InvalidInput as error:  # too large; the last attempt has no compiler cache and may fit
            await self._failed(job, report.attempt, Failure("error", str(error)))
            return
        now_ns = time.time_ns()
        said = [events.finished(job, stored, now_ns)]
        if report.eager_fallback:
            said.append(events.eager_fallback(job, stored, now_ns))
            self._metrics.count("esper_tezzeret_compilation_eager_fallback_total")
        await self._publish_artifact(job, stored, said)
        self._metrics.count("esper_tezzeret_jobs_total", outcome="finished")
        await self._publish_breakers(self._breakers.succeeded())

    async def _finish_publishing(self, job: Job) -> None:
        """Publish what an earlier forge had not yet published of a finished job."""
        try:
            stored = await asyncio.to_thread(results.read, self._objects, job.artifact_ref)
        except (InvalidInput, CorruptState) as error:
            # The disk lost what the log already names; it was not published yet, so it is compiled again.
            reason = f"the artifact was lost before it was published: {error}"
            await self._publish([events.failed(job, job.attempt, reason, time.time_ns(), will_retry=True)])
            return
        await self._publish_artifact(job, stored, [])

    async def _publish_artifact(self, job: Job, stored: Artifact, before: list[Event]) -> None:
        """Publish an artifact after `before`. One at a time, so that no two of a blueprint get the same version."""
        async with self._versions:
            version = self.ledger.latest_version(job.blueprint_id) + 1
            await self._publish([*before, *events.published(job, stored, version, time.time_ns())])

    async def _failed(self, job: Job, attempt: int, failure: Failure) -> None:
        will_retry = failure.kind != REFUSED and attempts_left(job, attempt)
        now_ns = time.time_ns()
        said = [events.failed(job, attempt, failure.reason, now_ns, will_retry=will_retry)]
        if not will_retry:
            said.append(events.parked(job, attempt, failure.reason, now_ns))
        logger.warning("%s attempt %d failed: %s", job.blueprint_id, attempt, failure.reason)
        await self._publish(said)
        self._metrics.count("esper_tezzeret_jobs_total", outcome="retried" if will_retry else "parked")
        await self._publish_breakers(self._breakers.failed(failure.kind, failure.reason))

    # ------------------------------------------------------------------------------------------------------ the log

    async def _publish(self, said: Sequence[Event]) -> None:
        """Publish, and wait for the log as long as it takes; what it acknowledged is folded at once."""
        while True:
            try:
                await self._publisher.publish(said)
            except LogUnavailable as error:
                logger.warning("the forge waits for the log: %s", error)
                await asyncio.sleep(LOG_PAUSE_S)
            else:
                break
        for event in said:
            self.ledger.apply(event, _UNPLACED)
        self._changed.set()

    async def _publish_breakers(self, changes: Sequence[BreakerChanged]) -> None:
        for change in changes:
            self._metrics.set("esper_tezzeret_breaker_state", change.to_state, breaker=change.breaker)
        if changes:
            await self._publish([events.breaker_changed(each, time.time_ns(), os.urandom(10)) for each in changes])

    def _clear_folders(self) -> None:
        """Remove what earlier children left behind, but for attempts that are still to be finished."""
        self._folder.mkdir(parents=True, exist_ok=True)
        kept = {f"{job.job_id}-{job.attempt}" for job in self.ledger.open() if job.stage == "started"}
        for folder in self._folder.iterdir():
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
