"""The causal chain of one seed: packet → decision → command → applied → transitions and gates → report → policy.

A seed's slot may germinate more than once; the chain of each life stands by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from contracts.topics import BY_BODY, POLICIES
from esper.cli.describe import seed_of
from esper.leyline.envelope import Event, body_name


@dataclass(slots=True)
class Cause:
    """An event and what it brought about, in the order of their times."""

    event: Event
    effects: list[Cause] = field(default_factory=list)


def chain_of(events: Iterable[Event], seed_id: str) -> list[Cause]:
    """What happened to a seed, as trees: each event stands under the one that caused it.

    `events` are those of one run. An event belongs to the chain when it is about the seed, or when it caused, directly
    or not, one that is, or when it is a policy that came of one. What has no cause among them begins a tree of its own.
    """
    by_id: dict[bytes, Event] = {}
    for event in sorted(events, key=lambda event: (event.recorded_at_ns, event.sequence)):
        by_id.setdefault(event.event_id, event)
    wanted: set[bytes] = set()
    for event in by_id.values():
        if seed_of(event) == seed_id:
            wanted.update(_with_causes(event, by_id))
    for event in by_id.values():  # a policy is about no seed, and what was learnt from one belongs to its story
        if event.causation_id in wanted and BY_BODY[body_name(event)] is POLICIES:
            wanted.add(event.event_id)
    causes = {event_id: Cause(event) for event_id, event in by_id.items() if event_id in wanted}
    roots: list[Cause] = []
    for cause in causes.values():
        above = causes.get(cause.event.causation_id)
        (roots if above is None else above.effects).append(cause)
    return roots


def _with_causes(event: Event, by_id: dict[bytes, Event]) -> Iterator[bytes]:
    """The ids of an event, of its cause, of that one's cause and so on."""
    seen: set[bytes] = set()
    current: Event | None = event
    while current is not None and current.event_id not in seen:
        seen.add(current.event_id)
        yield current.event_id
        current = by_id.get(current.causation_id)


@dataclass(frozen=True, slots=True)
class Link:
    """An event in a tree: its depth, when it happened, and the seconds since its cause, None where it begins the tree.

    A command is recorded with the time of its packet, so that a repetition has the same bytes; here it happens when it
    was decided, as no event does before its cause.
    """

    depth: int
    event: Event
    at_ns: int
    after_s: float | None


def walk(roots: Iterable[Cause], above: Link | None = None) -> Iterator[Link]:
    """Every event of the trees, causes before effects."""
    for root in roots:
        link = Link(0, root.event, root.event.recorded_at_ns, None)
        if above is not None:
            at_ns = max(link.at_ns, above.at_ns)
            link = Link(above.depth + 1, root.event, at_ns, (at_ns - above.at_ns) / 1e9)
        yield link
        yield from walk(root.effects, link)


@dataclass(slots=True)
class Life:
    """One life of a seed: 1 is the first, 0 what happened before it. `moves` are its transitions, in their order."""

    number: int
    roots: list[Cause] = field(default_factory=list)
    moves: list[Event] = field(default_factory=list)

    @property
    def blueprint_id(self) -> str:
        """What grew; empty where nothing did."""
        return next((move.seed_transitioned.blueprint_id for move in self.moves), "")


def lives_of(roots: Iterable[Cause], seed_id: str) -> list[Life]:
    """The trees by the life of the seed in which they begin."""
    lives, current = dict[int, Life](), 0
    for root in sorted(roots, key=lambda cause: cause.event.recorded_at_ns):
        moves = [link.event for link in walk([root]) if _moves(link.event, seed_id)]
        current = max((move.seed_transitioned.life for move in moves), default=current)
        life = lives.setdefault(current, Life(current))
        life.roots.append(root)
        life.moves += moves
    return [lives[number] for number in sorted(lives)]


def _moves(event: Event, seed_id: str) -> bool:
    return body_name(event) == "seed_transitioned" and event.seed_transitioned.seed_id == seed_id
