"""What ought to be: a small model of a log and of runs, made from the journal and from the order of the records alone.

It shares no code with what it judges. A run's facts count by four rules: the first start begins it; a claim counts
where its incarnation is higher than the owner's, and cuts what lies behind the fact that it goes on from; of the other
facts those of the owner count, one after the other; all else is void.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OWN = frozenset({"telemetry_packet", "telemetry_shed", "security_violation", "dead_lettered"})
"""What Esper's own clients write beside what they are told to."""


@dataclass(frozen=True, slots=True)
class Row:
    """An event as it was read in the end. `counts` is whether its fact was accepted; None for what is no fact."""

    topic: str
    partition: int
    offset: int
    id: str
    body: str
    run: str
    incarnation: int
    sequence: int
    counts: bool | None
    bytes: str


@dataclass(frozen=True, slots=True)
class Sent:
    """An event as the journal has it: by whom, as which of that process's, and whether it was acknowledged."""

    id: str
    by: str
    place: int
    body: str
    topic: str
    partition: int
    run: str
    incarnation: int
    sequence: int
    goes_on_from: int
    refers_to: str
    bytes: str


@dataclass
class Told:
    """The journal, sorted. `ends` are the processes that ended after all could know what all others did.

    `kept` has the line at which each object was kept last, `objects_harmed` the last at which objects were harmed.
    """

    sent: dict[str, Sent] = field(default_factory=dict)
    forged: dict[str, str] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    owns: list[dict[str, Any]] = field(default_factory=list)
    superseded: list[dict[str, Any]] = field(default_factory=list)
    obeys: list[dict[str, Any]] = field(default_factory=list)
    reads: list[dict[str, Any]] = field(default_factory=list)
    ends: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)
    objects_harmed: int = -1

    @classmethod
    def by(cls, journal: Iterable[Mapping[str, Any]]) -> Told:
        """What the lines of a journal say."""
        told, begun = cls(), dict[tuple[str, str], int]()
        for place, line in enumerate(journal):
            told._note_objects(place, line, begun)
            match line["did"]:
                case "sends":
                    rest = {key: value for key, value in line.items() if key in Sent.__slots__}
                    told.sent[line["id"]] = Sent(**{**rest, "place": place})
                case "forges":
                    told.forged[line["id"]] = line["how"]
                case "acknowledged":
                    told.acknowledged.update(line["ids"])
                case "owns" | "superseded" | "obeys" | "reads" | "ends" as did:
                    getattr(told, did).append(dict(line))
                case "all know":
                    told.ends.clear()
                case "fault":
                    told.faults.append(line["what"])
        return told

    def _note_objects(self, place: int, line: Mapping[str, Any], begun: dict[tuple[str, str], int]) -> None:
        """`begun` are the lines at which the processes began to keep each object."""
        match line["did"]:
            case "keeps":
                begun[line["by"], line["ref"]] = place
            case "kept":
                self.kept[line["ref"]] = max(begun[line["by"], line["ref"]], self.kept.get(line["ref"], -1))
            case "did" if "objects" in line["how"].get("parts", ()) or line["how"].get("kind") == "object":
                self.objects_harmed = place


@dataclass
class Life:
    """A run as the order of its records makes it: `path` are the ids of the facts that count, `wrong` what cannot be.

    `accepted` has those as well that counted until a claim cut them, `owners` the claim of every incarnation that came
    to own it.
    """

    path: list[str] = field(default_factory=list)
    accepted: set[str] = field(default_factory=set)
    owners: dict[int, str] = field(default_factory=dict)
    owner: int = 0
    wrong: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, facts: Sequence[Row], sent: Mapping[str, Sent]) -> Life:
        """The life of the run of these facts, which come in the order of the log."""
        life = cls()
        for fact in facts:
            life.take(fact, sent[fact.id])
        return life

    def take(self, fact: Row, sent: Sent) -> None:
        """The next fact of the log. After one that cannot be nothing counts any more."""
        if self.wrong:
            return
        if sent.body == "run_started":
            if not self.owner:
                self._own(sent)
        elif sent.body == "run_resumed":
            if self.owner and sent.incarnation > self.owner and sent.goes_on_from <= len(self.path):
                del self.path[sent.goes_on_from :]
                self._own(sent)
        elif sent.incarnation == self.owner:
            if sent.sequence == len(self.path) + 1:
                self._accept(sent)
            elif sent.id not in self.path:
                what = f"{sent.body} {sent.id} by {sent.by} has sequence {sent.sequence} after {len(self.path)}"
                self.wrong.append(f"{fact.topic}/{fact.partition}@{fact.offset}: {what}")
        elif sent.incarnation > self.owner:
            self.wrong.append(f"{sent.body} {sent.id} is of incarnation {sent.incarnation}, owner {self.owner}")

    def _accept(self, sent: Sent) -> None:
        self.path.append(sent.id)
        self.accepted.add(sent.id)

    def _own(self, sent: Sent) -> None:
        self._accept(sent)
        self.owner = sent.incarnation
        self.owners[sent.incarnation] = sent.id
