"""A run without a log: its history goes straight into the archive, and its decisions are made in its own process.

A person's command is put into that archive by `tell`, as if it were the log, and found there before the next step.

What this writes lies in a partition that no log has (`LOCAL`), so an archive may hold such histories beside those of a
log, and every reader of the archive reads both. Facts are archived when a state is kept, and at the end: a process that
dies has lost what a resumed run comes to again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from contracts.topics import COMMANDS, LOCAL
from esper.errors import InvalidInput, LogUnavailable, Superseded
from esper.leyline.envelope import Event, body_name
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import KeyRing, Signed
from esper.record.accept import supersedes
from esper.tamiyo.answer import answer
from esper.tamiyo.serving import Serving
from esper.tolaria.outside import Answer, Clock
from projections import manifest, open_history
from projections.archive_writer import Archive
from projections.compaction import MERGE_AT, merge_all
from projections.lineage import commands_told
from projections.records import StoredRecord
from streams.records import headers_of, outgoing

KEEPS: Final = frozenset({"run_started", "run_resumed", "checkpoint_saved", "rolled_back", "run_finished"})
"""What a person who looks wants to find: a flush archives once one of these was published."""
BUSY_S: Final = 30.0
"""How long another writer of the same archive is waited for."""
LOOK_S: Final = 0.05
_MOST: Final = 5_000
_PLACE: Final = (COMMANDS.name, LOCAL)


class LocalLog:
    """`esper.tolaria.outside.ClaimableLog` over the archive in `folder`, signed by `ring`.

    `claimed` says which incarnation of a run is on record, `serving` which learned policies there are; it is asked for
    the first decision. Raises LogUnavailable where the archive cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        ring: KeyRing,
        objects: ObjectStore,
        clock: Clock,
        *,
        claimed: Callable[[str], int] = lambda _run_id: 0,
        serving: Callable[[], Serving] = Serving,
    ) -> None:
        self._folder = folder
        self._ring = ring
        self._objects = objects
        self._clock = clock
        self._claimed = claimed
        self._make_serving = serving
        self._serving: Serving | None = None
        self._waiting: list[Event] = []
        self._due = False
        self._packet: Event | None = None
        self._given: dict[bytes, Answer] = {}
        self._arrived: list[Signed] = []
        self._run_id = ""
        self._stamp = manifest.stamp(folder)
        self._told: int | None = None
        """The offset of the first command that may not have been looked at."""

    @property
    def ends(self) -> Mapping[tuple[str, int], int]:
        """There is no log that the archive has to come to the end of."""
        return {}

    def publish(self, event: Event) -> None:
        """Hold the event for the next flush."""
        name = body_name(event)
        self._run_id = event.run_id
        self._waiting.append(event)
        answers = name in ("command_rejected", "breaker_changed") or (
            name == "command_applied" and bool(event.command_applied.told)
        )
        self._due = self._due or answers or name in KEEPS or len(self._waiting) > _MOST
        if name == "epoch_completed":
            self._packet = event

    def flush(self, timeout_s: float = BUSY_S) -> None:
        """Archive what was published, if it is time for that."""
        if self._due:
            self._archive(timeout_s)

    def claim(self, event: Event) -> None:
        """Archive a run's start or RunResumed; raises Superseded where another process was first."""
        if not supersedes(event.incarnation, self._claimed(event.run_id)):
            raise Superseded(f"run {event.run_id} was claimed by another process")
        self.publish(event)
        self.flush()

    def await_answer(self, packet_id: bytes, timeout_s: float) -> Answer | None:  # noqa: ARG002 - it never waits
        """Tamiyo's answer to the packet, decided here."""
        if packet_id in self._given:
            return self._given.pop(packet_id)
        packet = self._packet
        if packet is None or packet.event_id != packet_id:
            return None
        if self._serving is None:
            self._serving = self._make_serving()
        now_ns, monotonic = self._clock.wall_ns(), self._clock.monotonic
        found = answer(packet, now_ns=now_ns, monotonic=monotonic, serving=self._serving)
        for content in found.objects:
            self._objects.put(content)
        self._waiting += found.events
        signed = {body_name(event): self._ring.sign(outgoing(event).payload) for event in found.events}
        return Answer(signed["decision_made"], signed.get("adaptation_command"))

    def take_commands(self) -> list[Signed]:
        """Those that a resumed run had not answered yet, and those that `tell` has put into the archive since.

        Looking costs one `stat` where nobody has written to the archive.
        """
        stamp = manifest.stamp(self._folder)
        if stamp != self._stamp:
            self._stamp = stamp
            self._look()
        arrived, self._arrived = self._arrived, []
        return arrived

    def await_command(self, timeout_s: float) -> None:
        """Wait until somebody has written to the archive, at most so long."""
        deadline = time.monotonic() + timeout_s
        while not self._arrived and manifest.stamp(self._folder) == self._stamp and time.monotonic() < deadline:
            time.sleep(LOOK_S)

    def _look(self) -> None:
        """Take in the commands to this run that somebody else has written."""
        first, end = self._told or 0, manifest.load_or_empty(self._folder).next_offsets.get(_PLACE, 0)
        if end > first:
            with open_history(self._folder) as history:
                self._arrived += commands_told(history, self._run_id, first)
            self._told = end

    def catch_up(self, open_packet: bytes, requests: Iterable[tuple[Event, Signed]], known: Iterable[Signed]) -> None:  # noqa: ARG002 - nothing comes twice
        """Have ready what the archive holds of answers."""
        asked = list(requests)
        by_name = {body_name(event): signed for event, signed in asked if event.correlation_id}
        if "decision_made" in by_name:
            self._given[open_packet] = Answer(by_name["decision_made"], by_name.get("adaptation_command"))
        self._arrived += [signed for event, signed in asked if not event.correlation_id]

    def shed(self) -> int:
        """Nothing is ever shed."""
        return 0

    def close(self) -> None:
        """Archive the rest, and merge files where there are many."""
        if self._waiting:
            self._archive(BUSY_S)
        try:
            with Archive(self._folder, self._ring) as archive:
                merge_all(archive, MERGE_AT, time.time)
                archive.delete_retired(time.time())
        except InvalidInput:
            return  # another writer has it, and merges itself

    def _archive(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                with Archive(self._folder, self._ring) as archive:
                    told = archive.manifest.next_offsets.get(_PLACE, 0)
                    own = list(self._records(archive))
                    archive.append(own)
                    mine = sum(record.topic == COMMANDS.name for record in own)
                    stamp = manifest.stamp(self._folder)
            except InvalidInput as error:
                if time.monotonic() > deadline:
                    raise LogUnavailable(
                        f"{error}; the processes of a data folder own its archive: join them with log='auto', or give "
                        "this run a data folder of its own"
                    ) from None
                time.sleep(0.05)
            except OSError as error:
                raise LogUnavailable(f"the archive {self._folder} cannot be written: {error}") from error
            else:
                self._waiting, self._due = [], False
                if self._told is None or self._told == told:  # nobody else has written a command meanwhile
                    self._told, self._stamp = told + mine, stamp
                return

    def _records(self, archive: Archive) -> Iterable[StoredRecord]:
        ends = dict(archive.manifest.next_offsets)
        now_ms = self._clock.wall_ns() // 1_000_000
        for event in self._waiting:
            sent = outgoing(event)
            offset = ends.get((sent.topic, LOCAL), 0)
            ends[sent.topic, LOCAL] = offset + 1
            headers = tuple(headers_of(self._ring.sign(sent.payload)))
            yield StoredRecord(sent.topic, LOCAL, offset, now_ms, sent.key, sent.payload, headers)


def tell(folder: Path, ring: KeyRing, event: Event, now_ms: int) -> None:
    """Put a person's command into the archive of a run without a log, as its trainer finds it.

    Raises InvalidInput where another process keeps the archive for itself, as the archiver of a log does.
    """
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            with Archive(folder, ring) as archive:
                sent = outgoing(event)
                offset = archive.manifest.next_offsets.get((sent.topic, LOCAL), 0)
                headers = tuple(headers_of(ring.sign(sent.payload)))
                archive.append([StoredRecord(sent.topic, LOCAL, offset, now_ms, sent.key, sent.payload, headers)])
                return
        except InvalidInput:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK_S)
