"""`esper blueprints approve`: an approval, or its withdrawal, as a signed event on the blueprints' topic."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from aiokafka.errors import KafkaError
from google.protobuf.message import Message

from contracts.leyline.v1.event_pb2 import BlueprintApproved
from esper.cli.folder import check_writable, wait_for_archive
from esper.cli.output import say, say_json
from esper.errors import ContractViolation, InvalidInput
from esper.karn.approval import Approval, Approvals, approve, evolve_approvals
from esper.karn.blueprint import Blueprint
from esper.karn.table import find_by_name
from esper.leyline import ids
from esper.leyline.envelope import Event, body_name, body_of, new_event
from esper.leyline.ids import text
from esper.leyline.signing import KeyRing
from esper.tezzeret.jobs import JOB_EVENTS, Job, Ledger, Place
from esper.weatherlight import client
from projections.manifest import Place as LogPlace
from streams.forge.blueprint_reader import BlueprintReader
from streams.keys import load_key_ring
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.records import Record, Refused, verified
from streams.settings import Settings

PRODUCER: Final = "person"
RETRY_S: Final = 0.2
ARCHIVE_S: Final = 30.0


class Conversation:
    """Used as an async context manager: on entering, everything that the topic holds is folded.

    `approvals` is what is approved now. Records that no key vouches for are no part of it.
    """

    def __init__(self, brokers: str, ring: KeyRing) -> None:
        self.ledger = Ledger()
        self.approvals: Approvals = {}
        self._ring = ring
        self._feed = BlueprintReader(brokers)
        self._publisher = Publisher(brokers, ring, Metrics())
        self._last: dict[tuple[str, str], Any] = {}
        self._listening: asyncio.Task[None] | None = None

    async def say(self, events: Sequence[Event]) -> None:
        """Write events and wait until the log has them; they come back as any others do."""
        await self._publisher.publish(events)

    def job(self, job_id: str) -> Job | None:
        """The job as it is now; None where nobody asked for it."""
        return self.ledger.jobs.get(job_id)

    def last(self, job_id: str, name: str) -> Any:
        """The last body of that name about a job, such as `compile_finished`; None where there is none."""
        return self._last.get((job_id, name))

    def check(self) -> None:
        """Raise what ended the listening, if anything did: then nothing would ever come any more."""
        if self._listening is not None and self._listening.done():
            self._listening.result()

    async def ends(self) -> dict[LogPlace, int]:
        """Where the topic ends now."""
        return {(place.topic, place.partition): offset for place, offset in (await self._feed.ends()).items()}

    async def __aenter__(self) -> Self:
        await self._feed.catch_up(self._take)
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        await self._feed.stop()
        await self._publisher.stop()

    async def _listen(self) -> None:
        """Fold what comes; a broker that is being started again is waited for."""
        while True:
            with contextlib.suppress(KafkaError, OSError):
                await self._feed.follow(self._take)
            await asyncio.sleep(RETRY_S)

    async def _take(self, record: Record) -> None:
        event = verified(record.signed, self._ring)
        if isinstance(event, Refused):
            return
        try:
            self.ledger.apply(event, Place(record.timestamp_ms, record.partition, record.offset))
        except ContractViolation:
            return  # the forge refuses it too, and says so
        name = body_name(event)
        if name == "blueprint_approved":
            self.approvals = evolve_approvals(self.approvals, event.blueprint_approved)
        elif name in JOB_EVENTS:
            body = body_of(event)
            self._last[body.job_id, name] = body


def of_a_person(body: Message) -> Event:
    """An event that a person caused at the command line, now."""
    now_ns = time.time_ns()
    event_id = ids.uuid7(now_ns, os.urandom(10))
    return new_event(body, event_id=event_id, run_id="", producer=PRODUCER, recorded_at_ns=now_ns)


def approve_command(data_dir: Path, word: str, *, by: str, why: str, withdraw: bool, as_json: bool) -> None:
    """Record who lets a blueprint be used and why; with `withdraw`, who takes that back.

    Raises InvalidInput for a blueprint that does not exist or needs no approval, for one that is approved already (or,
    with `withdraw`, is not), and where by whom or why is missing.
    """
    blueprint = find_by_name(word)
    body = approve(blueprint, by=by.strip(), why=why.strip(), approved=not withdraw)
    settings = Settings.load(data=data_dir)
    check_writable(data_dir)
    ring = load_key_ring(settings)
    with client.join(data_dir, client="esper blueprints approve", brokers=settings.brokers) as lease:
        lease.wait_ready()
        event_id, ends = asyncio.run(_record(lease.brokers, ring, blueprint, body))
        wait_for_archive(data_dir, ends, ARCHIVE_S, lambda: None)
    named = f"{blueprint.blueprint_id} {blueprint.name}"
    if as_json:
        said = {"blueprint_id": blueprint.blueprint_id, "approved": body.approved, "by": body.by, "why": body.why}
        say_json({**said, "event_id": text(event_id)})
    else:
        say(f"{named} is {'approved' if body.approved else 'no longer approved'} by {body.by}: {body.why}")


async def _record(
    brokers: str, ring: KeyRing, blueprint: Blueprint, body: BlueprintApproved
) -> tuple[bytes, dict[LogPlace, int]]:
    """Publish it if it changes anything; the event's id, and where the topic ends after it."""
    async with Conversation(brokers, ring) as conversation:
        _check(blueprint, conversation.approvals.get(blueprint.blueprint_id), approved=body.approved)
        event = of_a_person(body)
        await conversation.say([event])
        return event.event_id, await conversation.ends()


def _check(blueprint: Blueprint, before: Approval | None, *, approved: bool) -> None:
    named = f"{blueprint.blueprint_id} {blueprint.name}"
    if approved and before is not None:
        raise InvalidInput(
            f"{named} is approved already, by {before.by}: {before.why}; withdraw that first to change it"
        )
    if not approved and before is None:
        raise InvalidInput(f"{named} is not approved, so there is nothing to withdraw")
