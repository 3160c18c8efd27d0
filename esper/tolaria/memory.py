"""What a run may keep in memory, share by share, where `memory_mib` says how much it has (R-KAS-41, R-TOL-39).

The shares are the published ones (`esper.leyline.limits`), looked at in their order. What is kept is counted from
parameters and from kept states, never measured: it is the same on every machine, and whether something may grow does
not depend on what else runs there. A germination that would go beyond a share is refused; from 85 % of a share on it is
told of, and from 90 % on older kept states make room (the newest stays: it is what a rollback goes back to).

Telemetry is not counted, for its queue has a limit of its own; the emergency share is never given away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import nn

from contracts.leyline.v1.leyline_pb2 import (
    SEED_OPERATION_GERMINATE,
    TELEMETRY_LEVEL_CRITICAL,
    TELEMETRY_LEVEL_WARNING,
    AdaptationCommand,
    TelemetryEvent,
    TelemetryPacket,
)
from esper.kasmina.commands import CommandRefused
from esper.leyline import ids
from esper.leyline.envelope import priority_of
from esper.leyline.limits import MEMORY, MEMORY_BASE
from esper.tolaria.run import Run

WARN_AT: Final = 0.85
CLEAN_AT: Final = 0.90
MIB: Final = 2**20
_MOMENTS: Final = {"adam": 2, "adamw": 2, "sgd": 1}
"""Tensors of a parameter's size that an optimiser keeps of each."""
_FLOAT: Final = 4


def used(run: Run) -> dict[str, int]:
    """Bytes that each share holds now; seeds are weights, gradients and the optimiser's tensors in one."""
    host = _bytes(run.host)
    learnt = sum(parameter.nbytes for parameter in run.host.parameters())
    seeds = sum(_bytes(module) for module in run.kasmina.modules().values())
    return {
        "model": host,
        "optimizer": _moments(run) * learnt,
        "gradients": learnt,
        "checkpoints": run.snapshots.nbytes,
        "morphogenetic": (2 + _moments(run)) * seeds,
    }


def check(run: Run, command: AdaptationCommand) -> None:
    """Raise CommandRefused for a germination that would take more than a share has."""
    operation = command.seed_operation
    if run.config.memory_mib is None or operation.operation != SEED_OPERATION_GERMINATE:
        return
    site = run.kasmina.sites().get(command.target_seed_id)
    options = {} if site is None else {option.blueprint_id: option.parameters for option in site.options}
    kept = used(run)
    del kept["checkpoints"]  # kept states make room themselves
    kept["morphogenetic"] += (2 + _moments(run)) * _FLOAT * options.get(operation.blueprint_id, 0)
    over = next((name for name, filled in _filled(run, kept).items() if filled > 1.0), None)
    if over is not None:
        raise CommandRefused(
            "memory_share",
            f"{over} would take {kept[over] / MIB:.3g} MiB, and its share is {_share(run, over) / MIB:.3g} of "
            f"{run.config.memory_mib:g} MiB (memory_mib)",
        )


def relieve(run: Run) -> None:
    """Tell of shares that are nearly full, and make room in that of the kept states."""
    if run.config.memory_mib is None:
        return
    events = []
    for name, filled in _filled(run, used(run)).items():
        if filled < WARN_AT:
            run.memory_told.discard(name)
        elif name not in run.memory_told:
            run.memory_told.add(name)
            events.append(_event("memory_high", TELEMETRY_LEVEL_WARNING, name, filled))
    filled = _filled(run, used(run))["checkpoints"]
    if filled >= CLEAN_AT and (gone := run.snapshots.shrink(int(CLEAN_AT * _share(run, "checkpoints")))):
        events.append(_event("emergency_cleanup", TELEMETRY_LEVEL_CRITICAL, "checkpoints", filled, states=gone))
    if events:
        level = max(event.level for event in events)
        packet = TelemetryPacket(
            packet_id=ids.text(run.recorder.new_id()), source_subsystem="kasmina", level=level, events=events
        )
        packet.timestamp.FromNanoseconds(run.clock.wall_ns())
        run.recorder.publish(packet, priority=priority_of(packet))


def _filled(run: Run, kept: Mapping[str, int]) -> dict[str, float]:
    return {name: kept[name] / _share(run, name) for name in MEMORY_BASE if name in kept}


def _share(run: Run, name: str) -> float:
    assert run.config.memory_mib is not None
    return MEMORY[name] * run.config.memory_mib * MIB


def _moments(run: Run) -> int:
    return _MOMENTS.get(run.config.optimizer.lower(), 2)


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _event(kind: str, level: int, share: str, filled: float, **more: object) -> TelemetryEvent:
    words = {"share": share, "filled": f"{filled:.2f}"} | {name: str(value) for name, value in more.items()}
    return TelemetryEvent(event_id=kind, description=kind, level=level, attributes=words)  # type: ignore[arg-type]
