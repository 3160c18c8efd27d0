"""`EventFeed`: history and then the live log as one PyTorch dataset of batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from contracts.topics import BY_BODY, LOCAL, PARTITIONS
from esper.errors import InvalidInput, LogUnavailable
from projections import manifest
from streams.feed.batch import Batch, Selection, Tasks
from streams.feed.cursor import rank_now, shard_of
from streams.feed.epoch_reader import End, EpochReader, Start
from streams.feed.schema import Schema
from streams.feed.source import Source, reader_of
from streams.settings import Settings


class EventFeed(IterableDataset[Batch]):
    """Batches of the events of one or more `schemas`, each event once a pass, over all DataLoader workers and ranks.

    Give it to a DataLoader with `batch_size=None`, or iterate over it. A batch is of one schema and has `batch_size`
    events; the last of a pass has fewer, and so has one of a follower after half a second. A follower that shares the
    log with others (workers, ranks) gives a batch without events where none came, so that nobody waits for it.

    Args:
        data_dir: the data folder.
        schemas: what is wanted, one per body type.
        start: "beginning"; "new", what is logged from now on; a time; or the first offset by (topic, partition), where
            a partition that is not named is read from its beginning.
        end: "archive", what is archived when the pass begins; "now", what is on the log then; "never", follow the log.
        runs: only these runs.
        tasks: only runs of these tasks.
        batch_size: events in a batch.
        brokers: HOST:PORT of the log; by default ESPER_BROKERS, else the embedded log of the data folder.

    A partition's events come in the order of the log. A pass with an end has the same order whenever it is repeated
    with that end, however archive and log share the events by then. An event that was delivered twice comes once: in
    the archive always, live when it is repeated within 65,536 records of its partition.

    `state_dict` after a batch and `load_state_dict` before iterating go on behind that batch, to where that pass was to
    end; with the state of a follower, to this feed's end. With workers the state is theirs: use torchdata's
    StatefulDataLoader, which keeps it.

    Raises InvalidInput for what does not fit, LogUnavailable where a log is needed and does not answer.
    """

    def __init__(
        self,
        data_dir: Path | str,
        *schemas: Schema,
        start: Start = "beginning",
        end: End = "archive",
        runs: Iterable[str] | None = None,
        tasks: Iterable[str] | None = None,
        batch_size: int = 1024,
        brokers: str | None = None,
    ) -> None:
        super().__init__()
        self.data_dir = Path(data_dir)
        self.schemas = {schema.body: schema for schema in schemas}
        self.start, self.end = start, end
        self.runs = None if runs is None else frozenset(runs)
        self.tasks = None if tasks is None else frozenset(tasks)
        self.batch_size = batch_size
        self.brokers = brokers or Settings.load().brokers
        self._epoch = 0
        self._rank = rank_now()
        self._loaded: dict[str, Any] | None = None
        self._pass: EpochReader | None = None
        self._check(len(schemas))

    def __iter__(self) -> Iterator[Batch]:
        """A pass: what is left of the loaded one, else a new one."""
        loaded, self._loaded = self._loaded, None
        self._epoch = loaded["epoch"] if loaded is not None else self._epoch + 1
        tasks = None if self.tasks is None else Tasks(self.data_dir / "archive", self.tasks)
        selections = {body: Selection(schema, self.runs, tasks) for body, schema in self.schemas.items()}
        partitions = self._partitions()
        shard = shard_of(*self._ranks(), partitions)
        cursors = shard.cursors(self.schemas, [*range(partitions), *self._without_a_log()])
        source = Source(self.data_dir, self.brokers, selections, cursors)
        self._pass = EpochReader(self.schemas, source, cursors, shard, partitions)
        self._pass.begin(self.start, self.end, loaded)
        batches = self._pass.batches(self.batch_size)
        next(batches)  # from here on it disconnects from the log when it is dropped
        return (batch for batch in batches if batch is not None)

    def state_dict(self) -> dict[str, Any]:
        """Where the job is, as numbers and texts; of this reader alone."""
        if self._pass is None:
            return dict(self._loaded or {})
        return self._pass.state(self._epoch)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state` with the next iteration."""
        self._loaded = dict(state) or None
        self._pass = None

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process gets: a feed that has not begun, and the rank that its process cannot know."""
        return {**self.__dict__, "_pass": None, "_rank": self._ranks()}

    def _partitions(self) -> int:
        """How many partitions a topic has: as was archived, else as the log says, where one is to be read."""
        noted = manifest.load(self.data_dir / "archive").partitions
        if noted or self.end == "archive":
            return noted or PARTITIONS
        try:
            with reader_of(self.data_dir, self.brokers) as reader:
                return reader.connect([BY_BODY[min(self.schemas)].name])
        except LogUnavailable:  # as far as there is an archive, that is read
            return PARTITIONS

    def _without_a_log(self) -> list[int]:
        """The partition of runs that were recorded without a log, where the archive has some."""
        topics = {BY_BODY[body].name for body in self.schemas}
        held = manifest.load(self.data_dir / "archive").next_offsets
        return [LOCAL] if any((topic, LOCAL) in held for topic in topics) else []

    def _ranks(self) -> tuple[int, int]:
        now = rank_now()
        return now if now[1] > 1 else self._rank

    def _check(self, given: int) -> None:
        if not self.schemas or len(self.schemas) < given:
            raise InvalidInput("a feed needs schemas, one per event type, such as streams.feed.FIELD_REPORTS")
        if self.batch_size < 1:
            raise InvalidInput(f"batch_size is {self.batch_size}; a batch has one event at least")
        if self.end not in {"archive", "now", "never"}:
            raise InvalidInput(f"end is {self.end!r}; there are 'archive', 'now' and 'never'")
        if isinstance(self.start, Mapping):
            partitions = self._partitions()
            places = {(BY_BODY[body].name, partition) for body in self.schemas for partition in range(partitions)}
            topics = ", ".join(sorted({topic for topic, _ in places}))
            if others := set(self.start) - places:
                raise InvalidInput(
                    f"start names {min(others)}; this feed reads partitions 0 to {partitions - 1} of {topics}"
                )
        if isinstance(self.start, str) and self.start not in {"beginning", "new"}:
            raise InvalidInput(f"start is {self.start!r}; there are 'beginning', 'new', a datetime, and offsets")
