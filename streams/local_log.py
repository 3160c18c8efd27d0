"""A run without a log: its history goes straight into the archive, and its decisions are made in its own process.

What this writes lies in a partition that no log has (`LOCAL`), so an archive may hold such histories beside those of a
log, and every reader of the archive reads both. Facts are archived when a state is kept, and at the end: a process that
dies has lost what a resumed run comes to again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from contracts.topics import LOCAL
from esper.errors import InvalidInput, LogUnavailable, Superseded
from esper.leyline.envelope import Event, body_name
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import KeyRing, Signed
from esper.record.accept import supersedes
from esper.tamiyo.answer import answer
from esper.tamiyo.serving import Serving
from esper.tolaria.outside import Answer, Clock
from projections.archive_writer import Archive
from projections.compaction import MERGE_AT, merge_all
from projections.records import StoredRecord
from streams.records import headers_of, outgoing

KEEPS: Final = frozenset({"run_started", "run_resumed", "checkpoint_saved", "rolled_back", "run_finished"})
"""What a person who looks wants to find: a flush archives once one of these was published."""
BUSY_S: Final = 30.0
"""How long another writer of the same archive is waited for."""
_MOST: Final = 5_000


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

    @property
    def ends(self) -> Mapping[tuple[str, int], int]:
        """There is no log that the archive has to come to the end of."""
        return {}

    def publish(self, event: Event) -> None:
        """Hold the event for the next flush."""
        name = body_name(event)
        self._waiting.append(event)
        self._due = self._due or name in KEEPS or len(self._waiting) > _MOST
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
        """Those that a resumed run had not answered yet; nobody can send any other."""
        arrived, self._arrived = self._arrived, []
        return arrived

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
                    archive.append(list(self._records(archive)))
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
