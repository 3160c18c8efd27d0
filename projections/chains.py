"""The events of a seed's story: those about it that survive, what caused them, and the policies that came of one.

Asked of the tables by column, so that a run of 100,000 epochs is not read whole to tell of one of its seeds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from contracts.topics import RUNS
from esper.leyline import envelope
from esper.leyline.envelope import Event
from projections.columns import BODIES
from projections.lineage import Stretch, lineage
from projections.run_queries import policies_after, rows, void_facts

if TYPE_CHECKING:
    from projections.history import History

BATCH: Final = 2_000
_ABOUT: Final = {
    "decision_made": "split_part(actions[action + 1], ' ', 2)",
    "optimizer_changed": "nullif(\"group\", 'host')",
}
"""What says which seed an event is about, where that is no column of its own."""
_WITH_EVIDENCE: Final = """
SELECT decision.epoch, decision.chosen, decision.reason, decision.actions, decision.logits, made.action_mask,
    epochs.evidence
FROM decisions AS decision
JOIN log.decision_made AS made ON made.run_id = decision.run_id AND made.log_offset = decision.log_offset
LEFT JOIN epochs ON epochs.run_id = decision.run_id AND epochs.event_id = decision.packet_id AND epochs.surviving
WHERE decision.run_id = $run AND decision.surviving
ORDER BY decision.log_offset
"""


def seed_column(body: str) -> str:
    """SQL of the seed that an event of this type is about; empty for a type that is about none or several."""
    names = {field.name for field in BODIES[body].fields}
    return _ABOUT.get(body) or next((name for name in ("seed_id", "target_seed_id") if name in names), "")


SEEDED: Final = {body: column for body in BODIES if (column := seed_column(body))}


@dataclass(frozen=True, slots=True)
class Story:
    """A seed's events in no order, each once, and when the run began, Unix nanoseconds.

    `void` are the ids of those that do not survive, where they were asked for.
    """

    events: Sequence[Event]
    begin_ns: int
    void: frozenset[bytes]


def story_of(history: History, run_id: str, seed_id: str, *, with_void: bool = False) -> Story:
    """What happened to a seed of a run, a fork's ancestors' part included."""
    history.refresh()
    stretches = lineage(history, run_id)
    told = _Told(void_facts(history, run_id))
    for stretch in stretches:
        told.take(_about(history, stretch, seed_id, is_last=stretch is stretches[-1]))
    runs = [stretch.run_id for stretch in stretches]
    while wanted := told.missing():
        told.take(_by_id(history, runs, wanted))
    void = told.void()
    kept = [event for event_id, event in told.events.items() if with_void or event_id not in void]
    kept += policies_after(history, [event.event_id for event in kept])
    query = "SELECT min(recorded_at_ns) FROM log.facts WHERE run_id = ?"
    ((begin_ns,),) = history.cursor(query, [runs[0]]).fetchall()
    return Story(kept, begin_ns or 0, frozenset(void))


class _Told:
    """The events so far, by id. Of two under one id, as of a stretch that was gone through again, one that survives."""

    def __init__(self, cut: Collection[bytes]) -> None:
        self.events: dict[bytes, Event] = {}
        self._cut = cut
        self._looked_for: set[bytes] = {b""}

    def take(self, events: Iterable[Event]) -> None:
        """Add events."""
        for event in events:
            known = self.events.get(event.event_id)
            if known is None or (self._is_cut(known) and not self._is_cut(event)):
                self.events[event.event_id] = event

    def missing(self) -> set[bytes]:
        """The causes of what is there that were not looked for yet."""
        wanted = {event.causation_id for event in self.events.values()} - self.events.keys() - self._looked_for
        self._looked_for |= wanted
        return wanted

    def void(self) -> set[bytes]:
        """The ids of what does not survive, and of what has its cause there: a report on a command that was undone."""
        void = {event_id for event_id, event in self.events.items() if self._is_cut(event)}
        while more := {e.event_id for e in self.events.values() if e.causation_id in void and e.event_id not in void}:
            void |= more
        return void

    def _is_cut(self, event: Event) -> bool:
        return any(each in self._cut for each in (event.event_id, event.causation_id, event.correlation_id))


def seeds_that_did(history: History, run_id: str) -> list[str]:
    """The ids of the seeds that anything is told of, in a run and its ancestors."""
    held = [body for body in SEEDED if history.manifest.of(body)]
    if not held:
        return []
    parts = [f'SELECT {SEEDED[body]} AS seed_id FROM log."{body}" WHERE list_contains($1, run_id)' for body in held]  # noqa: S608  names of ours
    runs = [stretch.run_id for stretch in lineage(history, run_id)]
    found = history.cursor(f"SELECT DISTINCT seed_id FROM ({' UNION ALL '.join(parts)})", [runs]).fetchall()  # noqa: S608  as above
    return sorted(seed_id for (seed_id,) in found if seed_id)


def _about(history: History, stretch: Stretch, seed_id: str, *, is_last: bool) -> Iterator[Event]:
    """The events of a stretch that are about the seed; of an ancestor's others those that answer what is shared.

    The last fact that is shared was answered by the fork, if it was answered.
    """
    for body, column in SEEDED.items():
        if not history.manifest.of(body):
            continue
        query = f'SELECT log_raw FROM log."{body}" WHERE run_id = $run AND {column} = $seed'  # noqa: S608  names of ours
        parameters: dict[str, Any] = {"run": stretch.run_id, "seed": seed_id}
        if not is_last:
            shared = "SELECT event_id FROM log.facts WHERE run_id = $run AND log_offset < $upto"
            query += " AND log_offset <= $upto" if body in RUNS.bodies else f" AND correlation_id IN ({shared})"
            parameters["upto"] = stretch.upto
        yield from _read(history, f"{query} ORDER BY log_partition, log_offset", parameters)


def _by_id(history: History, runs: Sequence[str], wanted: Collection[bytes]) -> Iterator[Event]:
    """The events of these runs with these ids. The tables that hold them are found first, without their bytes."""
    asked = {"runs": list(runs), "ids": list(wanted)}
    among = "list_contains($runs, run_id) AND event_id IN (SELECT unnest($ids))"
    bodies = history.cursor(f"SELECT DISTINCT log_body FROM log.every WHERE {among}", asked).fetchall()  # noqa: S608  ours
    for (body,) in sorted(bodies):
        yield from _read(history, f'SELECT log_raw FROM log."{body}" WHERE {among}', asked)  # noqa: S608  as above


def _read(history: History, query: str, parameters: dict[str, Any]) -> Iterator[Event]:
    answer = history.cursor(query, parameters)
    while rows := answer.fetchmany(BATCH):
        yield from (envelope.parse(raw) for (raw,) in rows)


def slot_of(history: History, run_id: str, seed_id: str) -> dict[str, Any] | None:
    """The row of the view `seeds`; None where the run has no such slot."""
    found = rows(history, "from seeds where run_id = $run and seed_id = $seed", {"run": run_id, "seed": seed_id})
    return found[0] if found else None


def decisions_with_evidence(history: History, run_id: str) -> list[dict[str, Any]]:
    """A run's surviving decisions with what they chose from, what of that was legal, and the evidence at each place."""
    return rows(history, _WITH_EVIDENCE, {"run": run_id})
