"""Which facts of a run count: the one rule, for the archiver, a trainer, the command line and every projection.

Facts come in the order of the log, where a process that was superseded may still write, a fact may come twice, and one
may be missing. `judge` says what each is, from what the run's facts before it came to (ruling 3):

1. After a fact that cannot be true the run is stopped, and nothing counts any more.
2. A fact of an incarnation that another one superseded is void, whatever its offset. So is a claim to an incarnation
   that was claimed before: of two claims the lower offset wins.
3. A claim (the run's start, or a resume by a higher incarnation) must follow a fact that is on the path; it cuts what
   lies behind that fact, as if it had not happened.
4. Any other fact has the next sequence. A lower one with a known id is a repetition.
5. A rollback goes back to a fact that is on the path, and so does a rewind, a rollback whose reason is a failed proof.
   It cuts what lies between from the path; that happened.
6. A seed that the run declared, or whose slot opened where another was absorbed, moves from the stage it is in, by a
   move that the lifecycle has.
7. A fork begins after the fact of its parent that it shares last, and its sequences go on from there. Where it goes
   back behind its beginning, only a reader that has the parent's facts can tell whether it may: `UNDECIDED`.

A fact is on the surviving timeline where it was accepted and no accepted rollback or claim has cut it since.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, NamedTuple, Protocol

from contracts.topics import RUNS
from esper.kasmina import lifecycle
from esper.kasmina.lifecycle import DORMANT, Stage

CLAIMS: Final = frozenset({"run_started", "run_resumed"})
SPECIAL: Final = CLAIMS | {"rolled_back", "seed_transitioned", "seed_absorbed"}
"""Facts whose body the rule looks at. Of the others (`PLAIN`) it needs the id, the incarnation and the sequence."""
PLAIN: Final = frozenset(RUNS.bodies) - SPECIAL


class Verdict(IntEnum):
    """What a fact is. From `NOT_STARTED` on it is the fact at which its run stops, and the reason.

    Their numbers stand in archives (`log_verdict`) and never change.
    """

    ACCEPTED = 1
    REPEATED = 2  # an event that came before: every event is there once without these
    VOID = 3  # of a superseded incarnation, or a claim that lost
    AFTER_STOP = 4
    UNDECIDED = 5  # a fork went back behind its beginning, and this is what followed
    NOT_STARTED = 11  # a fact of a run whose start is not on the log
    GAP = 12  # a sequence was left out: a fact is missing
    CONFLICT = 13  # two different facts have one sequence
    UNCLAIMED = 14  # a fact of an incarnation that never claimed the run
    BAD_CLAIM = 15  # a resume from a fact that is not on the path, or that does not follow the one it names
    BAD_ROLLBACK = 16  # a rollback to a fact that is not on the path
    ILLEGAL_TRANSITION = 17  # a seed's move that its stage does not allow, or of a seed that the run did not declare

    @property
    def stops(self) -> bool:
        """Whether the run stops here."""
        return self >= Verdict.NOT_STARTED


class Fact(NamedTuple):
    """What the rule looks at; `body` is only needed for `SPECIAL` facts."""

    run_id: str
    name: str
    event_id: bytes
    incarnation: int
    sequence: int
    body: Any = None


class Judgement(NamedTuple):
    """A verdict; for one that stops the run, in words what is wrong."""

    verdict: Verdict
    detail: str = ""


class RunSoFar(Protocol):
    """What the accepted facts of a run came to, as far as the rule asks."""

    @property
    def run_id(self) -> str:
        """The run, empty before its first fact."""

    @property
    def incarnation(self) -> int:
        """The incarnation that owns it, 0 before its first fact."""

    @property
    def sequence(self) -> int:
        """The sequence of the newest accepted fact."""

    @property
    def shared(self) -> int:
        """How many facts at the beginning are a parent's and not known here."""

    @property
    def begun(self) -> bool:
        """Whether any fact was accepted."""

    @property
    def stopped(self) -> bool:
        """Whether a fact could not be true."""

    def id_of(self, sequence: int) -> bytes | None:
        """The id of the accepted fact with this sequence."""

    def on_path(self, sequence: int) -> bool:
        """Whether the fact with this sequence is on the surviving timeline."""

    def stage_of(self, seed_id: str) -> tuple[Stage, bool] | None:
        """A declared seed's stage, and whether it ever moved; None for a seed that was not declared."""


_ACCEPTED: Final = Judgement(Verdict.ACCEPTED)
_REPEATED: Final = Judgement(Verdict.REPEATED)
_VOID: Final = Judgement(Verdict.VOID)
_AFTER_STOP: Final = Judgement(Verdict.AFTER_STOP)


