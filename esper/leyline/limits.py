"""The limits that Leyline publishes, as constants and as the messages that carry them.

Source: R-LEY-15. One published number cannot hold for every message (a state packet of ten seeds does not fit into 280
bytes), so `PAYLOAD_BYTES` has a limit for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from contracts.leyline.v1.leyline_pb2 import MemoryBudgets, PerformanceBudgets, SystemLimits
from esper.errors import InvalidInput

PERFORMANCE: Final[Mapping[str, int]] = MappingProxyType(
    {
        "epoch_boundary_ms": 18,
        "tamiyo_inference_ms": 12,
        "systemstate_assembly_ms": 3,
        "adaptation_processing_ms": 2,
        "fast_rollback_ms": 500,
        "full_rollback_seconds": 12,
        "protobuf_serialization_us": 80,
        "message_validation_us": 20,
        "breaker_timeout_ms": 1_000,
        "breaker_reset_seconds": 30,
        "importance_tracking_overhead_percent": 1,
        "checkpoint_analysis_min_minutes": 2,
        "checkpoint_analysis_max_minutes": 5,
        "structured_validation_seconds": 60,
        "rollback_coordination_seconds": 30,
    }
)

MEMORY: Final[Mapping[str, float]] = MappingProxyType(
    {
        "model": 0.40,
        "optimizer": 0.25,
        "gradients": 0.15,
        "checkpoints": 0.08,
        "telemetry": 0.05,
        "morphogenetic": 0.05,
        "emergency": 0.02,
        "importance_statistics": 0.03,
        "pruning_metadata": 0.02,
    }
)
"""Shares of memory. The first seven are the base and fill it; the last two belong to pruning, which borrows."""

MEMORY_BASE: Final = ("model", "optimizer", "gradients", "checkpoints", "telemetry", "morphogenetic", "emergency")

SYSTEM: Final[Mapping[str, int]] = MappingProxyType(
    {
        "max_seeds_per_epoch": 100,
        "max_message_size_bytes": 280,
        "max_queue_depth": 10_000,
        "max_retry_attempts": 3,
        "max_pause_quota": 10_000,
        "max_gc_allocations_per_msg": 4,
        "max_pruning_ratio_percent": 50,
        "max_consecutive_pruning_failures": 3,
        "max_checkpoint_storage_gb": 100,
        "max_importance_history_days": 30,
    }
)

PAYLOAD_BYTES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "state packet, one seed": 280,
        "state packet, ten seeds": 700,
        "adaptation command": 280,
        "field report": 280,
        "telemetry packet": 280,
        "envelope around a body": 120,
    }
)

SERIALIZE_COMMAND_US: Final = 40
"""A command must serialise in half the time that `protobuf_serialization_us` gives to any other message."""


def performance_budgets() -> PerformanceBudgets:
    """The time budgets as a message."""
    return PerformanceBudgets(**PERFORMANCE)


def memory_budgets() -> MemoryBudgets:
    """The memory shares as a message."""
    return MemoryBudgets(**MEMORY)


def system_limits() -> SystemLimits:
    """The system limits as a message."""
    return SystemLimits(**SYSTEM)


def check_memory_budgets(shares: Mapping[str, float]) -> None:
    """Raise InvalidInput where the seven base shares ask for more than all memory: no run starts then (R-LEY-14)."""
    total = sum(shares[name] for name in MEMORY_BASE)
    if total > 1.0 + 1e-9:
        raise InvalidInput(f"the memory shares {', '.join(MEMORY_BASE)} sum to {total:.3f}; lower them to 1.0 at most")
