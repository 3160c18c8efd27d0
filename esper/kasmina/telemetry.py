"""What Kasmina tells beside its facts: one packet a seed and drain, at most 64 events in it, drops counted.

Packets carry no time of their own: the envelope says when. Source: R-KAS-37, R-KAS-38 and ruling 12 (quarantine is a
health report, not a stage).
"""

from __future__ import annotations

from typing import Final

from contracts.leyline.v1.leyline_pb2 import (
    HEALTH_STATUS_UNHEALTHY,
    TELEMETRY_LEVEL_WARNING,
    SystemHealth,
    TelemetryEvent,
    TelemetryLevel,
    TelemetryPacket,
)

MAX_PENDING: Final = 64


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
