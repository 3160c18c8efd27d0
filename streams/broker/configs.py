"""Topic configurations: the few of Kafka's names that mean something here; all others are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kio.schema.errors import ErrorCode

from streams.broker.errors import Refused

DEFAULTS: Final[Mapping[str, str]] = {
    "cleanup.policy": "delete",
    "flush.messages": str(2**63 - 1),
    "max.message.bytes": "1048588",
    "retention.ms": "604800000",
    "segment.bytes": str(64 * 1024 * 1024),
}
"""Kafka's own defaults, but smaller segments: retention and the check after a crash go by segments."""
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
_RANGES: Final = {
    "flush.messages": (1, 2**63 - 1),
    "max.message.bytes": (0, MAX_MESSAGE_BYTES),
    "retention.ms": (-1, 2**63 - 1),
    "segment.bytes": (1024, 2**31 - 1),
}


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """What a topic's configuration means to the log."""

    retention_ms: int
    max_message_bytes: int
    segment_bytes: int
    sync_always: bool


def parsed(configs: Mapping[str, str]) -> TopicConfig:
    """The meaning of `configs` (what was set) over the defaults.

    `flush.messages=1` makes every acknowledgement wait for the disk; any other value means every half second.

    Raises:
        Refused: a name or value that this broker does not honour.
    """
    for name, value in configs.items():
        _check(name, value)
    merged = {**DEFAULTS, **configs}
    return TopicConfig(
        retention_ms=int(merged["retention.ms"]),
        max_message_bytes=int(merged["max.message.bytes"]),
        segment_bytes=int(merged["segment.bytes"]),
        sync_always=int(merged["flush.messages"]) == 1,
    )


def _check(name: str, value: str) -> None:
    if name not in DEFAULTS:
        raise Refused(ErrorCode.invalid_config, f"config {name}={value}: this broker knows {', '.join(DEFAULTS)}")
    if name == "cleanup.policy":
        if value != "delete":
            raise Refused(ErrorCode.invalid_config, f"cleanup.policy={value}: this broker only deletes")
        return
    low, high = _RANGES[name]
    if not value.lstrip("-").isascii() or not value.lstrip("-").isdigit() or not low <= int(value) <= high:
        raise Refused(ErrorCode.invalid_config, f"config {name}={value}: a number from {low} to {high} is needed")
