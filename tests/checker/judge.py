"""The judgement: what the journal and the model say against what can be read in the end. Each complaint is one line.

The rules, each a function of `Evidence`:

- `lost`: an acknowledged event is there, or `esper archive verify` names a loss that covers it;
- `twice`: no event is there twice; `strange`: none is there that nobody sent, and none with other bytes;
- `disordered`: what one process wrote to a partition is there in the order in which it wrote it;
- `replayable`: each run's facts have the sequences 1, 2, 3 ... and count as the model says, but behind a named loss;
- `one_owner`: an incarnation of a run belongs to one process, and the log says the same one;
- `unaware`: whoever lost a run to another process learned of it;
- `forged`: nothing that a good key does not vouch for counts, takes a run over, or is obeyed;
- `misread`: what readers were told meanwhile was sent, once, in order;
- `kept`: an object that was acknowledged is there with its bytes, or was harmed since and `verify` names it;
- `projected`: the projections have a row of every event that the archive has, none of another, and its verdict;
- `needless`: `verify` names no loss where no fault could have caused one;
- `stuck`: the services came to the end of the log, and no process waits for ever.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from contracts.topics import BY_BODY
from streams.broker.partition import RESERVE
from tests.checker.faults import HARMFUL
from tests.checker.model import OWN, Life, Row, Sent, Told

LEAP = 2 * RESERVE
"""So many offsets the log passes over where it lost count of what it gave."""
DAMAGED = 8
"""Records that a batch of these clients has at the most, about."""


@dataclass(frozen=True, slots=True)
class Named:
    """What `verify` names: its kind, in words, whether it is serious, and the offsets or run or rows that it covers."""

    kind: str
    text: str
    serious: bool
    where: str
    rows: int = 0
    topic: str = ""
    partition: int = -1


@dataclass
class Evidence:
    """All that is known in the end. `troubles` is what did not come to its end.

    `broken` are the objects that were kept and are not there, or with other bytes, `projections` the rows of each
    table of the projections: whether the fact counts, by the event's id, None where the table does not say.
    """

    told: Told
    rows: list[Row]
    named: list[Named]
    troubles: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    projections: dict[str, dict[str, bool | None]] = field(default_factory=dict)

    @cached_property
    def held(self) -> dict[str, Row]:
        """The rows by their event."""
        return {row.id: row for row in self.rows}

    @cached_property
    def serious(self) -> list[Named]:
        """What `verify` says is missing or wrong."""
        return [each for each in self.named if each.serious]

    @cached_property
    def lives(self) -> dict[str, Life]:
        """Every run as the model has it."""
        facts: dict[str, list[Row]] = defaultdict(list)
        for row in sorted(self.rows, key=lambda row: row.offset):
            if row.topic == "esper.runs" and row.id in self.told.sent:
                facts[row.run].append(row)
        return {run: Life.of(held, self.told.sent) for run, held in facts.items()}

    def room(self, topic: str, partition: int) -> int:
        """How many records of a partition `verify` names as lost, at the most.

        No record was in what a leap passed, but those of a damaged batch at which it began.
        """
        named = [each.rows for each in self.serious if each.topic == topic and each.partition in (partition, -1)]
        return sum(rows % LEAP + DAMAGED * (rows >= LEAP) for rows in named)


Rule = Callable[[Evidence], Iterator[str]]


def complaints(evidence: Evidence) -> list[str]:
    """All that is not as it should be, each line with the name of its rule."""
    rules: Sequence[Rule] = (
        lost, twice, strange, disordered, replayable, one_owner, unaware, forged, misread, kept, projected,
        needless, stuck,
    )  # fmt: skip
    return [f"{rule.__name__}: {line}" for rule in rules for line in rule(evidence)]


def lost(evidence: Evidence) -> Iterator[str]:
    """Acknowledged, not there, and not named."""
    missing: dict[tuple[str, int], list[Sent]] = defaultdict(list)
    for event_id in evidence.told.acknowledged - evidence.held.keys():
        sent = evidence.told.sent[event_id]
        missing[sent.topic, sent.partition].append(sent)
    for (topic, partition), gone in sorted(missing.items()):
        room = evidence.room(topic, partition)
        if len(gone) > room:
            some = ", ".join(f"{sent.body} {sent.sequence or ''} of {sent.run} by {sent.by}" for sent in gone[:3])
            yield f"{len(gone)} acknowledged events of {topic}/{partition} are gone, {room} are named: {some}"


def twice(evidence: Evidence) -> Iterator[str]:
    """There more than once."""
    counted = Counter(row.id for row in evidence.rows)
    for event_id, count in counted.items():
        if count > 1:
            places = [f"{row.topic}/{row.partition}@{row.offset}" for row in evidence.rows if row.id == event_id]
            yield f"{event_id} is there {count} times: {', '.join(places)}"


def strange(evidence: Evidence) -> Iterator[str]:
    """Nobody sent it, or not like that."""
    for row in evidence.rows:
        sent = evidence.told.sent.get(row.id)
        if sent is None:
            if row.body not in OWN and row.id not in evidence.told.forged:
                yield f"{row.body} {row.id} at {row.topic}/{row.partition}@{row.offset} was never sent"
        elif (sent.bytes, sent.topic, sent.partition) != (row.bytes, row.topic, row.partition):
            yield f"{row.body} {row.id} is not what was sent"


def disordered(evidence: Evidence) -> Iterator[str]:
    """One process's events in another order."""
    last: dict[tuple[str, str, int], Row] = {}
    for sent in evidence.told.sent.values():
        row = evidence.held.get(sent.id)
        if row is None:
            continue
        before = last.get((sent.by, row.topic, row.partition))
        if before is not None and before.offset >= row.offset:
            yield f"{sent.by} wrote {before.id} before {row.id}, and they are at {before.offset} and {row.offset}"
        last[sent.by, row.topic, row.partition] = row


