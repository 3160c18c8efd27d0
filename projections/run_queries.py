"""What is asked of a history about its runs, by name: their ids, a run's start, events, decisions and policies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from contracts.leyline.v1.event_pb2 import RunStarted
from contracts.topics import POLICIES
from esper.leyline import envelope
from esper.leyline.envelope import Event
from projections.columns import BODIES

if TYPE_CHECKING:
    from projections.history import History

BATCH: Final = 2_000
_STEPS_OF_A_POLICY: Final = 3
"""Trained, validated or promoted, loaded: each caused by the one before."""


def run_ids(history: History) -> list[str]:
    """The ids of all runs, the latest first."""
    query = "select run_id from log.run_started group by run_id order by min(recorded_at_ns) desc"
    return [run_id for (run_id,) in history.execute(query).fetchall()]


def claims_of(history: History, runs: Sequence[str]) -> dict[str, Event]:
    """The claim by which each of these runs belongs to its trainer now: its start, or the newest resume that counts."""
    claims = " union all ".join(
        f"select run_id, log_raw, log_offset from log.{name} where log_verdict = 1 and list_contains(?, run_id)"  # noqa: S608  names of ours
        for name in ("run_started", "run_resumed")
    )
    query = f"select run_id, max_by(log_raw, log_offset) from ({claims}) group by all"  # noqa: S608  as above
    found = history.cursor(query, [runs, runs])
    return {run_id: envelope.parse(raw) for run_id, raw in found.fetchall()}


def partition_of_run(history: History, run_id: str) -> int | None:
    """The partition of the log that a run is on, that of its newest claim; `contracts.topics.LOCAL` without a log.

    None where no claim to it is known that counts.
    """
    claims = " union all ".join(
        f"select incarnation, log_partition, log_offset from log.{name} where log_verdict = 1 and run_id = $1"  # noqa: S608  names of ours
        for name in ("run_started", "run_resumed")
    )
    query = f"select log_partition from ({claims}) order by incarnation desc, log_partition, log_offset limit 1"  # noqa: S608
    found = history.cursor(query, [run_id]).fetchone()
    return None if found is None else int(found[0])


def start_of(history: History, run_id: str) -> RunStarted:
    """The run's first fact."""
    query = "select log_raw from log.run_started where run_id = ? order by log_offset limit 1"
    ((raw,),) = history.cursor(query, [run_id]).fetchall()
    return envelope.parse(raw).run_started


def decisions_of(history: History, runs: Sequence[str]) -> list[Event]:
    """Every decision for these runs, in the order of the log."""
    query = "select log_raw from log.decision_made where list_contains(?, run_id) order by log_offset"
    found = history.cursor(query, [list(runs)]).fetchall()
    return [envelope.parse(raw) for (raw,) in found]


def decision_on(history: History, runs: Sequence[str], packet_ids: Iterable[bytes]) -> Event | None:
    """The decision for these runs that answers the first of `packet_ids` that any decision answers."""
    query = "select packet_id, event_id from log.decision_made where list_contains(?, run_id) order by log_offset"
    answers: dict[bytes, bytes] = dict(history.cursor(query, [list(runs)]).fetchall())
    event_id = next((answers[packet] for packet in packet_ids if packet in answers), None)
    if event_id is None:
        return None
    query = "select log_raw from log.decision_made where event_id = ? and list_contains(?, run_id) limit 1"
    ((raw,),) = history.cursor(query, [event_id, list(runs)]).fetchall()
    return envelope.parse(raw)


def promotions(history: History, most: int) -> list[Event]:
    """The newest `most` promotions of a policy, the oldest of them first."""
    if not history.manifest.of("policy_promoted"):
        return []
    query = "select max(log_raw) from log.policy_promoted group by event_id order by max(recorded_at_ns) desc limit ?"
    found = history.cursor(query, [most]).fetchall()
    return [envelope.parse(raw) for (raw,) in reversed(found)]


def policies_after(history: History, causes: list[bytes]) -> list[Event]:
    """The policy events that the events of these ids brought about, directly or through each other."""
    found: list[Event] = []
    held = [name for name in POLICIES.bodies if history.manifest.of(name)]
    for _ in range(_STEPS_OF_A_POLICY if held else 0):
        parts = [f'select log_raw from log."{name}" where list_contains($1, causation_id)' for name in held]  # noqa: S608  names of ours
        answer = history.cursor(" union ".join(parts), [causes])
        events = [envelope.parse(raw) for (raw,) in answer.fetchall()]
        found += events
        causes = [event.event_id for event in events]
    return found


