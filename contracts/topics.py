"""The topic table: which event goes where, what keys it, how long it stays. Code creates topics from this alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DAY_MS: Final = 24 * 60 * 60 * 1000
FOR_EVER: Final = -1

PARTITIONS: Final = 4
"""How many a topic gets where nothing else is set, one number for every topic: a run is on the same partition of each,
and Faust needs its topics to agree. How many a log's topics have, that log says."""

LOCAL: Final = 1_000_000
"""The partition, in an archive, of what never lay on a log: the histories of runs that decide in their own process."""

ARCHIVER_GROUP: Final = "esper-archiver"
"""Consumer group of the archive. The embedded log deletes nothing that this group has not committed."""

FLEET_GROUP: Final = "esper-fleet"
"""The group without members that holds how far all requests of the topic of work are over: its lag is what is left."""

GROUPS: Final = (ARCHIVER_GROUP, "esper-decider", "esper-worker", FLEET_GROUP)
"""Every group of a data folder's processes and of its workers of the fleet."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of the log.

    `bodies` are the names of the `Event.body` fields that it carries, `keyed_by` says what the record key is, and
    `retention_ms` how long a record stays after it was written (`FOR_EVER` never deletes). `sheddable` topics may lose
    events under pressure, counted; all others block the producer instead.
    """

    name: str
    bodies: tuple[str, ...]
    keyed_by: str
    retention_ms: int
    sheddable: bool = False


RUNS: Final = Topic(
    "esper.runs",
    (
        "run_started",
        "run_resumed",
        "run_finished",
        "epoch_completed",
        "decision_timed_out",
        "command_applied",
        "command_rejected",
        "seed_transitioned",
        "gate_evaluated",
        "optimizer_changed",
        "learning_rate_changed",
        "kernel_attached",
        "kernel_swapped",
        "checkpoint_saved",
        "checkpoint_pruned",
        "rolled_back",
        "state_digested",
        "breaker_changed",
        "conservative_mode_changed",
        "seed_absorbed",
    ),
    "run",
    FOR_EVER,
)
COMMANDS: Final = Topic("esper.commands", ("decision_made", "adaptation_command"), "run", FOR_EVER)
BLUEPRINTS: Final = Topic(
    "esper.blueprints",
    (
        "blueprint_registered",
        "blueprint_approved",
        "compile_requested",
        "compile_started",
        "compile_finished",
        "compile_failed",
        "compile_parked",
        "artifact_stored",
        "kernel_catalog_update",
        "bsds_issued",
        "bsds_failed",
        "benchmark_report",
    ),
    "blueprint",
    FOR_EVER,
)
KERNELS: Final = Topic(
    "esper.kernels",
    ("kernel_prefetch_request", "kernel_artifact_ready", "kernel_artifact_error"),
    "blueprint",
    DAY_MS,
)
REPORTS: Final = Topic("esper.reports", ("field_report",), "run", FOR_EVER)
POLICIES: Final = Topic(
    "esper.policies",
    (
        "policy_trained",
        "policy_validated",
        "policy_rejected",
        "policy_promoted",
        "policy_loaded",
        "policy_update",
    ),
    "policy",
    FOR_EVER,
)
TELEMETRY: Final = Topic(
    "esper.telemetry",
    ("step_sampled", "telemetry_packet", "telemetry_shed"),
    "run",
    DAY_MS,
    sheddable=True,
)
EMERGENCY: Final = Topic(
    "esper.emergency",
    (
        "emergency_signal",
        "security_violation",
        "alert_fired",
        "alert_cleared",
        "alert_notified",
        "alert_acknowledged",
        "alerts_silenced",
        "alert_resend_requested",
    ),
    "run",
    7 * DAY_MS,
)
DEADLETTER: Final = Topic("esper.deadletter", ("dead_lettered",), "source", 30 * DAY_MS)
WORK: Final = Topic("esper.work", ("run_requested", "run_taken", "run_released", "worker_seen"), "run", 30 * DAY_MS)

TOPICS: Final = (RUNS, COMMANDS, BLUEPRINTS, KERNELS, REPORTS, POLICIES, TELEMETRY, EMERGENCY, DEADLETTER, WORK)

BY_NAME: Final[dict[str, Topic]] = {topic.name: topic for topic in TOPICS}
BY_BODY: Final[dict[str, Topic]] = {body: topic for topic in TOPICS for body in topic.bodies}
