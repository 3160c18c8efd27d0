"""The one thing that a fork does differently from its parent, and where. Free of torch: the command line reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Literal, cast, get_args

from contracts.leyline.v1.event_pb2 import RunStarted, SiteDescription
from contracts.leyline.v1.leyline_pb2 import (
    SEED_OPERATION_CULL,
    SEED_OPERATION_FOSSILIZE,
    SEED_OPERATION_GERMINATE,
    SeedOperation,
)
from esper.errors import InvalidInput
from esper.karn.table import find_by_name
from esper.kasmina import lifecycle
from esper.leyline.envelope import Event
from esper.record import Recorded, SeedState, replay, sequence_at_step
from esper.record.run_status import marks
from esper.tolaria.config import Policy, RunConfig

ForkPlace = Literal["step", "packet", "decision"]
"""Before a step; before an epoch's packet, which another policy is to answer; or in place of the decision on it."""

OPERATIONS: Final[dict[str, SeedOperation]] = {
    "germinate": SEED_OPERATION_GERMINATE,
    "cull": SEED_OPERATION_CULL,
    "fossilize": SEED_OPERATION_FOSSILIZE,
}
_TARGETS: Final = {
    SEED_OPERATION_GERMINATE: lifecycle.GERMINATED,
    SEED_OPERATION_CULL: lifecycle.CULLED,
    SEED_OPERATION_FOSSILIZE: lifecycle.FOSSILIZED,
}
NO_ACTION: Final = "no action"
ORDER: Final = ", order "
FORMS: Final = (
    '"cull s2", "fossilize s2", "germinate s1 residual_block" (or its id; "x0.5" after it for half the units), '
    '"rate 0.5" for half of all learning rates, "policy random", "no action" at the end of an epoch, or "nothing"; '
    'each with ", order 1" for another order of data'
)


@dataclass(frozen=True, slots=True)
class Change:
    """One change; `operation` is 0 where it is no seed command, and all fields but `text` are empty for "nothing".

    `refrains` where nothing is done in place of an epoch's decision. `size` is the share of its units by which a layer
    becomes wider. An `order` above 0 is beside the change: from there on the samples come in another order.
    """

    text: str
    operation: SeedOperation = SeedOperation.SEED_OPERATION_UNKNOWN
    seed_id: str = ""
    blueprint_id: str = ""
    policy: Policy | None = None
    refrains: bool = False
    size: float = 1.0
    order: int = 0
    rate: float = 0.0
    """The share of what they would be that all learning rates become; 0 where they are left alone."""

    @property
    def commands(self) -> bool:
        """Whether it is a command, which takes the place of a decision."""
        return bool(self.operation or self.rate)


@dataclass(frozen=True, slots=True)
class Fork:
    """A fork that is yet to begin: as run `run_id`, when `step` steps are taken and `place` is reached.

    `parent` is the first fact of the run that it leaves.
    """

    run_id: str
    step: int
    place: ForkPlace
    change: Change
    parent: RunStarted


def place_of(recorded: Recorded, step: int, change: Change) -> tuple[int, ForkPlace]:
    """The last sequence that a fork at `step` shares with `recorded`, and at which place it begins.

    At the end of an epoch a command takes the place of that epoch's decision, and another policy makes it. Raises
    InvalidInput where the run has no such step to leave, or where its seeds are not such that the change can be.
    """
    last = recorded.state.model.step
    if not 0 <= step < last:
        raise InvalidInput(f"run {recorded.run_id} can be left before its steps 0 to {last - 1}, not before {step}")
    upto, where = sequence_at_step(recorded.state, step), "step"
    packet = _packet_at(recorded, step)
    if change.refrains and packet is None:
        raise InvalidInput(f"{change.text!r}: no decision was made at step {step}, but at the last step of each epoch")
    if packet is not None and (change.commands or change.refrains):
        upto, where = packet.sequence, "decision"
    elif packet is not None and change.policy:
        upto, where = packet.sequence - 1, "packet"
    if change.operation:
        shared = recorded.facts[:upto]
        _check(change, replay(shared).seeds, _place_of(change.seed_id, shared))
        if change.operation == OPERATIONS["germinate"] and change.seed_id in _closed(recorded, shared):
            raise InvalidInput(
                f"{change.text!r}: {change.seed_id} is closed there: a proof failed at it; grow at another place"
            )
        if change.operation == OPERATIONS["germinate"]:
            _check_room(change, shared)
    return upto, cast("ForkPlace", where)


def _packet_at(recorded: Recorded, step: int) -> Event | None:
    """The packet of the epoch that ended with `step`, on the surviving timeline."""
    path = {mark.sequence for mark in marks(recorded.state)}
    at_step = (fact for fact in recorded.facts if fact.global_step == step and fact.sequence in path)
    return next((fact for fact in at_step if fact.HasField("epoch_completed")), None)