def void_facts(history: History, run_id: str) -> set[bytes]:
    """The ids of a run's facts, a fork's ancestors' among them, that are not part of its surviving timeline.

    What another process answered to one of them is not part of it either: its cause, or what began its chain, is here.
    """
    from projections.lineage import lineage  # noqa: PLC0415 - it asks this module's `History` itself

    found: set[bytes] = set()
    upto_sequence = _EVER
    for stretch in reversed(lineage(history, run_id)):
        place = {"run": stretch.run_id, "upto": stretch.upto}
        answer = history.cursor(_VOID, place | {"upto_sequence": upto_sequence})
        while batch := answer.fetchmany(BATCH):
            found.update(event_id for (event_id,) in batch)
        ((behind,),) = history.cursor(_BEHIND, place).fetchall()
        upto_sequence = min(upto_sequence, behind)
    return found


_EVER: Final = 2**63 - 1
_VOID: Final = """
SELECT event_id FROM log.facts AS fact
WHERE run_id = $run AND log_offset <= $upto AND (
    log_verdict > 2 OR log_verdict = 1 AND (
        sequence > $upto_sequence OR EXISTS (
            FROM cuts
            WHERE cuts.run_id = fact.run_id AND cuts.log_offset > fact.log_offset AND cuts.log_offset <= $upto
                AND cuts.to_sequence < fact.sequence
        )
    )
)
"""
_BEHIND: Final = """
SELECT least(
    (SELECT coalesce(min(to_sequence), 9223372036854775807) FROM cuts WHERE run_id = $run AND log_offset <= $upto),
    (
        SELECT coalesce(min(parent_sequence), 9223372036854775807)
        FROM log.run_started WHERE run_id = $run AND log_verdict = 1
    )
)::BIGINT
"""
"""The last sequence of its parents' that a run still follows."""


class EventReader:
    """One run's events, of some types or of all; every call of `new` gives those archived since the one before."""

    def __init__(self, history: History, run_id: str, types: Sequence[str] = tuple(BODIES)) -> None:
        self._history = history
        self._run_id = run_id
        self._types = types
        self._next: dict[tuple[str, int], int] = {}
        self._seen: set[bytes] = set()

    def new(self) -> Iterator[Event]:
        """What came since the last call, each event once: a partition's as on the log, those of several by their time.

        A process's clock may be behind another's, so an event counts as no earlier than what lies before it.
        """
        self._history.refresh()
        held = [name for name in self._types if self._history.manifest.of(name)]
        if not held:
            return
        answer = self._history.cursor(self._query(held), [self._run_id] * len(held))
        while found := answer.fetchmany(BATCH):
            for raw, topic, partition, offset in found:
                place = (topic, partition)
                self._next[place] = max(self._next.get(place, 0), offset + 1)
                event = envelope.parse(raw)
                if event.event_id not in self._seen:
                    self._seen.add(event.event_id)
                    yield event

    def finished(self) -> bool:
        """Whether the run's end is in the archive, and the run was not resumed since."""
        self._history.refresh()
        ended, resumed = (
            f"coalesce((select max(log_offset) from log.{name} where run_id = $1 and log_verdict = 1), -1)"  # noqa: S608  names of ours
            for name in ("run_finished", "run_resumed")
        )
        answer = self._history.cursor(f"select {ended} > {resumed}", [self._run_id])
        return bool(answer.fetchone() == (True,))

    def _query(self, types: Sequence[str]) -> str:
        after = " or ".join(
            f"(log_topic = '{topic}' and log_partition = {partition} and log_offset < {offset})"
            for (topic, partition), offset in self._next.items()
        )
        newer = f" and not ({after})" if after else ""
        parts = [
            f'select log_raw, log_topic, log_partition, log_offset, log_timestamp_ms from log."{name}" '  # noqa: S608
            f"where run_id = ?{newer}"
            for name in types
        ]
        at = "max(log_timestamp_ms) over (partition by log_topic, log_partition order by log_offset)"
        order = f"order by {at}, log_topic, log_partition, log_offset"
        return f"select log_raw, log_topic, log_partition, log_offset from ({' union all '.join(parts)}) {order}"  # noqa: S608


def rows(history: History, query: str, parameters: list[Any] | dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The answer to a query, one dictionary a row."""
    answer = history.execute(query, parameters)
    names = [column[0] for column in answer.description or ()]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
