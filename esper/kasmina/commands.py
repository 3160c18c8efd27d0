"""From a verified AdaptationCommand to a request that Kasmina can carry out, or a refusal with its reason.

Whether a command may be believed at all (signature, age, nonce) is judged before it comes here, by
`esper.leyline.verifier`. A refused command changes nothing; the trainer publishes the refusal as `CommandRejected`.

All reasons: missing_payload, unsupported_command, unsupported_seed_operation, unknown_seed, illegal_transition,
seed_embargoed, seed_fossilized, seed_busy, missing_blueprint, unknown_blueprint, bad_parameters, blueprint_refused,
build_failed, shared_parameters, blend_unavailable, dwell_not_over, place_taken, seed_closed, larger_than_host,
no_seed, already_held, already_advanced, needs_fossilize.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from contracts.leyline.v1.leyline_pb2 import (
    COMMAND_TYPE_SEED,
    SEED_OPERATION_ADVANCE,
    SEED_OPERATION_CULL,
    SEED_OPERATION_FOSSILIZE,
    SEED_OPERATION_GERMINATE,
    SEED_OPERATION_HOLD,
    AdaptationCommand,
    CommandType,
    SeedOperation,
)
from esper.errors import EsperError
from esper.kasmina import lifecycle
from esper.kasmina.seed import Slot, readable

_SUPPORTED: Final = (
    SEED_OPERATION_GERMINATE,
    SEED_OPERATION_FOSSILIZE,
    SEED_OPERATION_CULL,
    SEED_OPERATION_HOLD,
    SEED_OPERATION_ADVANCE,
)


class CommandRefused(EsperError):
    """A command was not carried out and changed nothing; `reason` is one word for a machine, `detail` one line."""

    def __init__(self, reason: str, detail: str, *, critical: bool = False) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.critical = critical


@dataclass(frozen=True, slots=True)
class Request:
    """A seed command that is well formed. `command_id` is 16 bytes, empty where the command's is no UUID."""

    operation: SeedOperation
    seed_id: str
    blueprint_id: str
    parameters: dict[str, float]
    annotations: Mapping[str, str]
    command_id: bytes


def read(command: AdaptationCommand) -> Request:
    """The request in a command; raises CommandRefused for what Kasmina does not do."""
    if command.command_type != COMMAND_TYPE_SEED:
        kind = CommandType.Name(command.command_type) if command.command_type in CommandType.values() else "unknown"
        raise CommandRefused("unsupported_command", f"Kasmina carries out seed commands, not {kind}")
    if command.WhichOneof("payload") != "seed_operation":
        raise CommandRefused("missing_payload", "a seed command needs a seed_operation")
    payload = command.seed_operation
    if payload.operation not in _SUPPORTED:
        known = payload.operation in SeedOperation.values()
        what = SeedOperation.Name(payload.operation) if known else str(payload.operation)
        raise CommandRefused(
            "unsupported_seed_operation", f"{what} is not carried out: use GERMINATE, FOSSILIZE, CULL, HOLD or ADVANCE"
        )
    return Request(
        operation=payload.operation,
        seed_id=command.target_seed_id,
        blueprint_id=payload.blueprint_id,
        parameters=readable(payload.parameters),
        annotations=dict(command.annotations),
        command_id=_id_bytes(command.command_id),
    )


def check_germinate(slot: Slot, request: Request) -> None:
    """Raise CommandRefused unless the slot is free and the request is sane; the stage stays DORMANT (R-KAS-4)."""
    stage = slot.stage
    if stage in (lifecycle.CULLED, lifecycle.EMBARGOED, lifecycle.RESETTING):
        raise CommandRefused("seed_embargoed", f"{slot.seed_id} is {lifecycle.name(stage)}; wait until it is DORMANT")
    if slot.closed:
        raise CommandRefused(
            "seed_closed", f"{slot.seed_id} is closed: {slot.closed} did not prove itself there; grow at another place"
        )
    if stage in lifecycle.ATTACHED:
        raise CommandRefused("seed_busy", f"{slot.seed_id} is {lifecycle.name(stage)} with a seed already")
    check_move(slot, lifecycle.GERMINATED)
    if not request.blueprint_id:
        raise CommandRefused("missing_blueprint", f"germinate {slot.seed_id} names no blueprint")
    known = [option.blueprint_id for option in slot.description.options]
    if request.blueprint_id not in known:
        raise CommandRefused(
            "unknown_blueprint",
            f"{request.blueprint_id} cannot grow at {slot.seed_id}; {', '.join(known) or 'nothing'} can",
        )
    bad = [f"{name}={value}" for name, value in request.parameters.items() if not math.isfinite(value)]
    if bad:
        raise CommandRefused("bad_parameters", f"{request.blueprint_id} parameters must be finite: {', '.join(bad)}")


def check_hold(slot: Slot) -> None:
    """Raise CommandRefused unless a seed lives there that has yet to prove itself and is not held."""
    _check_lives(slot, "held")
    if slot.held:
        raise CommandRefused("already_held", f"{slot.seed_id} is held in {lifecycle.name(slot.stage)}; advance it")


def check_advance(slot: Slot, *, swift: bool) -> None:
    """Raise CommandRefused unless a seed lives there that leaves its stage by itself, sooner or later."""
    _check_lives(slot, "advanced")
    if slot.stage == lifecycle.PROBATIONARY and not swift and not slot.held:
        raise CommandRefused("needs_fossilize", f"{slot.seed_id} is PROBATIONARY, and leaves it by a fossilize command")
    if slot.hurried:
        raise CommandRefused(
            "already_advanced", f"{slot.seed_id} leaves {lifecycle.name(slot.stage)} at the next epoch end already"
        )


def _check_lives(slot: Slot, what: str) -> None:
    if slot.stage not in lifecycle.ALIVE:
        raise CommandRefused(
            "no_seed", f"{slot.seed_id} is {lifecycle.name(slot.stage)}: there is no seed to be {what} there"
        )


def check_move(slot: Slot, target: lifecycle.Stage) -> None:
    """Raise CommandRefused where the slot's stage does not allow the move."""
    if slot.stage == lifecycle.FOSSILIZED and target == lifecycle.CULLED:
        raise CommandRefused("seed_fossilized", f"{slot.seed_id} is FOSSILIZED: it is part of the host and stays")
    if not lifecycle.is_legal(slot.stage, target):
        raise CommandRefused(
            "illegal_transition",
            f"{slot.seed_id} is {lifecycle.name(slot.stage)} and cannot become {lifecycle.name(target)}",
        )


def _id_bytes(command_id: str) -> bytes:
    try:
        return uuid.UUID(command_id).bytes
    except ValueError:
        return b""