def _check_room(change: Change, facts: Sequence[Event]) -> None:
    """Raise InvalidInput for a germination that Kasmina would refuse where these facts end.

    The place is taken, or the seed of a `swift` run is larger than its host. What it has where layers have become wider
    since the start is not known here.
    """
    started, seeds = facts[0].run_started, replay(facts).seeds
    site = _place_of(change.seed_id, facts)
    assert site is not None
    holding = {seed_id for seed_id, seed in seeds.items() if seed.stage in lifecycle.ATTACHED}
    holding -= {fact.seed_absorbed.seed_id for fact in facts if fact.HasField("seed_absorbed")}
    places = {each: _place_of(each, facts) for each in holding}
    between = [each for each in holding if each in site.width.between]
    widening = [each for each, place in places.items() if place and change.seed_id in place.width.between]
    if taken := [*between, *widening]:
        raise InvalidInput(
            f"{change.text!r}: {', '.join(taken)} holds a seed in the same place there; wait until it is gone"
        )
    option = next(each for each in site.options if each.blueprint_id == change.blueprint_id)
    parameters = round(change.size * option.parameters)
    wider = any(fact.HasField("seed_absorbed") for fact in facts)
    swift = RunConfig.from_json(started.config_json).seeds.swift
    if swift and not wider and parameters > started.params_host:
        raise InvalidInput(
            f"{change.text!r}: {change.blueprint_id} has {parameters:,} parameters there and its host "
            f"{started.params_host:,}; no seed of the swift lifecycle is larger than its host, name a smaller blueprint"
        )


def _closed(recorded: Recorded, facts: Sequence[Event]) -> set[str]:
    """The places where nothing may grow any more after these facts, of which those count that no rollback undid."""
    path, closed = {mark.sequence for mark in marks(recorded.state)}, set[str]()
    for fact in facts:
        if fact.sequence in path and fact.HasField("epoch_completed"):
            closed = {seed.seed_id for seed in fact.epoch_completed.seeds if seed.closed}
        elif fact.sequence in path and fact.HasField("rolled_back") and fact.rolled_back.seed_id:
            closed.add(fact.rolled_back.seed_id)
    return closed


def _place_of(seed_id: str, facts: Sequence[Event]) -> SiteDescription | None:
    """The place of a seed as the run began with it; a slot that opened later is where the absorbed seed's was."""
    opened = {fact.seed_absorbed.opened: fact.seed_absorbed.seed_id for fact in facts if fact.HasField("seed_absorbed")}
    while seed_id in opened:
        seed_id = opened[seed_id]
    return next((site for site in facts[0].run_started.sites if site.seed_id == seed_id), None)


def _check(change: Change, seeds: Mapping[str, SeedState], site: SiteDescription | None) -> None:
    """Raise InvalidInput for a seed or blueprint that there is not, and a move that the seed's stage does not allow."""
    if change.seed_id not in seeds or site is None:
        raise InvalidInput(f"{change.text!r}: there is no seed {change.seed_id!r}; there are {', '.join(seeds)}")
    stage, target = seeds[change.seed_id].stage, _TARGETS[change.operation]
    if not lifecycle.is_legal(stage, target):
        raise InvalidInput(
            f"{change.text!r}: {change.seed_id} is {lifecycle.name(stage)} there and cannot become "
            f"{lifecycle.name(target)}"
        )
    known = [option.blueprint_id for option in site.options]
    if target == lifecycle.GERMINATED and change.blueprint_id not in known:
        raise InvalidInput(f"{change.text!r}: {change.blueprint_id} cannot grow there; {', '.join(known)} can")


def read_change(text: str) -> Change:
    """The change that a text such as "cull s2" means; raises InvalidInput for any other text.

    A blueprint is named by its name or its id, and kept by its id.
    """
    words, _, order = text.partition(ORDER)
    change = _read(words.split(), text)
    if ORDER not in text:
        return change
    if not order.isdecimal() or not int(order):
        raise InvalidInput(f"{text!r}: {order!r} is no order of data; number them from 1 on")
    return replace(change, text=f"{change.text}{ORDER}{int(order)}", order=int(order))


def order_of(text: str) -> int:
    """The order of data of a recorded change, whatever else it says; 0 for the one that its run had anyway."""
    order = text.partition(ORDER)[2]
    return int(order) if order.isdecimal() else 0


def _read(words: list[str], text: str) -> Change:
    match words:
        case ["nothing"]:
            return Change("nothing")
        case ["no", "action"]:
            return Change(NO_ACTION, refrains=True)
        case ["policy", name]:
            for policy in get_args(Policy):
                if name == policy:
                    return Change(f"policy {name}", policy=policy)
            raise InvalidInput(f"there is no policy {name!r}; choose {', '.join(get_args(Policy))}")
        case ["germinate", seed_id, blueprint, *sized]:
            found, size = find_by_name(blueprint).blueprint_id, _size(sized, text)
            written = " ".join(["germinate", seed_id, found, *sized])
            return Change(written, OPERATIONS["germinate"], seed_id, found, size=size)
        case ["cull" | "fossilize" as word, seed_id]:
            return Change(" ".join(words), OPERATIONS[word], seed_id)
        case ["rate", share] | ["adjust", share]:  # a person's word, and the decision's
            return Change(f"rate {_rate(share, text):g}", rate=_rate(share, text))
        case _:
            raise InvalidInput(f"{text!r} is nothing that a fork can do; write {FORMS}")


def _rate(share: str, text: str) -> float:
    with suppress(ValueError):
        rate = float(share.removeprefix("x"))
        if 0.0 < rate < math.inf:
            return rate
    raise InvalidInput(f"{text!r}: {share!r} is no share of the learning rates above 0; write such as rate 0.5")


def _size(sized: list[str], text: str) -> float:
    """The size behind a blueprint, as `str(Action)` writes it: x0.5; 1 where there is none."""
    if not sized:
        return 1.0
    with suppress(ValueError):
        size = float(sized[0].removeprefix("x"))
        if len(sized) == 1 and sized[0].startswith("x") and 0.0 < size <= 1.0:
            return size
    raise InvalidInput(f"{text!r}: {' '.join(sized)!r} is no size; write x0.5 for half of the units, x1 at most")
