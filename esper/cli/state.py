"""`esper state`: a run as it was at a step or an epoch, folded from its facts alone; torch is not imported for it."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from contracts.leyline.v1.event_pb2 import RunStarted
from esper.cli.moment import show, to_json
from esper.cli.output import complain, say_json
from esper.cli.rates import rates_at
from esper.cli.read import history_of, run_ids
from esper.cli.replay import recorded_run
from esper.cli.run_ids import resolve
from esper.errors import InvalidInput
from esper.leyline import envelope
from esper.leyline.envelope import Event
from esper.record import Mark, ModelState, RunState, mark_at_epoch, mark_at_step, packets, replay

if TYPE_CHECKING:
    from projections.history import History

_PLACE: Final = re.compile(r"(epoch:)?(\d+)")


@dataclass(frozen=True, slots=True)
class Place:
    """After so many optimiser steps, or after so many epochs."""

    unit: Literal["step", "epoch"]
    number: int

    def reached(self, world: ModelState) -> int:
        """How far `world` is, in this place's unit."""
        return world.step if self.unit == "step" else world.epoch


def place_of(word: str) -> Place:
    """`120` is a step and `epoch:7` an epoch; raises InvalidInput for anything else."""
    match = _PLACE.fullmatch(word)
    if match is None:
        raise InvalidInput(f"--at {word!r} is neither a step, such as 120, nor an epoch, such as epoch:7")
    return Place("epoch" if match[1] else "step", int(match[2]))


def state_command(data_dir: Path, word: str, at: str | None, load: Path | None, *, as_json: bool) -> None:
    """The run's state at a place of its surviving timeline, now without one; its weights go to the file `load`."""
    place = None if at is None else place_of(at)
    with history_of(data_dir) as history:
        run_id = resolve(word, run_ids(history))
        state = fold(history, run_id)
        mark = mark_at(state, run_id, place)
        decision = last_decision(history, run_id, packets(state, mark))
        rates = rates_at(mark.model, started(history, run_id))
        recorded = None if load is None else recorded_run(history, run_id)
    if load is not None and recorded is not None:
        from esper.cli.weights import check_writable, write_weights  # noqa: PLC0415 - torch, and only --load needs it

        check_writable(load)
        write_weights(data_dir, recorded, mark, load)
        complain(f"the weights at step {mark.model.step} are in {load}")
    if as_json:
        say_json(to_json(state, mark, decision, rates))
    else:
        show(state, mark, decision, rates)


def fold(history: History, run_id: str) -> RunState:
    """The fold of a run's facts, a fork's parent's before its own."""
    from projections.lineage import facts  # noqa: PLC0415 - as in `history_of`

    was_enabled = gc.isenabled()
    gc.disable()  # every fact makes a few objects that live on, and none is a cycle: looking for them costs a third
    try:
        return replay(facts(history, run_id))
    finally:
        if was_enabled:
            gc.enable()


def mark_at(state: RunState, run_id: str, place: Place | None) -> Mark:
    """The last fact at a place of the surviving timeline, with the run's clock at that place.

    Raises InvalidInput where the run never came there.
    """
    if state.path is None:
        raise InvalidInput(f"run {run_id} cannot be folded: {state.problem}")
    if place is None:
        return state.path
    reached = place.reached(state.model)
    if place.number > reached:
        raise InvalidInput(
            f"run {run_id} has no {place.unit} {place.number}: its facts reach {place.unit} {reached}; "
            "without --at you see it there"
        )
    found = (mark_at_step if place.unit == "step" else mark_at_epoch)(state, place.number)
    if found is None:
        raise InvalidInput(f"run {run_id} begins after {place.unit} {place.number}")
    return replace(found, model=replace(found.model, step=place.number)) if place.unit == "step" else found


def last_decision(history: History, run_id: str, packet_ids: Iterable[bytes]) -> Event | None:
    """The decision that answers the first of `packet_ids` that any decision answers."""
    cursor = history.connection.cursor()
    from projections.lineage import lineage  # noqa: PLC0415 - as in `history_of`

    runs = [stretch.run_id for stretch in lineage(history, run_id)]
    query = "SELECT packet_id, event_id FROM log.decision_made WHERE list_contains(?, run_id) ORDER BY log_offset"
    cursor.execute(query, [runs])
    answers: dict[bytes, bytes] = dict(cursor.fetchall())
    event_id = next((answers[packet] for packet in packet_ids if packet in answers), None)
    if event_id is None:
        return None
    query = "SELECT log_raw FROM log.decision_made WHERE event_id = ? AND list_contains(?, run_id) LIMIT 1"
    ((raw,),) = cursor.execute(query, [event_id, runs]).fetchall()
    return envelope.parse(raw)


def started(history: History, run_id: str) -> RunStarted:
    """The run's first fact."""
    query = "SELECT log_raw FROM log.run_started WHERE run_id = ? ORDER BY log_offset LIMIT 1"
    ((raw,),) = history.connection.cursor().execute(query, [run_id]).fetchall()
    return envelope.parse(raw).run_started
