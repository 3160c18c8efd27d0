"""How a run begins: at its first step, resumed or as a fork, and what is read from the archive before."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from contracts.leyline.v1.event_pb2 import BlueprintApproved
from contracts.topics import RUNS
from esper.errors import InvalidInput, LogUnavailable
from esper.karn.approval import Approvals, evolve_approvals
from esper.karn.dossier import Dossier, Outcomes, Sheet
from esper.leyline.envelope import Event
from esper.leyline.objects import ObjectStore
from esper.record import Recorded
from esper.record.accept import CLAIMS
from esper.tamiyo.serving import HOW_TO_GET_ONE, KEPT, Serving, shipped
from projections import open_history
from projections.manifest import Place, covered
from projections.records import StoredRecord
from projections.run_queries import claims_of, partition_of_run, promotions
from streams.records import Record, signed_of

if TYPE_CHECKING:
    from projections.history import History

ARCHIVED_S: Final = 30.0
CLAIMED_S: Final = 20.0
"""Less than a claim waits until it is its own (`streams.trainer_log`): who else has the run is known by then."""
POLL_S: Final = 0.05

PROFILES: Final = "profiles"
"""Where the traces of profiled runs lie in a data folder."""

Beginning = Literal["start", "resume", "fork", "again"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a trainer begins.

    `fresh` says that the run's id was drawn just now, so that nobody can have started one with it before. `source` is
    what the run that is gone on with recorded of its task, or what a request from elsewhere brought along; a fork
    leaves `parent` at `step` with `change`. `again` is a new run of the script that trained `parent`, such as its
    static run, with other `arguments` where they are given. `with_my_file` goes on with a person's files as they are
    now. A `local` run has no log: its history goes into the archive by itself. `profile` has a trace written of it,
    which is nothing of the run's.
    """

    begin: Beginning = "start"
    source: str = ""
    parent: str = ""
    step: int = 0
    change: str = ""
    fresh: bool = False
    with_my_file: bool = False
    local: bool = False
    arguments: Sequence[str] | None = None
    profile: bool = False

    def to_json(self) -> str:
        """As it goes to the trainer's process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """What `to_json` wrote."""
        return cls(**json.loads(text))


def trace_file(data_dir: Path, run_id: str) -> Path:
    """Where the trace of a profiled run is written."""
    return data_dir / PROFILES / f"{run_id}.json.gz"


def check_new(archive: Path, run_id: str) -> Mapping[Place, int]:
    """Raise InvalidInput where the archive has a run of this id; else up to which offsets it has none.

    Where files of it are damaged it may have had one, and nothing is known of what the log has still.
    """
    if not archive.is_dir():
        return {}
    with open_history(archive) as history:
        query = "SELECT 1 FROM log.every WHERE log_topic = ? AND run_id = ? LIMIT 1"
        if history.execute(query, [RUNS.name, run_id]).fetchall():
            raise InvalidInput(
                f"run {run_id} was started before: give the new one another id, or go on with `esper resume {run_id}`"
            )
        return {} if history.damage else dict(history.manifest.next_offsets)


def claimed(archive: Path, run_id: str) -> int:
    """The incarnation that a run belongs to by its archive, 0 for a run that is not there."""
    if not archive.is_dir():
        return 0
    with open_history(archive) as history:
        found = claims_of(history, [run_id]).get(run_id)
    return 0 if found is None else found.incarnation


def partition_in(archive: Path, run_id: str) -> int | None:
    """The partition on which an archive has a run, for whoever goes on with it; None where it does not have it."""
    if not archive.is_dir():
        return None
    with open_history(archive) as history:
        return partition_of_run(history, run_id)


def served(data_dir: Path, objects: ObjectStore) -> Serving:
    """The learned policies promoted in a data folder by now, loaded: for a run that decides in its own process."""
    serving = Serving(objects, process="trainer")
    for event in _promoted(data_dir):
        serving.promote(event)
    return serving


def check_learned(data_dir: Path) -> None:
    """Raise InvalidInput where no learned policy is promoted in a data folder and none comes with Esper."""
    if shipped() is None and not _promoted(data_dir):
        raise InvalidInput(HOW_TO_GET_ONE)


def _promoted(data_dir: Path) -> list[Event]:
    archive = data_dir / "archive"
    if not archive.is_dir():
        return []
    with open_history(archive) as history:
        return promotions(history, KEPT)


def archived_claims(archive: Path, run_id: str) -> Callable[[int, int, int], list[Record]]:
    """What finds the claims to a run that the log has no more: in the archive, in a partition between two offsets.

    An archive of which an older manifest came back is behind, or lacks files, until it has taken over its own again: it
    is waited for, and LogUnavailable raised where it does not come so far.
    """

    def find(partition: int, first: int, end: int) -> list[Record]:
        from projections.lineage import claims_between  # noqa: PLC0415 - as below

        if not archive.is_dir():
            return []
        for history in _covering(archive, {(RUNS.name, partition): end}, CLAIMED_S, CLAIMS):
            stored = claims_between(history, run_id, partition, first, end)
        return [_as_read(each) for each in stored]

    return find


def _as_read(stored: StoredRecord) -> Record:
    signed = signed_of(stored.value, {name: value for name, value in stored.headers if value is not None})
    return Record(stored.topic, stored.partition, stored.offset, stored.timestamp, signed, stamped=True)


def read_recorded(archive: Path, run_id: str, ends: Mapping[tuple[str, int], int]) -> Recorded:
    """All that is known of a run, its ancestors and the earlier runs of its script included.

    Once the archive has what lies before `ends`.

    Raises LogUnavailable where that does not come.
    """
    from projections.lineage import facts, requests  # noqa: PLC0415 - only who goes on with a run needs DuckDB

    def read(each: str) -> Recorded:
        for history in _covering(archive, ends, ARCHIVED_S, {"run_resumed"}):
            found = list(facts(history, each))
        for history in _covering(archive, ends, ARCHIVED_S):
            asked = list(requests(history, each))
        return Recorded.of(each, found, asked)

    return Recorded.whole(run_id, read)


def _covering(
    archive: Path, ends: Mapping[Place, int], timeout_s: float, needed: Collection[str] = ()
) -> Iterator[History]:
    """The archive's history once it has all before `ends`, to be read; and again where it had not while it was read.

    An older copy of the manifest may come between, and what was read by that lacks others' claims. Of the tables that
    are `needed` no file of these partitions may be damaged or missing. Raises LogUnavailable where the archive does not
    come so far in time.
    """
    deadline, lacks = time.monotonic() + timeout_s, ""
    while True:
        if not _behind(covered(archive), ends):
            with open_history(archive) as history:
                yield history
                lacks = _lacking(history, ends, needed)
                if not lacks and not _behind(history.manifest.next_offsets, ends):
                    return
        if time.monotonic() > deadline:
            raise LogUnavailable(
                lacks
                or f"the archive {archive} lacks the end of the log still, after {timeout_s:.0f} s "
                f"({_behind(covered(archive), ends):,} records): try again while `esper up` archives the rest"
            )
        time.sleep(POLL_S)


def _lacking(history: History, ends: Mapping[Place, int], needed: Collection[str]) -> str:
    """Which file of these tables and partitions is damaged or missing; empty where none is."""
    bad = {damage.name: damage for damage in history.damage}
    for entry in history.manifest.files:
        if entry.name in bad and entry.table in needed and not ends.keys().isdisjoint(entry.offsets):
            return str(bad[entry.name])
    return ""


def _behind(have: Mapping[Place, int], ends: Mapping[Place, int]) -> int:
    """How many records before `ends` are not archived."""
    return sum(max(0, end - have.get(place, 0)) for place, end in ends.items())


def dossier_of(data_dir: Path, *, outcomes: bool = True) -> Dossier:
    """The dossier of a data folder; empty where nothing is archived yet.

    Without `outcomes` a run does not learn from those before it. Approvals and risk data sheets count always.
    """
    archive = data_dir / "archive"
    if not archive.is_dir():
        return Dossier()
    from projections.blueprint_queries import read_dossier  # noqa: PLC0415 - as above

    with open_history(archive) as history:
        rows = read_dossier(history, outcomes=outcomes)
    approvals: Approvals = {}
    for blueprint_id, approved, by, why in rows.approvals:
        event = BlueprintApproved(blueprint_id=blueprint_id, approved=approved, by=by, why=why)
        approvals = evolve_approvals(approvals, event)
    return Dossier(
        dict(approvals),
        tuple(Sheet(**row) for row in rows.sheets),
        tuple(Outcomes(**row) for row in rows.outcomes),
    )