def supersedes(incarnation: int, owner: int) -> bool:
    """Whether a claim to `incarnation` takes a run over from `owner`. One to the same incarnation came too late."""
    return incarnation > owner


def judge(run: RunSoFar, fact: Fact) -> Judgement:  # noqa: PLR0911  one line a rule, in their order
    """What `fact` is, after what came before it. Changes nothing."""
    if run.stopped:
        return _AFTER_STOP
    name = fact.name
    if name == "run_started" and run.run_id not in ("", fact.run_id):
        return _forks(run, fact)
    if fact.incarnation < run.incarnation:
        return _VOID
    if name in CLAIMS and (not run.begun or supersedes(fact.incarnation, run.incarnation)):
        return _claims(run, fact)
    if not run.begun:
        return Judgement(Verdict.NOT_STARTED, f"{name} comes before the run's start")
    if fact.incarnation > run.incarnation:
        return Judgement(Verdict.UNCLAIMED, f"{name} is of incarnation {fact.incarnation}, which never claimed")
    if name in CLAIMS and run.id_of(fact.sequence) != fact.event_id:
        return _VOID
    return _follows(run, fact)


def _claims(run: RunSoFar, fact: Fact) -> Judgement:
    """The run's start, or a resume by a higher incarnation."""
    if fact.name == "run_started":
        return _starts(run, fact)
    if not run.begun:
        return Judgement(Verdict.NOT_STARTED, "it is resumed before it was started")
    accepted = fact.body.accepted_sequence
    detail = f"incarnation {fact.incarnation} goes on from sequence {accepted}"
    if fact.sequence != accepted + 1:
        return Judgement(Verdict.BAD_CLAIM, detail)
    return _goes_on_from(run, accepted, Judgement(Verdict.BAD_CLAIM, detail))


def _starts(run: RunSoFar, fact: Fact) -> Judgement:
    if run.begun:
        return Judgement(Verdict.BAD_CLAIM, "the run was started before")
    if fact.incarnation == 0:
        return Judgement(Verdict.NOT_STARTED, "the start is of no incarnation")
    first = fact.body.parent_sequence + 1
    if fact.sequence != first:
        return Judgement(Verdict.GAP, f"the run starts with sequence {fact.sequence} instead of {first}")
    return _ACCEPTED


def _forks(run: RunSoFar, fact: Fact) -> Judgement:
    """The first fact of a fork after the facts of its parent."""
    shared = fact.body.parent_sequence
    if fact.body.parent_run_id != run.run_id or fact.sequence != shared + 1 or not run.on_path(shared):
        return Judgement(Verdict.BAD_CLAIM, f"{fact.run_id} does not go on from {run.run_id}")
    return _ACCEPTED


def _follows(run: RunSoFar, fact: Fact) -> Judgement:
    """A fact of the incarnation that owns the run."""
    if fact.sequence <= run.sequence:
        if run.id_of(fact.sequence) == fact.event_id:
            return _REPEATED
        return Judgement(Verdict.CONFLICT, f"{fact.name} is the second fact with this sequence")
    if fact.sequence > run.sequence + 1:
        return Judgement(Verdict.GAP, f"the fact before {fact.name} is missing: the last one was {run.sequence}")
    if fact.name == "rolled_back":
        to = fact.body.to_sequence
        return _goes_on_from(run, to, Judgement(Verdict.BAD_ROLLBACK, f"sequence {to} is not part of this timeline"))
    if fact.name == "seed_transitioned" and (reason := _illegal(run, fact.body)):
        return Judgement(Verdict.ILLEGAL_TRANSITION, reason)
    return _ACCEPTED


def _goes_on_from(run: RunSoFar, sequence: int, otherwise: Judgement) -> Judgement:
    if run.on_path(sequence):
        return _ACCEPTED
    if 0 < sequence <= run.shared:
        return Judgement(Verdict.UNDECIDED, otherwise.detail)
    return otherwise


def _illegal(run: RunSoFar, body: Any) -> str | None:
    """Why a transition cannot be, or None. A seed's first may come from UNKNOWN: the creation of its slot."""
    known = run.stage_of(body.seed_id)
    if known is None:
        return f"{body.seed_id!r} is no seed of this run"
    stage, moved = known
    if body.from_stage != stage and (moved or body.from_stage != lifecycle.UNKNOWN):
        return f"{body.seed_id} leaves stage {body.from_stage} and is in {stage}"
    if not lifecycle.is_legal(body.from_stage, body.to_stage):
        return f"{body.seed_id} cannot go from stage {body.from_stage} to {body.to_stage}"
    return None


