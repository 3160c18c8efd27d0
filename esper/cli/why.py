"""`esper why RUN SEED`: the causal chain of every life of a seed, with the time from each link to the next."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contracts.topics import POLICIES
from esper.cli.causes import Life, Link, chain_of, lives_of, walk
from esper.cli.describe import headline, seed_of, stage
from esper.cli.events import Reading, event_json, types_of
from esper.cli.output import BOLD, DIM, say, say_hanging, say_json, styled
from esper.cli.read import history_of, run_ids, styled_name
from esper.cli.run_ids import resolve
from esper.errors import InvalidInput
from esper.leyline import envelope
from esper.leyline.envelope import Event, body_name

if TYPE_CHECKING:
    from projections.history import History

_STEPS_OF_A_POLICY: Final = 3
"""Trained, validated or promoted, loaded: each caused by the one before."""


def why_command(data_dir: Path, word: str, seed: str, *, as_json: bool) -> None:
    """The causal chain of a seed as trees, life by life."""
    from projections.lineage import inherited  # noqa: PLC0415 - DuckDB, and only where it is needed

    with history_of(data_dir) as history:
        run_id = resolve(word, run_ids(history))
        events = [*inherited(history, run_id), *Reading(history, run_id, types_of(())).new()]
        events += _policies_after(history, [event.event_id for event in events])
    roots = chain_of(events, seed) if seed else []
    if not roots:
        known = sorted({seed_of(event) for event in events} - {""})
        raise InvalidInput(f"run {run_id} has no seed {seed!r} that did anything; {_those(known)}")
    begin_ns = min(event.recorded_at_ns for event in events if event.sequence)
    lives = lives_of(roots, seed)
    if as_json:
        say_json([_to_json(life, link, begin_ns) for life in lives for link in walk(life.roots)])
        return
    say(styled(f"seed {seed} of run {run_id}", BOLD))
    for life in lives:
        _show(life, begin_ns)


def _policies_after(history: History, causes: list[bytes]) -> list[Event]:
    """The policy events that these brought about, directly or through each other."""
    found: list[Event] = []
    cursor = history.connection.cursor()
    held = [name for name in POLICIES.bodies if history.manifest.of(name)]
    for _ in range(_STEPS_OF_A_POLICY if held else 0):
        parts = [f'SELECT log_raw FROM log."{name}" WHERE list_contains($1, causation_id)' for name in held]  # noqa: S608
        cursor.execute(" UNION ".join(parts), [causes])
        events = [envelope.parse(raw) for (raw,) in cursor.fetchall()]
        found += events
        causes = [event.event_id for event in events]
    return found


def _to_json(life: Life, link: Link, begin_ns: int) -> dict[str, Any]:
    return {
        "life": life.number,
        "depth": link.depth,
        "since_start_s": (link.at_ns - begin_ns) / 1e9,
        "after_cause_s": link.after_s,
        **event_json(link.event),
    }


def _show(life: Life, begin_ns: int) -> None:
    say()
    say(styled(_title(life), BOLD))
    for link in walk(life.roots):
        since = f"{(link.at_ns - begin_ns) / 1e9:>9.3f} s"
        after = "" if link.after_s is None else f"{link.after_s:+.3f} s"
        branch = "   " * (link.depth - 1) + "└─ " if link.depth else ""
        place = styled(f"{since} {after:>12}  epoch {link.event.epoch:>3}", DIM)
        say_hanging(f"{place}  {branch}{styled_name(body_name(link.event))}  ", headline(link.event))


def _title(life: Life) -> str:
    """What grew in a life, how long it lived and where it ended."""
    if not life.number:
        return "before its first life"
    first, last = life.moves[0], life.moves[-1]
    lasted_s = (last.recorded_at_ns - first.recorded_at_ns) / 1e9
    return (
        f"life {life.number}: {life.blueprint_id}, epochs {first.epoch} to {last.epoch} "
        f"in {lasted_s:.1f} s, {stage(last.seed_transitioned.to_stage)}"
    )


def _those(known: Iterable[str]) -> str:
    return f"those that did are {', '.join(known)}" if known else "none of its seeds germinated"