def replayable(evidence: Evidence) -> Iterator[str]:
    """A run whose facts do not hold together, or count otherwise than the model says."""
    for run, life in evidence.lives.items():
        if life.wrong and not _harmed(evidence, run):
            yield f"{run}: {life.wrong[0]}"
        counting = {row.id for row in evidence.rows if row.run == run and row.counts} - evidence.told.forged.keys()
        for ids, words in ((life.accepted - counting, "should count and do not"), (counting - life.accepted, "count")):
            if ids and not life.wrong:
                sent = evidence.told.sent[min(ids)]
                yield f"{run}: {len(ids)} facts {words}, {sent.body} {sent.sequence} by {sent.by} among them"


def _harmed(evidence: Evidence, run: str) -> bool:
    """Whether a fault may have cost facts of a run, and `verify` names a loss that may be of them."""
    lost_facts = [each for each in evidence.serious if each.kind != "object"]
    names_it = any(run in each.where or each.topic == "esper.runs" for each in lost_facts)
    return names_it and bool(HARMFUL & {*evidence.told.faults})


def one_owner(evidence: Evidence) -> Iterator[str]:
    """Two processes that own one incarnation, or one that the log says another owns."""
    owners: dict[tuple[str, int], list[str]] = defaultdict(list)
    for line in evidence.told.owns:
        owners[line["run"], line["incarnation"]].append(line["id"])
    for (run, incarnation), claims in owners.items():
        if len(claims) > 1:
            who = ", ".join(evidence.told.sent[each].by for each in claims)
            yield f"incarnation {incarnation} of {run} is owned by {len(claims)} processes: {who}"
        life = evidence.lives.get(run)
        real = life.owners.get(incarnation) if life else None
        known = life and not life.wrong and not _harmed(evidence, run) and claims[0] in evidence.held
        if known and len(claims) == 1 and real != claims[0]:
            by = evidence.told.sent[claims[0]].by
            yield f"{by} owns incarnation {incarnation} of {run}, and on the log that is {real}"


def unaware(evidence: Evidence) -> Iterator[str]:
    """A trainer that went on to the end and never learned that its run is another's."""
    owned = {line["by"]: line for line in evidence.told.owns}
    for line in evidence.told.ends:
        life = evidence.lives.get(line["run"])
        if line["by"] in owned and life and not life.wrong and line["incarnation"] < life.owner:
            yield f"{line['by']} has incarnation {line['incarnation']} of {line['run']}, which {life.owner} took over"


def forged(evidence: Evidence) -> Iterator[str]:
    """What no good key vouches for, and counts all the same."""
    for row in evidence.rows:
        if row.id in evidence.told.forged and row.counts:
            yield f"{row.body} {row.id} of {row.run}, signed by a key {evidence.told.forged[row.id]}, counts"
    for line in evidence.told.obeys:
        if line["id"] not in evidence.told.sent:
            how = evidence.told.forged.get(line["id"], "nobody has")
            yield f"{line['by']} obeys {line['id']}, signed by a key {how}"
    claims = [sent for sent in evidence.told.sent.values() if sent.body in ("run_started", "run_resumed")]
    for line in evidence.told.superseded:
        if not any(sent.run == line["run"] and sent.by != line["by"] for sent in claims):
            yield f"{line['by']} gave {line['run']} up, and no other process ever claimed it: {line['why']}"


