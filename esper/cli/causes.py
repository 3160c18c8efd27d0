"""The causal chain of one seed: packet → decision → command → applied → transitions and gates → report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from esper.cli.describe import seed_of
from esper.leyline.envelope import Event


@dataclass(slots=True)
class Cause:
    """An event and what it brought about, in the order of their times."""

    event: Event
    effects: list[Cause] = field(default_factory=list)


def chain_of(events: Iterable[Event], seed_id: str) -> list[Cause]:
    """What happened to a seed, as trees: each event stands under the one that caused it.

    `events` are those of one run. An event belongs to the chain when it is about the seed, or when it caused, directly
    or not, one that is. What has no cause among them begins a tree of its own.
    """
    by_id: dict[bytes, Event] = {}
    for event in sorted(events, key=lambda event: (event.recorded_at_ns, event.sequence)):
        by_id.setdefault(event.event_id, event)
    wanted: set[bytes] = set()
    for event in by_id.values():
        if seed_of(event) == seed_id:
            wanted.update(_with_causes(event, by_id))
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


def walk(roots: Iterable[Cause], depth: int = 0) -> Iterator[tuple[int, Event]]:
    """Every event of the trees with its depth, causes before effects."""
    for cause in roots:
        yield depth, cause.event
        yield from walk(cause.effects, depth + 1)