class Tally:
    """One run's own facts, counted as they arrive: `take` gives each its verdict. 16 bytes are kept of each fact.

    It holds what the rule needs and no more, for the archiver, which judges every fact; `esper.record.fold` has the
    whole state. An event that came before is `REPEATED` here also where it did not count.
    """

    __slots__ = (
        "_holes", "_ids", "_moves", "_others", "_seeds",
        "begun", "incarnation", "run_id", "sequence", "shared", "stopped", "undecided",
    )  # fmt: skip

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.incarnation = 0
        self.sequence = 0
        self.shared = 0
        self.begun = False
        self.stopped = False
        self.undecided = False
        self._ids = bytearray()  # of the accepted facts after the shared ones, in order
        self._others: set[bytes] = set()  # of those that do not count
        self._holes: list[tuple[int, int]] = []  # first and last sequence of what rollbacks cut from the path, rising
        self._seeds: dict[str, tuple[Stage, bool]] = {}
        self._moves: list[tuple[int, str, tuple[Stage, bool] | None]] = []  # on the path: sequence, seed, what it was

    def take_plain(self, event_id: bytes, incarnation: int, sequence: int) -> bool:
        """Take a `PLAIN` fact where it is plainly the next one, as nearly all are.

        What `judge` would say, at a tenth of its price. False where it is not, and then `take` says what it is.
        """
        if sequence != self.sequence + 1 or incarnation != self.incarnation or self.stopped or self.undecided:
            return False
        self.sequence = sequence
        self._ids += event_id
        return True

    def take(self, fact: Fact) -> Verdict:
        """What the next fact of the log is."""
        if fact.name in PLAIN and self.take_plain(fact.event_id, fact.incarnation, fact.sequence):
            return Verdict.ACCEPTED
        verdict = Verdict.UNDECIDED if self.undecided else judge(self, fact).verdict
        if verdict is Verdict.ACCEPTED:
            self._follow(fact)
            return verdict
        if verdict is Verdict.REPEATED:
            return verdict
        self.stopped |= verdict.stops
        self.undecided |= verdict is Verdict.UNDECIDED
        if not verdict.stops and (fact.event_id in self._others or self.id_of(fact.sequence) == fact.event_id):
            return Verdict.REPEATED
        self._others.add(fact.event_id)
        return verdict

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        return 2_000 + len(self._ids) + 100 * (len(self._others) + len(self._moves))

    def id_of(self, sequence: int) -> bytes | None:
        """The id of the accepted fact with this sequence."""
        place = 16 * (sequence - 1 - self.shared)
        return bytes(self._ids[place : place + 16]) if 0 <= place < len(self._ids) else None

    def on_path(self, sequence: int) -> bool:
        """Whether the fact with this sequence is on the surviving timeline."""
        inside = self.shared < sequence <= self.sequence
        return inside and not any(first <= sequence <= last for first, last in self._holes)

    def stage_of(self, seed_id: str) -> tuple[Stage, bool] | None:
        """A declared seed's stage, and whether it ever moved."""
        return self._seeds.get(seed_id)

    def _follow(self, fact: Fact) -> None:
        body = fact.body
        if fact.name == "run_started":
            self.begun, self.shared = True, body.parent_sequence
            self.incarnation = fact.incarnation
            self._seeds = {site.seed_id: (DORMANT, False) for site in body.sites}
            self._seeds |= {seen.seed_id: (seen.stage, True) for seen in body.inherited}
        elif fact.name == "run_resumed":
            self._go_back(body.accepted_sequence)
            kept = 16 * (body.accepted_sequence - self.shared)
            self._others |= {bytes(self._ids[place : place + 16]) for place in range(kept, len(self._ids), 16)}
            del self._ids[kept:]
            self.incarnation = fact.incarnation
        elif fact.name == "rolled_back":
            self._go_back(body.to_sequence)
            if fact.sequence > body.to_sequence + 1:
                self._holes.append((body.to_sequence + 1, fact.sequence - 1))
        elif fact.name == "seed_transitioned":
            self._moves.append((fact.sequence, body.seed_id, self._seeds[body.seed_id]))
            self._seeds[body.seed_id] = (body.to_stage, True)
        elif fact.name == "seed_absorbed":
            self._moves.append((fact.sequence, body.opened, self._seeds.get(body.opened)))
            self._seeds[body.opened] = (DORMANT, False)
        self.sequence = fact.sequence
        self._ids += fact.event_id

    def _go_back(self, sequence: int) -> None:
        """The path ends at `sequence` again, and seeds are in the stages that they had there."""
        self._holes = [hole for hole in self._holes if hole[0] <= sequence]
        while self._moves and self._moves[-1][0] > sequence:
            _, seed_id, before = self._moves.pop()
            if before is None:
                del self._seeds[seed_id]  # its slot has not opened yet
            else:
                self._seeds[seed_id] = before
