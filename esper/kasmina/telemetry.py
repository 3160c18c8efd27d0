"""Seeds as others see them: observations for a policy, telemetry packets, parameters for an optimiser.

A drain gives one packet for each seed, with at most 64 events in it; what is dropped is counted. Packets carry no time
of their own: the envelope says when. Source: R-KAS-37, R-KAS-38 and ruling 12 (quarantine is a health report, not a
stage).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from torch import nn

from contracts.leyline.v1.event_pb2 import SeedObservation, SeedStep
from contracts.leyline.v1.leyline_pb2 import (
    HEALTH_STATUS_UNHEALTHY,
    TELEMETRY_LEVEL_WARNING,
    SystemHealth,
    TelemetryEvent,
    TelemetryLevel,
    TelemetryPacket,
)
from esper.kasmina import lifecycle
from esper.kasmina.seed import Seed, Slot

MAX_PENDING: Final = 64
MEMORY_DENIED: Final = "memory_allocation_denied"
"""The event that the trainer's breaker `memory_bounds` counts."""
"""Events of one seed that wait to be drained."""
LEARNING: Final = frozenset({lifecycle.TRAINING, lifecycle.BLENDING, lifecycle.PROBATIONARY, lifecycle.FOSSILIZED})
"""Stages in which an optimiser holds the seed's parameters."""


class Outbox:
    """Events that wait to be drained, by seed; the empty seed id is Kasmina itself."""

    def __init__(self) -> None:
        self._pending: dict[str, list[TelemetryEvent]] = {}
        self._dropped: dict[str, int] = {}
        self._unhealthy: dict[str, str] = {}
        self._packets = 0

    def tell(self, seed_id: str, kind: str, level: TelemetryLevel, **attributes: object) -> None:
        """Queue an event of one of the original's names; beyond 64 a seed it is dropped and counted."""
        queue = self._pending.setdefault(seed_id, [])
        if len(queue) >= MAX_PENDING:
            self._dropped[seed_id] = self._dropped.get(seed_id, 0) + 1
            return
        words = {key: str(value) for key, value in attributes.items()}
        queue.append(
            TelemetryEvent(event_id=kind, description=kind, level=level, attributes=words | {"seed_id": seed_id})
        )

    def quarantined(self, seed_id: str, why: str) -> None:
        """The seed's next packet reports it unhealthy."""
        self._unhealthy[seed_id] = why

    def drain(self) -> list[TelemetryPacket]:
        """The packets since the last drain, in order of seeds; each has the highest level of its events."""
        if not self._pending:
            return []
        packets = [self._packet(seed_id) for seed_id in sorted(self._pending)]
        self._pending.clear()
        self._dropped.clear()
        self._unhealthy.clear()
        return packets

    def _packet(self, seed_id: str) -> TelemetryPacket:
        events = self._pending[seed_id]
        dropped = self._dropped.get(seed_id, 0)
        if dropped:
            words = {"seed_id": seed_id, "dropped": str(dropped)}
            events.append(
                TelemetryEvent(
                    event_id="seed_queue_dropped",
                    description="seed_queue_dropped",
                    level=TELEMETRY_LEVEL_WARNING,
                    attributes=words,
                )
            )
        self._packets += 1
        packet = TelemetryPacket(
            packet_id=f"kasmina-{self._packets}",
            source_subsystem="kasmina",
            level=max(event.level for event in events),
            events=events,
        )
        if seed_id in self._unhealthy:
            packet.system_health.CopyFrom(
                SystemHealth(
                    status=HEALTH_STATUS_UNHEALTHY, summary=self._unhealthy[seed_id], indicators={"seed_id": seed_id}
                )
            )
        return packet


def observe(slot: Slot, *, gate_ready: bool, epochs_until_free: int) -> SeedObservation:
    """A slot as a policy may see it."""
    observation = SeedObservation(
        seed_id=slot.seed_id,
        stage=slot.stage,
        stage_age_epochs=slot.stage_epochs,
        alpha=slot.alpha,
        life=slot.life,
        culls=slot.culls,
        gate_ready=gate_ready,
        epochs_until_free=epochs_until_free,
        isolation_violations=slot.violations,
        closed=bool(slot.closed),
        held=slot.held,
    )
    if slot.absorbed:
        observation.blueprint_id = slot.absorbed
    if slot.seed is not None:
        observation.blueprint_id = slot.seed.blueprint_id
        observation.parameters = slot.seed.size
        observation.gradient_norm = float(slot.seed.gradient_norm)
        observation.activation_norm_ratio = float(slot.seed.output_ratio)
        observation.loss_before = 0.0 if slot.seed.before is None else slot.seed.before.mean
        if slot.seed.impact is not None:
            observation.contribution = slot.seed.impact.contribution.mean
            observation.contribution_stderr = slot.seed.impact.contribution.stderr
        if slot.seed.change is not None:
            observation.change = slot.seed.change.mean
            observation.change_stderr = slot.seed.change.stderr
    return observation


def step_of(slot: Slot, seed: Seed) -> SeedStep:
    """The last step's figures of the seed in a slot."""
    return SeedStep(
        seed_id=slot.seed_id,
        stage=slot.stage,
        alpha=slot.alpha,
        gradient_norm=float(seed.gradient_norm),
        side_loss=seed.side_loss,
        activation_norm_ratio=float(seed.output_ratio),
    )


def learning(slots: Collection[Slot]) -> dict[str, list[nn.Parameter]]:
    """The parameters of the seeds that learn, by seed id; seeds that have none to learn are left out."""
    held = {
        slot.seed_id: [parameter for parameter in slot.occupant().module.parameters() if parameter.requires_grad]
        for slot in slots
        if slot.stage in LEARNING and not slot.absorbed
    }
    return {seed_id: parameters for seed_id, parameters in held.items() if parameters}


def lives(slots: Collection[Slot]) -> dict[str, int]:
    """How many lives were germinated, fossilized and culled."""
    return {
        "germinated": sum(slot.life for slot in slots),
        "fossilized": sum(slot.fossils for slot in slots),
        "culled": sum(slot.culls for slot in slots),
    }