def misread(evidence: Evidence) -> Iterator[str]:
    """A reader that was told what was never sent, or something twice, or in another order."""
    for line in evidence.told.reads:
        who = f"{line['how']} of {line['run']}"
        known = [each for each in line["ids"] if each in evidence.told.sent]
        for event_id in set(line["ids"]) - set(known) - evidence.told.forged.keys():
            yield f"{who} gave {event_id}, which was never sent"
        if len(set(line["ids"])) < len(line["ids"]):
            yield f"{who} gave an event twice"
        offsets = [evidence.held[each].offset for each in known if each in evidence.held]
        if offsets != sorted(offsets):
            yield f"{who} gave events in another order than the log's"


def kept(evidence: Evidence) -> Iterator[str]:
    """An object that is gone or damaged: not harmed since it was kept, or not named; or named, and whole."""
    for ref in sorted(evidence.broken):
        if evidence.told.kept[ref] > evidence.told.objects_harmed:
            yield f"object {ref} was kept after the last harm to objects, and is not there as it was"
    named = {each.where: each.rows for each in evidence.named if each.kind == "object"}
    refers: dict[str, set[str]] = defaultdict(set)
    for row in evidence.rows:
        if row.id in evidence.told.sent and (ref := evidence.told.sent[row.id].refers_to):
            refers[f"run {row.run}"].add(ref)
    for run in refers.keys() | named.keys():
        really = len(refers[run] & evidence.broken)
        if named.get(run, 0) != really:
            yield f"{run}: {really} objects of its events are missing or damaged, {named.get(run, 0)} are named"


TABLES = {
    "compile_requested": "urza.requested",
    "run_started": "experience.started",
    "run_resumed": "experience.jumps",
    "run_finished": "experience.finished",
    "command_applied": "experience.outcomes",
}
"""Where the projections have each of the events that these clients write."""


def projected(evidence: Evidence) -> Iterator[str]:
    """An event that a projection lacks or that is nobody's, or that it judges otherwise than the archive."""
    harmed = HARMFUL & {*evidence.told.faults}
    for body, table in TABLES.items():
        there = evidence.projections.get(table, {})
        rows = {row.id: row for row in evidence.rows if row.body == body}
        missing = rows.keys() - there.keys() - evidence.told.forged.keys()
        if missing:
            row = rows[min(missing)]
            yield f"{table} lacks {len(missing)} events of the archive: {row.topic}/{row.partition}@{row.offset}"
        for event_id in there.keys() - rows.keys() - evidence.told.sent.keys() - evidence.told.forged.keys():
            yield f"{table} has {event_id}, which was never sent"
        for event_id in there.keys() & rows.keys():
            says, row = there[event_id], rows[event_id]
            if says is not None and says != row.counts and not harmed:
                yield f"{table} says that {event_id} counts: {says}, and the archive: {row.counts}"


def needless(evidence: Evidence) -> Iterator[str]:
    """A loss that no fault accounts for, named or not lost at all. A stranger's key is named with reason."""
    if not HARMFUL & {*evidence.told.faults}:
        expected = {"object", *(["key"] if evidence.told.forged else [])}  # objects are `kept`'s
        yield from (each.text for each in evidence.serious if each.kind not in expected)


def stuck(evidence: Evidence) -> Iterator[str]:
    """What did not come to its end."""
    yield from evidence.troubles


_PLACE = re.compile(r"(?P<topic>esper\.\w+)/(?P<partition>\d+) offsets? (?P<first>\d+)(?: to (?P<last>\d+))?")


def named(kind: str, where: str, what: str, *, serious: bool) -> Named:
    """A finding of `verify`, with the offsets, the run or the rows that its words name."""
    text = f"{where}: {what}"
    if found := _PLACE.search(text):
        first, last = int(found["first"]), int(found["last"] or found["first"])
        return Named(kind, text, serious, where, last + 1 - first, found["topic"], int(found["partition"]))
    if kind == "object" and (count := re.match(r"(\d+) objects", what)):
        return Named(kind, text, serious, where, int(count[1]))
    if kind == "file" and (rows := re.search(r"its (\d+) rows of (\w+)", what)):
        topic = BY_BODY[rows[2]].name if rows[2] in BY_BODY else ""
        return Named(kind, text, serious, where, int(rows[1]), topic)
    return Named(kind, text, serious, where)
