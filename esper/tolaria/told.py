"""What a person may tell a run while it trains, from words to a command. Free of torch: the command line reads it.

A command takes effect between two optimiser steps: before the first step that begins after it has arrived, or while
the run stands still. `CommandApplied` says before which. What is judged at an epoch's end, such as the gate of a seed
that is advanced, waits for that.
"""

from __future__ import annotations

import math
from typing import Final

from google.protobuf.struct_pb2 import Struct

from contracts.leyline.v1.leyline_pb2 import (
    CIRCUIT_BREAKER_STATE_CLOSED,
    CIRCUIT_BREAKER_STATE_OPEN,
    COMMAND_TYPE_CIRCUIT_BREAKER,
    COMMAND_TYPE_OPTIMIZER,
    COMMAND_TYPE_PAUSE,
    COMMAND_TYPE_ROLLBACK,
    COMMAND_TYPE_SEED,
    EMERGENCY_LEVEL_CONSERVATIVE,
    EMERGENCY_LEVEL_HALT,
    MESSAGE_PRIORITY_CRITICAL,
    SEED_OPERATION_ADVANCE,
    SEED_OPERATION_HOLD,
    AdaptationCommand,
    CommandCircuitBreaker,
    CommandOptimizerAdjustment,
    CommandSeedOperation,
    CommandTraining,
    EmergencyLevel,
    EmergencySignal,
    SeedOperation,
)
from esper.errors import InvalidInput
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.tolaria.fork_change import read_change

PERSON: Final = "person"
"""Who has issued such a command."""
HALTED: Final = "emergency: "
"""How the reason begins for which a run has ended that an emergency halted."""
TOLD_FORMS: Final = (
    '"cull s1", "fossilize s1", "hold s1", "advance s1", "germinate s1 residual_block" (or its id), "rate 0.5", '
    '"rollback", "rollback full", "breaker open", "breaker close", "pause", "resume", or in an emergency "halt" and '
    '"caution", with why behind it'
)
_LEVELS: Final[dict[str, EmergencyLevel]] = {"halt": EMERGENCY_LEVEL_HALT, "caution": EMERGENCY_LEVEL_CONSERVATIVE}
_OWN: Final[dict[str, SeedOperation]] = {"hold": SEED_OPERATION_HOLD, "advance": SEED_OPERATION_ADVANCE}


def read_told(text: str) -> AdaptationCommand:
    """The command that a text such as "cull s1" means, without id and time; raises InvalidInput for any other text.

    Its annotation `told` has the words, a blueprint by its id.
    """
    words = text.split()
    if read_signal(text) is not None:
        raise InvalidInput(f"{words[0]} is an emergency and no command; signal it by `esper tell RUN {text.strip()}`")
    match words:
        case ["pause" | "resume" as word]:
            command = AdaptationCommand(
                command_type=COMMAND_TYPE_PAUSE, training=CommandTraining(paused=word == "pause")
            )
        case ["rate", number]:
            adjustment = CommandOptimizerAdjustment(optimizer_id="host", hyperparameters={"rate": _share(number)})
            command = AdaptationCommand(command_type=COMMAND_TYPE_OPTIMIZER, optimizer_adjustment=adjustment)
        case ["rollback", *level] if level in ([], ["fast"], ["full"]):
            asked = Struct()
            asked.update({"level": level[0]} if level else {})
            command = AdaptationCommand(command_type=COMMAND_TYPE_ROLLBACK, rollback_payload=asked)
        case ["breaker", "open" | "close" as word]:
            state = CIRCUIT_BREAKER_STATE_OPEN if word == "open" else CIRCUIT_BREAKER_STATE_CLOSED
            payload = CommandCircuitBreaker(desired_state=state, rationale="a person said so")
            command = AdaptationCommand(command_type=COMMAND_TYPE_CIRCUIT_BREAKER, circuit_breaker=payload)
            command.annotations["breaker"] = "growth"
        case ["hold" | "advance" as word, seed_id]:
            command = _of_seed(_OWN[word], seed_id)
        case ["germinate", _, _] | ["cull" | "fossilize", _]:
            change = read_change(" ".join(words))
            command = _of_seed(change.operation, change.seed_id, change.blueprint_id)
            words = change.text.split()
        case _:
            raise InvalidInput(f"{text!r} is nothing that a run can be told; write {TOLD_FORMS}")
    command.annotations["told"] = " ".join(words)
    return command


def read_signal(text: str) -> EmergencySignal | None:
    """The emergency that "halt" or "caution" means, with why behind it; None for any other text.

    It is no command: the trainer heeds it before all others, also where the log is away. A `halt` ends the run before
    its next step, as interrupted, until a person resumes it; in `caution` nothing grows for 30 s and the epoch after.
    """
    word, _, reason = text.strip().partition(" ")
    if word not in _LEVELS:
        return None
    return EmergencySignal(
        version=1, level=_LEVELS[word], reason=reason.strip() or f"a person said {word}", origin=PERSON
    )


def signal_event(run_id: str, signal: EmergencySignal, *, now_ns: int, random_bytes: bytes) -> Event:
    """The event to sign and publish: this signal to one run, raised now."""
    signal.run_id = run_id
    signal.triggered_at.FromNanoseconds(now_ns)
    return new_event(
        signal,
        event_id=ids.uuid7(now_ns, random_bytes),
        run_id=run_id,
        producer=PERSON,
        recorded_at_ns=now_ns,
        priority=MESSAGE_PRIORITY_CRITICAL,
    )


def told_event(run_id: str, command: AdaptationCommand, *, now_ns: int, random_bytes: bytes) -> Event:
    """The event to sign and publish: a command with an id of its own, issued now by a person."""
    command_id = ids.uuid7(now_ns, random_bytes)
    command.version = 1
    command.command_id = ids.text(command_id)
    command.issued_by = PERSON
    command.issued_at.FromNanoseconds(now_ns)
    return new_event(command, event_id=command_id, run_id=run_id, producer=PERSON, recorded_at_ns=now_ns)


def _of_seed(operation: SeedOperation, seed_id: str, blueprint_id: str = "") -> AdaptationCommand:
    payload = CommandSeedOperation(operation=operation, blueprint_id=blueprint_id)
    return AdaptationCommand(command_type=COMMAND_TYPE_SEED, target_seed_id=seed_id, seed_operation=payload)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not (math.isfinite(share) and share > 0):
        raise InvalidInput(f"rate {text!r} is no share of the learning rate above 0; write such as `rate 0.5`")
    return share
