"""The archiver's process: from the log into `projections.archive_writer`. `python -m streams.archiver --help`.

Plain aiokafka in bulk, because Faust costs 75 to 90 µs an event. The position is the manifest's, committed with the
rows; the group `esper-archiver` only tells the log how far its retention may go. One thread owns the archive and does
one thing after the other (flush, swap, delete), so the loop never waits for a disk and no two changes can meet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TextIO, TypeVar

from aiokafka import AIOKafkaConsumer, OffsetAndMetadata, TopicPartition
from aiokafka.errors import KafkaError

from contracts.topics import ARCHIVER_GROUP, LOCAL
from esper.errors import LogUnavailable
from esper.installation import python_module
from projections.archive_writer import Archive, Flushed
from projections.compaction import Proposal, job_to_line, plan, proposal_from_line
from projections.manifest import UNWRITABLE
from projections.records import Batch, Unreadable
from projections.verify import scrub
from streams.archive_start import connect
from streams.bulk import read_in_batches
from streams.entry import Place, announce, by_hand, clients_may_warn, log_to_stderr, parser_of, place_of
from streams.health import HealthServer
from streams.metrics import Metrics
from streams.topics import ensure_topics

FLUSH_S: Final = 0.2
"""From the beginning of a flush to that of the next: a record after a pause is flushed at once, a stream of them five
times a second. What is left of a second is for the disk, and for a reader to look."""

FLUSH_RECORDS: Final = 30_000

FLUSH_BYTES: Final = 32 * 2**20
"""So much is flushed without waiting, and more than that is not fetched beside a flush. Larger flushes cost less an
event, because a file of a body type costs the same however little is in it, and more memory."""

POLL_MS: Final = 50

IDLE_MS: Final = 2_000
"""How long to wait for a record while none waits for its flush: whatever comes, comes at once. After so long what the
log passed over without a record is noted as a gap."""

COMMIT_S: Final = 0.5

COMPACT_S: Final = 5.0

DELETE_S: Final = 30.0

SCRUB_S: Final = 60.0
"""How often files are looked at again that nobody looked at for long (`projections.verify.scrub`)."""

STALLED_S: Final = 10.0

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


def run(arguments: Sequence[str], messages: TextIO) -> None:
    """Archive until SIGTERM or SIGINT. Raises EsperError."""
    options = parser_of("streams.archiver", "Keeps the log as Parquet.").parse_args(arguments)
    log_to_stderr()
    clients_may_warn()
    try:
        asyncio.run(_serve(place_of(options), messages))
    except KafkaError as error:
        raise LogUnavailable(f"the log failed: {error!r}") from error
    except OSError as error:
        raise LogUnavailable(f"{UNWRITABLE}: {error}; make room or mend the disk") from error


async def _serve(place: Place, messages: TextIO) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = Metrics()
    with Archive(place.settings.data / "archive", place.ring) as archive:
        cluster_id = await ensure_topics(place.brokers, group=ARCHIVER_GROUP)
        read_in_batches()
        consumer = await connect(place.brokers, archive, cluster_id)
        log = place.settings.data / "log" if place.settings.brokers is None else None
        pump = ArchiveLoop(archive, consumer, metrics, stop, log)
        try:
            room = {"free_bytes": lambda: float(shutil.disk_usage(archive.folder).free)}
            with HealthServer("archiver", metrics, checks={"archive": pump.trouble}, figures=room) as health:
                announce("archiver", place.settings.run_folder, health.port, messages)
                await pump.run()
        finally:
            await consumer.stop()


@dataclass(slots=True)
class Buffer:
    """Batches that were fetched and are not yet flushed; `fill` is 1 where they are as many as a flush takes."""

    batches: list[Batch | Unreadable] = field(default_factory=list)
    fill: float = 0.0

    def add(self, batches: Iterable[Batch | Unreadable]) -> None:
        """Take in what was fetched."""
        for batch in batches:
            if isinstance(batch, Batch):
                self.fill += max(len(batch) / FLUSH_RECORDS, batch.size / FLUSH_BYTES)
            self.batches.append(batch)


class ArchiveLoop:
    """Moves records from a consumer to an archive until `stop` is set. The consumer reads in batches.

    `log` is the folder of an embedded log.
    """

    def __init__(
        self,
        archive: Archive,
        consumer: AIOKafkaConsumer,
        metrics: Metrics,
        stop: asyncio.Event,
        log: Path | None = None,
    ) -> None:
        self._archive = archive
        self._log = log
        self._consumer = consumer
        self._metrics = metrics
        self._stop = stop
        self._owner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="archive")
        self._committed: dict[TopicPartition, int] = {}
        self._committed_at = 0.0
        self._waiting_since: float | None = None
        self._flushed_at = -FLUSH_S
        self._damaged: set[str] = set()

    async def run(self) -> None:
        """Archive until stopped, then what was fetched already. Raises OSError where the archive cannot be written."""
        keeping = asyncio.create_task(self._keep_house())
        stopped = asyncio.create_task(self._stop.wait())
        buffer = Buffer()
        flush: asyncio.Task[None] | None = None
        try:
            while not self._stop.is_set():
                idle = False
                if buffer.fill < 1:
                    busy = flush is not None or bool(buffer.batches)
                    fetching = asyncio.create_task(self._consumer.getmany(timeout_ms=POLL_MS if busy else IDLE_MS))
                    await asyncio.wait({fetching, stopped, keeping}, return_when=asyncio.FIRST_COMPLETED)
                    for batches in (fetching.result() if fetching.done() else {}).values():
                        buffer.add(batches)
                    idle = fetching.done() and not buffer.batches
                    fetching.cancel()
                elif flush is not None:
                    await flush
                flush = _unless_over(flush)
                if idle and flush is None:
                    await self._note_skipped()
                if buffer.batches and self._waiting_since is None:
                    self._waiting_since = time.monotonic()
                if flush is None and self._due(buffer.fill):
                    self._waiting_since, self._flushed_at = None, time.monotonic()
                    flush, buffer = asyncio.create_task(self._flush(buffer.batches)), Buffer()
                if keeping.done():
                    keeping.result()
            if flush is not None:
                await flush
            await self._flush(buffer.batches)
            await self._commit(final=True)
        finally:
            stopped.cancel()
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping
            self._owner.shutdown(wait=True)

    async def _note_skipped(self) -> None:
        """Note as gaps what the consumer passed over without a record, while none waits to be archived.

        Where the log begins behind the archive's end and nothing lies behind, no record would ever bring the gap along.
        """
        try:
            async with asyncio.timeout(1.0):
                reached = {
                    (at.topic, at.partition): await self._consumer.position(at) for at in self._consumer.assignment()
                }
        except (KafkaError, TimeoutError):
            return  # the log is away, or looks for where it begins
        gone = await self._own(lambda: self._archive.note_gone(reached))
        if gone:
            logger.error("%d offsets were gone from the log before they were archived: see `esper archive`", gone)

    def trouble(self) -> str | None:
        """One line where fetched records wait too long to be archived."""
        since = self._waiting_since
        waited_s = 0.0 if since is None else time.monotonic() - since
        return None if waited_s < STALLED_S else f"records wait for the archive for {waited_s:.0f} s"

    def _due(self, fill: float) -> bool:
        waits = self._waiting_since is not None
        return waits and (fill >= 1 or time.monotonic() - self._flushed_at >= FLUSH_S)

    async def _flush(self, fetched: Sequence[Batch | Unreadable]) -> None:
        if not fetched:
            return
        self._refuse_what_went_back(fetched)
        started = time.monotonic()
        batches = [self._located(each) if isinstance(each, Unreadable) else each for each in fetched]
        done: Flushed = await self._own(lambda: self._archive.take(batches))
        self._metrics.count("esper_archive_records_total", done.rows)
        if done.invalid:
            self._metrics.count("esper_archive_invalid_total", done.invalid)
            logger.warning("%d records are no valid event and were kept raw in the table invalid", done.invalid)
        self._metrics.count("esper_archive_lost_total", done.lost)
        if done.lost > done.unreadable:
            logger.error(
                "%d offsets were gone from the log before they were archived: see `esper archive status`",
                done.lost - done.unreadable,
            )
        if done.unreadable:
            self._metrics.count("esper_archive_unreadable_total", done.unreadable)
            logger.error("%d offsets of the log are damaged: see `esper archive status`", done.unreadable)
        self._metrics.observe("esper_archive_flush_seconds", time.monotonic() - started)
        self._metrics.set("esper_archive_files", len(self._archive.manifest.files))
        await self._commit()

    def _located(self, unreadable: Unreadable) -> Unreadable:
        """With the segment of this data folder's log that it lies in, as named from the data folder."""
        if self._log is None:
            return unreadable
        folder = self._log / "topics" / unreadable.topic / str(unreadable.partition)
        held = [path for path in folder.glob("*.log") if path.stem.isdecimal() and int(path.stem) <= unreadable.first]
        return replace(unreadable, file=str(max(held).relative_to(self._log.parent))) if held else unreadable

    def _refuse_what_went_back(self, batches: Sequence[Batch | Unreadable]) -> None:
        """Raises LogUnavailable where the log gives offsets that are archived: a start compares the two and decides."""
        for batch in batches:
            end = self._archive.manifest.next_offsets.get((batch.topic, batch.partition), 0)
            first = batch.first if isinstance(batch, Unreadable) else batch.offsets[0] if batch.offsets else end
            if first < end:
                raise LogUnavailable(
                    f"the log goes on at {batch.topic}/{batch.partition} offset {first} and {end} are "
                    "archived: it was put back or replaced; the archiver starts again and compares them"
                )

    async def _commit(self, *, final: bool = False) -> None:
        """Tell the log what it may delete. Losing this costs nothing: the manifest is the position that counts."""
        if not final and time.monotonic() - self._committed_at < COMMIT_S:
            return
        self._committed_at = time.monotonic()
        held = self._archive.manifest.next_offsets.items()
        ends = {TopicPartition(*place): end for place, end in held if place[1] != LOCAL}
        changed = {place: end for place, end in ends.items() if self._committed.get(place) != end}
        if not changed:
            return
        try:
            async with asyncio.timeout(0.5 if final else 5.0):
                await self._consumer.commit({place: OffsetAndMetadata(end, "") for place, end in changed.items()})
        except (KafkaError, TimeoutError) as error:
            logger.warning("the log does not take the archive's position: %r", error)
        else:
            self._committed = ends

    async def _keep_house(self) -> None:
        """Merge small files and delete replaced ones, for ever."""
        deleted_at, scrubbed_at = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(COMPACT_S)
            await self._own(self._archive.keep_manifest)
            if await self._consumer.has_grown():
                raise LogUnavailable("partitions were added to the log's topics: the archiver begins anew with them")
            jobs = plan(self._archive.manifest, self._damaged)
            if jobs:
                await self._compact([job_to_line(job) for job in jobs])
            if time.monotonic() - scrubbed_at >= SCRUB_S:
                scrubbed_at = time.monotonic()
                await self._scrub()
            if time.monotonic() - deleted_at >= DELETE_S:
                deleted_at = time.monotonic()
                await self._own(lambda: self._archive.delete_retired(time.time()))
                await asyncio.to_thread(self._archive.drop_set_aside)  # it may read much, and changes no list

    async def _scrub(self) -> None:
        """Look again at some files, beside the flushes; what is damaged is named, and merged with nothing."""
        entries = [entry for entry in self._archive.manifest.files if entry.name not in self._damaged]
        for damage in await asyncio.to_thread(scrub, self._archive.folder, entries):
            if damage.name in {entry.name for entry in self._archive.manifest.files}:  # it was not replaced meanwhile
                logger.error("%s", damage)
                self._metrics.count("esper_archive_damaged_total")
                self._damaged.add(damage.name)

    async def _compact(self, jobs: Sequence[str]) -> None:
        """Have a child merge, and put its proposals into effect. A child that dies costs one attempt."""
        child = await asyncio.create_subprocess_exec(
            *python_module("projections.compaction", str(self._archive.folder)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**24,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write("".join(jobs).encode())
            child.stdin.write_eof()
            async for line in child.stdout:
                await self._take(proposal_from_line(line.decode()))
            if await child.wait():
                logger.warning("the compactor ended with %d", child.returncode)
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()

    async def _take(self, proposal: Proposal) -> None:
        for name in proposal.damaged:
            logger.warning("%s in %s is damaged: it stays as it is", name, self._archive.folder)
            self._damaged.add(name)
        merged = proposal.merged
        if merged is not None:
            await self._own(lambda: self._archive.swap(proposal.inputs, merged, time.time()))
            self._metrics.count("esper_archive_merges_total")

    async def _own(self, action: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._owner, action)


def _unless_over(flush: asyncio.Task[None] | None) -> asyncio.Task[None] | None:
    """None once a flush is over; raises what it raised."""
    if flush is None or not flush.done():
        return flush
    flush.result()
    return None


if __name__ == "__main__":
    sys.exit(by_hand("archiver", run))
