"""What the forge does all day: fold the topic, take up jobs, run children, say what came of them.

The log is the only memory. Whatever is not on it when the forge is killed is done again, or, where a child had come to
its end, taken from the child's folder; and since every id is derived from its job, saying it again says it once.
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
from esper.tezzeret import artifact, events
from esper.tezzeret.artifact import Artifact, Report
from esper.tezzeret.jobs import Job, Place, attempts_left, next_jobs
from esper.tezzeret.ledger import Ledger
from esper.tezzeret.mode import Breakers, conservative_reason
from esper.tezzeret.order import REFUSED, Failure, order_of
from esper.tezzeret.pipelines import MAX_JOBS, MAX_JOBS_CONSERVATIVE, MAX_RETRIES, Limits, limits
from streams.forge.child import compile_in_child
from streams.forge.spare import IdleMonitor, memory
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.records import Record

LOOK_S: Final = 1.0
"""How often time alone is looked at: breakers that recover, jobs that grow old."""
LOG_PAUSE_S: Final = 1.0
_NOWHERE: Final = Place(0, 0, 0)

logger = logging.getLogger(__name__)


class CompileScheduler:
    """The forge's state and hands. `folder` is where its children work; `aggressive` permits that pipeline."""

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
        self._spare = IdleMonitor()
        self._hands: dict[str, asyncio.Task[None]] = {}
        self._versions = asyncio.Lock()
        self._news = asyncio.Event()

    async def take(self, event: Event, record: Record) -> None:
        """Fold one event of the topic."""
        self.ledger.apply(event, Place(record.timestamp_ms, record.partition, record.offset))
        self._news.set()

    async def work(self) -> None:
        """Take up jobs until cancelled; then every child is killed. Raises what nobody foresaw in a job."""
        self._clear_folders()
        try:
            while True:
                self._news.clear()
                await self._say_breakers(self._breakers.poll())
                self._take_up()
                news = asyncio.create_task(self._news.wait())
                tasks = [news, *self._hands.values()]
                await asyncio.wait(tasks, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                self._lay_down()
        finally:
            for task in self._hands.values():
                task.cancel()
            await asyncio.gather(*self._hands.values(), return_exceptions=True)

    def figures(self) -> dict[str, float]:
        """What `/health` shows."""
        return {
            "jobs_running": len(self._hands),
            "jobs_open": len(self.ledger.open()),
            "conservative": float(bool(self._conservative())),
        }

    # ---------------------------------------------------------------------------------------------------------- hands

    def _take_up(self) -> None:
        conservative = self._conservative()
        self._metrics.set("esper_tezzeret_mode_conservative", float(bool(conservative)))
        self._metrics.set("esper_tezzeret_jobs_open", len(self.ledger.open()))
        at_most = MAX_JOBS_CONSERVATIVE if conservative else MAX_JOBS
        now_ms = time.time_ns() // 1_000_000
        idle = self._spare.look(time.monotonic())
        for job in next_jobs(self.ledger.open(), now_ms, running=self._hands, at_most=at_most, idle=idle):
            if job.can_wait:
                self._spare.taken()
            self._hands[job.job_id] = asyncio.create_task(self._do(job))

    def _lay_down(self) -> None:
        for job_id, task in list(self._hands.items()):
            if task.done():
                del self._hands[job_id]
                task.result()

    async def _do(self, job: Job) -> None:
        match job.needs:
            case "compile":
                await self._compile(job)
            case "publish":
                await self._publish(job)
            case "park":
                await self._say([events.parked(job, job.attempt, job.reason, time.time_ns())])
            case "nothing":
                return

    def _conservative(self) -> str:
        available, total = memory()
        return conservative_reason(self._breakers.open_ones(), 1.0 - available / total)

    # ----------------------------------------------------------------------------------------------------------- jobs

    async def _compile(self, job: Job) -> None:
        attempt = job.next_attempt
        folder = self._folder / f"{job.job_id}-{attempt}"
        report = artifact.read_report(folder) if job.stage == "started" else None
        outcome: Report | Failure = report or await self._run_child(job, folder)
        if isinstance(outcome, Failure):
            await self._failed(job, attempt, outcome)
        else:
            await self._finished(job, folder, outcome)
        shutil.rmtree(folder, ignore_errors=True)

    async def _run_child(self, job: Job, folder: Path) -> Report | Failure:
        allowed = self._limits(job)
        if job.stage != "started":
            await self._say([events.started(job, job.next_attempt, allowed.pipeline, time.time_ns())])
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
        stored = await asyncio.to_thread(artifact.store, self._objects, folder, report)
        now_ns = time.time_ns()
        said = [events.finished(job, stored, now_ns)]
        if report.eager_fallback:
            said.append(events.eager_fallback(job, stored, now_ns))
            self._metrics.count("esper_tezzeret_compilation_eager_fallback_total")
        await self._tell(job, stored, said)
        self._metrics.count("esper_tezzeret_jobs_total", outcome="finished")
        await self._say_breakers(self._breakers.succeeded())

    async def _publish(self, job: Job) -> None:
        """Say the rest of what an earlier forge began to say."""
        try:
            stored = await asyncio.to_thread(artifact.read, self._objects, job.artifact_ref)
        except (InvalidInput, CorruptState) as error:
            # The disk lost what the log already names; nobody has been told of it, so the job goes back.
            reason = f"the artifact was lost before it was published: {error}"
            await self._say([events.failed(job, job.attempt, reason, time.time_ns(), will_retry=True)])
            return
        await self._tell(job, stored, [])

    async def _tell(self, job: Job, stored: Artifact, before: list[Event]) -> None:
        """Publish an artifact. One at a time, so that no two of a blueprint get the same version."""
        async with self._versions:
            version = self.ledger.latest_version(job.blueprint_id) + 1
            await self._say([*before, *events.published(job, stored, version, time.time_ns())])

    async def _failed(self, job: Job, attempt: int, failure: Failure) -> None:
        will_retry = failure.kind != REFUSED and attempts_left(job, attempt)
        now_ns = time.time_ns()
        said = [events.failed(job, attempt, failure.reason, now_ns, will_retry=will_retry)]
        if not will_retry:
            said.append(events.parked(job, attempt, failure.reason, now_ns))
        logger.warning("%s attempt %d failed: %s", job.blueprint_id, attempt, failure.reason)
        await self._say(said)
        self._metrics.count("esper_tezzeret_jobs_total", outcome="retried" if will_retry else "parked")
        await self._say_breakers(self._breakers.failed(failure.kind, failure.reason))

    # ------------------------------------------------------------------------------------------------------ the log

    async def _say(self, said: Sequence[Event]) -> None:
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
            self.ledger.apply(event, _NOWHERE)
        self._news.set()

    async def _say_breakers(self, changes: Sequence[BreakerChanged]) -> None:
        for change in changes:
            self._metrics.set("esper_tezzeret_breaker_state", change.to_state, breaker=change.breaker)
        if changes:
            await self._say([events.breaker_changed(each, time.time_ns(), os.urandom(10)) for each in changes])

    def _clear_folders(self) -> None:
        """Remove what earlier children left behind, but for attempts that are still to be finished."""
        self._folder.mkdir(parents=True, exist_ok=True)
        kept = {f"{job.job_id}-{job.attempt}" for job in self.ledger.open() if job.stage == "started"}
        for folder in self._folder.iterdir():
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
