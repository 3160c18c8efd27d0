"""`esper why RUN SEED`: the causal chain of every life of a seed, with the time from each link to the next.

Packet → decision → command → applied → transitions and gates → report. A slot may germinate more than once. What a
rollback or a resume cut is left out, unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.topics import BY_BODY, POLICIES
from esper.cli.events import event_json, headline, seed_of, stage, styled_name
from esper.cli.history import find_run, history_of
from esper.cli.output import BOLD, DIM, RED, one_line, say, say_hanging, say_json_rows, styled
from esper.cli.why_not import passed_over, say_why_not
from esper.errors import InvalidInput
from esper.karn.table import with_names
from esper.leyline.envelope import Event, body_name

if TYPE_CHECKING:
    from projections.chains import Story


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
    """One life of a seed: 1 is the first, 0 what happened before it. `moves` are its transitions that survive."""

    number: int
    roots: list[Cause] = field(default_factory=list)
    moves: list[Event] = field(default_factory=list)

    @property
    def blueprint_id(self) -> str:
        """What grew; empty where nothing did."""
        return next((move.seed_transitioned.blueprint_id for move in self.moves), "")


def lives_of(roots: Iterable[Cause], seed_id: str, void: Collection[bytes] = ()) -> list[Life]:
    """The trees by the life of the seed in which they begin; those that are all `void` by the life that was cut."""
    lives, current = dict[int, Life](), 0
    for root in sorted(roots, key=lambda cause: cause.event.recorded_at_ns):
        moves = [link.event for link in walk([root]) if _moves(link.event, seed_id)]
        kept = [move for move in moves if move.event_id not in void]
        number = max((move.seed_transitioned.life for move in kept or moves), default=current)
        current = number if kept else current
        life = lives.setdefault(number, Life(number))
        life.roots.append(root)
        life.moves += kept
    return [lives[number] for number in sorted(lives)]


def _moves(event: Event, seed_id: str) -> bool:
    return body_name(event) == "seed_transitioned" and event.seed_transitioned.seed_id == seed_id


def why_command(data_dir: Path, word: str, seed: str, *, with_void: bool, as_json: bool) -> None:
    """The causal chain of a seed as trees, life by life; of one that never germinated, why not."""
    from projections.chains import seeds_that_did, slot_of, story_of  # noqa: PLC0415 - DuckDB, and only where it is needed

    with history_of(data_dir) as history:
        run_id = find_run(history, word)
        story = story_of(history, run_id, seed, with_void=with_void) if seed else None
        if story is None or not story.events:
            slot = slot_of(history, run_id, seed) if seed else None
            if slot is None:
                known = seeds_that_did(history, run_id)
                raise InvalidInput(f"run {run_id} has no seed {seed!r} that did anything; {_those(known)}")
            say_why_not(run_id, slot, passed_over(history, run_id, seed), as_json=as_json)
            return
    lives = lives_of(chain_of(story.events, seed), seed, story.void)
    if as_json:
        say_json_rows(_to_json(life, link, story) for life in lives for link in walk(life.roots))
        return
    say(styled(f"seed {seed} of run {run_id}", BOLD))
    for life in lives:
        _show(life, story)


def _to_json(life: Life, link: Link, story: Story) -> dict[str, Any]:
    return {
        "surviving": link.event.event_id not in story.void,
        "life": life.number,
        "depth": link.depth,
        "since_start_s": (link.at_ns - story.begin_ns) / 1e9,
        "after_cause_s": link.after_s,
        **event_json(link.event),
    }


def _show(life: Life, story: Story) -> None:
    say()
    say(styled(one_line(_title(life)), BOLD))
    for link in walk(life.roots):
        since = f"{(link.at_ns - story.begin_ns) / 1e9:>9.3f} s"
        after = "" if link.after_s is None else f"{link.after_s:+.3f} s"
        branch = "   " * (link.depth - 1) + "└─ " if link.depth else ""
        void = styled("  (cut)", RED) if link.event.event_id in story.void else ""
        place = styled(f"{since} {after:>12}  epoch {link.event.epoch:>3}", DIM)
        say_hanging(f"{place}  {branch}{styled_name(body_name(link.event))}  ", headline(link.event) + void)


def _title(life: Life) -> str:
    """What grew in a life, how long it lived and where it ended."""
    if any(root.event.rolled_back.seed_id for root in life.roots):
        return "closed: it was rewound, because its proof failed"
    if not life.number:
        return "before its first life"
    if not life.moves:
        return f"life {life.number}: cut by a rollback or a resume"
    first, last = life.moves[0], life.moves[-1]
    lasted_s = (last.recorded_at_ns - first.recorded_at_ns) / 1e9
    return (
        f"life {life.number}: {with_names(life.blueprint_id)}, epochs {first.epoch} to {last.epoch} "
        f"in {lasted_s:.1f} s, {stage(last.seed_transitioned.to_stage)}"
    )


def _those(known: Iterable[str]) -> str:
    return f"those that did are {', '.join(known)}" if known else "none of its seeds germinated"
