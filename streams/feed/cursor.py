"""How far a reader is: a `PartitionCursor` for each body type on each partition that the reader has.

The state of a feed is the next offset of every cursor, and where the pass began and ends. Offsets are the log's own,
which the archive keeps, so it does not matter which of the two a row comes from.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch.distributed
from torch.utils.data import get_worker_info

from contracts.topics import BY_BODY, LOCAL
from esper.errors import InvalidInput
from projections.manifest import Place

BLOCK: Final = 32_768
"""Offsets that a cursor reads before it is another one's turn: a grid that no merge of files moves."""
VERSION: Final = 1
"""Of the state, in which a cursor is still called a lane, so that states that jobs keep can be read."""
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class PartitionCursor:
    """One body type on one partition: the pass reads `[start, end)` of it; without an `end` it follows.

    All before `next` was handed to the job, which is what a state keeps; all before `read` was read.
    """

    body: str
    partition: int
    start: int = 0
    next: int = 0
    end: int | None = None
    read: int = 0

    @property
    def place(self) -> Place:
        """The topic's partition."""
        return (BY_BODY[self.body].name, self.partition)

    @property
    def turn(self) -> tuple[int, str, int]:
        """Which cursor comes first: the lowest block, so that the order depends on offsets alone."""
        return (self.read // BLOCK, self.body, self.partition)

    @property
    def stop(self) -> int:
        """Where its turn is over."""
        block_end = (self.read // BLOCK + 1) * BLOCK
        return block_end if self.end is None else min(block_end, self.end)

    @property
    def name(self) -> str:
        """What its state is kept under."""
        return f"{self.place[0]}/{self.partition}/{self.body}"


@dataclass(frozen=True, slots=True)
class Shard:
    """Which of how many readers this one is: DataLoader workers within ranks."""

    number: int
    count: int

    def cursors(self, bodies: Iterable[str], partitions: Iterable[int]) -> list[PartitionCursor]:
        """The cursors that are this reader's: a partition of every topic belongs to one reader, so a run does too."""
        mine = [partition for partition in partitions if partition % self.count == self.number]
        return [PartitionCursor(body, partition) for body in sorted(bodies) for partition in mine]


def shard_of(rank: int, ranks: int, partitions: int) -> Shard:
    """This reader's shard, given the rank of its process; says so where there are more readers than partitions."""
    worker = get_worker_info()
    workers, number = (1, 0) if worker is None else (worker.num_workers, worker.id)
    shard = Shard(rank * workers + number, ranks * workers)
    if shard.number >= partitions:
        _log.warning(
            "reader %d of %d gets no events: a topic has %d partitions, so take at most %d readers (ranks x workers)",
            shard.number,
            shard.count,
            partitions,
            partitions,
        )
    return shard


def rank_now() -> tuple[int, int]:
    """This process's rank and how many there are, (0, 1) where nothing is distributed."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def to_state(cursors: Iterable[PartitionCursor], shard: Shard, epoch: int) -> dict[str, Any]:
    """The state of a pass, of plain numbers and texts."""
    return {
        "version": VERSION,
        "epoch": epoch,
        "shard": shard.number,
        "shards": shard.count,
        "lanes": {cursor.name: {"start": cursor.start, "next": cursor.next, "end": cursor.end} for cursor in cursors},
    }


def restore(cursors: Iterable[PartitionCursor], shard: Shard, state: Mapping[str, Any]) -> None:
    """Set `cursors` to where `state` says; raises InvalidInput for the state of another feed or another shard."""
    if state.get("version") != VERSION:
        raise InvalidInput(f"the feed's state has version {state.get('version')!r}; this Esper reads {VERSION}")
    if (state["shard"], state["shards"]) != (shard.number, shard.count):
        raise InvalidInput(
            f"the feed's state is of reader {state['shard'] + 1} of {state['shards']} and this is reader "
            f"{shard.number + 1} of {shard.count}: go on with as many ranks and workers as before"
        )
    known = {int(name.split("/")[1]) for name in state["lanes"]} - {LOCAL}
    newer = {cursor.name for cursor in cursors if cursor.partition > max(known, default=-1)}  # also LOCAL, of no log
    new = newer - set(state["lanes"])
    names = {cursor.name for cursor in cursors} - new
    if names != set(state["lanes"]):
        raise InvalidInput(
            f"the feed's state is of other event types ({', '.join(sorted(state['lanes'])) or 'none'}): "
            "give the feed the schemas that it had, or start without the state"
        )
    for cursor in cursors:
        if cursor.name in new:  # a run without a log was archived since, or a partition added: all of it is to come
            continue
        kept = state["lanes"][cursor.name]
        cursor.start, cursor.next, cursor.end = kept["start"], kept["next"], kept["end"]
        cursor.read = cursor.next
