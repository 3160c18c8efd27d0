"""Every metric that Esper emits: nothing else may be emitted, alerted on or drawn (ruling 26).

Names are the original's in Prometheus form: `esper_` before them, dots as underscores, base units (seconds, bytes,
ratios) at their end. `oona.publish.latency_ms` is `esper_oona_publish_latency_seconds`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from esper.leyline.breaker import STATE_NUMBERS

Kind = Literal["counter", "gauge", "histogram"]

FAST: Final = (0.001, 0.002, 0.005, 0.010, 0.018, 0.025, 0.050, 0.100, 0.250, 0.500, 1.0)
"""Seconds. 5 ms and 18 ms are the limits of a decision, 25 ms that of a publish."""
SLOW: Final = (0.005, 0.025, 0.050, 0.100, 0.250, 0.500, 1.0, 2.5, 5.0, 12.0)
"""Seconds. 500 ms and 12 s are the limits of a fast and a full rollback, 100 ms and 250 ms those of a delivery."""

COMPILE: Final = (5.0, 10.0, 30.0, 65.0, 120.0, 250.0, 500.0, 960.0)
"""Seconds. 10, 65, 250 and 960 are the limits of the pipelines."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `labels` are its label names and `buckets` the upper bounds of a histogram, in its unit."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


OONA: Final = (
    Metric("esper_oona_publish_total", "counter", "Events that the log acknowledged", ("topic",)),
    Metric("esper_oona_publish_dropped_total", "counter", "Telemetry events shed because the queue was full"),
    Metric("esper_oona_publish_latency_seconds", "histogram", "From enqueued to acknowledged", (), FAST),
    Metric("esper_oona_queue_depth", "gauge", "Events waiting for an acknowledgement", ("writer",)),
    Metric("esper_oona_queue_depth_max", "gauge", "The deepest that queue ever was"),
    Metric("esper_oona_emergency_published_total", "counter", "Events acknowledged on the emergency topic"),
    Metric("esper_oona_emergency_queued_total", "counter", "Emergencies above 60 a minute, which overtook nothing"),
    Metric("esper_oona_conservative_mode", "gauge", "1 while a writer sheds normal telemetry, else 0", ("writer",)),
    Metric("esper_oona_breaker_state", "gauge", STATE_NUMBERS, ("breaker",)),
    Metric("esper_oona_consume_total", "counter", "Records handled to the end", ("topic",)),
    Metric("esper_oona_consume_latency_seconds", "histogram", "From written to handled", ("topic",), SLOW),
    Metric("esper_oona_retry_total", "counter", "Attempts repeated after a handler failed", ("handler",)),
    Metric("esper_oona_dead_letter_total", "counter", "Records given up after three attempts", ("topic",)),
    Metric("esper_oona_log_up", "gauge", "1 while the log answers this process, else 0"),
    Metric("esper_security_signature_fail_total", "counter", "Records with a bad signature", ("topic", "reason")),
)
"""Of every process that talks to the log."""

WEATHERLIGHT: Final = (
    Metric(
        "esper_weatherlight_emergency_detections_total",
        "counter",
        "Emergencies of level 3 or higher that the supervisor saw, by the flag or by the log",
        ("way",),
    ),
    Metric("esper_weatherlight_emergency_last_level", "gauge", "Level of the last of them"),
    Metric("esper_weatherlight_emergency_latency_seconds", "histogram", "From raised to seen", (), FAST),
    Metric("esper_weatherlight_deadlines_missed_total", "counter", "Rollbacks that went on beyond their deadline"),
)
"""Of the supervisor."""

TAMIYO: Final = (
    Metric("esper_tamiyo_inference_latency_seconds", "histogram", "Time to decide, without the log", (), FAST),
    Metric("esper_tamiyo_answer_latency_seconds", "histogram", "From packet read to answer acknowledged", (), FAST),
)
"""Of the decider."""

TEZZERET: Final = (
    Metric("esper_tezzeret_jobs_total", "counter", "Attempts that ended", ("outcome",)),
    Metric("esper_tezzeret_jobs_open", "gauge", "Compile jobs that still need something"),
    Metric("esper_tezzeret_compilation_duration_seconds", "histogram", "An attempt's child", ("strategy",), COMPILE),
    Metric("esper_tezzeret_compilation_eager_fallback_total", "counter", "Kernels that could not be compiled"),
    Metric("esper_tezzeret_breaker_state", "gauge", STATE_NUMBERS, ("breaker",)),
    Metric("esper_tezzeret_mode_conservative", "gauge", "1 while the forge is in conservative mode"),
)
"""Of the forge."""

URZA: Final = (
    Metric("esper_urza_prefetch_total", "counter", "Prefetch requests by what became of them", ("outcome",)),
    Metric("esper_urza_prefetch_latency_seconds", "histogram", "From request read to answer acknowledged", (), FAST),
    Metric("esper_urza_query_duration_seconds", "histogram", "Catalogue, memory, store and checks together", (), FAST),
    Metric("esper_urza_cache_hits_total", "counter", "Kernels served from memory"),
    Metric("esper_urza_cache_misses_total", "counter", "Kernels read from the object store"),
    Metric("esper_urza_cache_evictions", "gauge", "Kernels that made room or went bad, since the start"),
    Metric("esper_urza_cache_expired", "gauge", "Kernels that stayed their time in memory, since the start"),
    Metric("esper_urza_cache_size_bytes", "gauge", "What the kernels in memory take"),
    Metric("esper_urza_integrity_failures_total", "counter", "Artifacts that failed a check", ("reason",)),
    Metric("esper_urza_breaker_state", "gauge", STATE_NUMBERS),
    Metric("esper_urza_breaker_openings", "gauge", "How often the breaker opened since the start"),
    Metric("esper_urza_conservative_mode", "gauge", "1 while only memory is served"),
    Metric("esper_urza_library_versions", "gauge", "Versions in the catalogue"),
    Metric(
        "esper_projection_lag_records",
        "gauge",
        "Records of the log that a projection has not folded yet",
        ("projection",),
    ),
    Metric("esper_urza_nonce_evictions", "gauge", "Request ids forgotten for want of room, since the start"),
)
"""Of the worker, by Urza's library."""

EPOCH_PACKET: Final = (
    Metric("esper_tolaria_epoch_duration_seconds", "gauge", "Time of the last epoch", ("run",)),
    Metric("esper_tolaria_seeds_attached", "gauge", "Seed modules in the network now", ("run",)),
    Metric("esper_tolaria_epoch_hook_latency_seconds", "gauge", "The last epoch's own hook, whole", ("run",)),
    Metric("esper_tolaria_epoch_hook_assembly_seconds", "gauge", "Of it: making the state packet", ("run",)),
    Metric("esper_tolaria_epoch_hook_decision_seconds", "gauge", "Of it: waiting for the decision", ("run",)),
    Metric("esper_tolaria_epoch_hook_command_seconds", "gauge", "Of it: carrying the command out", ("run",)),
    Metric("esper_tolaria_epoch_hook_acknowledgement_seconds", "gauge", "Of it: waiting for the log", ("run",)),
    Metric("esper_tolaria_epochs_of_run", "gauge", "Epochs that the run has completed", ("run",)),
    Metric("esper_tolaria_mode_conservative", "gauge", "1 while nothing may grow in the run", ("run",)),
    Metric("esper_tolaria_timeout_tamiyo_of_run", "gauge", "Decisions of the run that did not come in time", ("run",)),
    Metric("esper_tolaria_lr_controller_current_lr", "gauge", "Learning rate of the host", ("run",)),
    Metric("esper_tolaria_opt_rebuilds", "gauge", "How often the run's optimizer was made anew", ("run",)),
    Metric("esper_tolaria_rollback_fast_size_bytes", "gauge", "Size of the states kept in memory", ("run",)),
    Metric("esper_tolaria_rollback_snapshots", "gauge", "States kept in memory", ("run",)),
    Metric("esper_tolaria_rollback_evictions", "gauge", "States that made room in memory", ("run",)),
    Metric("esper_tolaria_grad_agg_microbatches", "gauge", "Parts that a batch is learnt in", ("run",)),
    Metric("esper_tolaria_grad_agg_conflicts", "gauge", "Parts whose gradients disagreed", ("run",)),
)
"""Of a run, by the telemetry packet at each epoch's end, beside what other events say of it."""

NISSA: Final = (
    *EPOCH_PACKET,
    Metric("esper_weatherlight_restarts", "gauge", "How often a process was started again", ("process",)),
    Metric("esper_training_runs", "gauge", "Runs that started and did not finish"),
    Metric("esper_tolaria_training_loss", "gauge", "Training loss of the last epoch, nats", ("run",)),
    Metric("esper_tolaria_probe_loss", "gauge", "Probe loss of the last epoch, nats", ("run",)),
    Metric("esper_tolaria_training_accuracy_ratio", "gauge", "Probe accuracy of the last epoch", ("run",)),
    Metric("esper_tolaria_training_latency_seconds", "gauge", "The last epoch hook, publish to applied", ("run",)),
    Metric("esper_tolaria_hook_contended_seconds", "gauge", "Of that, while a task waited for a processor", ("run",)),
    Metric("esper_tolaria_hook_own_seconds", "gauge", "The rest of it: what Esper itself took", ("run",)),
    Metric("esper_tolaria_hook_duration_seconds", "histogram", "Epoch hooks, of their own time", (), FAST),
    Metric("esper_tolaria_step_seconds", "gauge", "Time of the last sampled step", ("run",)),
    Metric("esper_tolaria_samples_per_second", "gauge", "Training samples a second at the last sampled step", ("run",)),
    Metric("esper_tolaria_gradient_norm", "gauge", "L2 of the gradient at the last sampled step", ("run",)),
    Metric("esper_tolaria_epochs_total", "counter", "Epochs completed"),
    Metric("esper_tolaria_seeds_active", "gauge", "Seeds between germination and the end of probation", ("run",)),
    Metric("esper_tolaria_timeout_tamiyo_total", "counter", "Decisions that did not come in time"),
    Metric("esper_tolaria_rollback_total", "counter", "Rollbacks", ("level",)),
    Metric("esper_tolaria_rollback_restore_latency_seconds", "histogram", "Time of a rollback", ("level",), SLOW),
    Metric("esper_tolaria_rollback_deadline_exceeded_total", "counter", "Rollbacks that took too long"),
    Metric("esper_tolaria_checkpoint_bytes", "gauge", "Size of the last checkpoint", ("run",)),
    Metric("esper_tolaria_breaker_state", "gauge", f"The breaker of decisions: {STATE_NUMBERS}", ("run",)),
    Metric("esper_tolaria_breaker_changes_total", "counter", "Breakers that opened or closed", ("breaker", "state")),
    Metric("esper_kasmina_isolation_violations", "gauge", "Leaks of the seeds' present lives into the host", ("run",)),
    Metric("esper_kasmina_isolation_violations_told_total", "counter", "Leaks into the host that Kasmina told of"),
    Metric("esper_kasmina_rewinds_total", "counter", "Seeds that were undone because their proof failed"),
    Metric("esper_kasmina_seed_transitions_total", "counter", "Stage changes", ("to",)),
    Metric("esper_kasmina_gates_total", "counter", "Gates evaluated", ("gate", "passed")),
    Metric("esper_kasmina_nonce_ledger_size", "gauge", "Commands remembered against replay", ("run",)),
    Metric("esper_kasmina_nonce_ledger_evictions", "gauge", "Commands forgotten early, for want of room", ("run",)),
    Metric("esper_kasmina_command_applied_total", "counter", "Commands applied", ("operation",)),
    Metric("esper_kasmina_command_rejected_total", "counter", "Commands rejected", ("reason",)),
    Metric("esper_kasmina_kernel_attach_latency_seconds", "histogram", "Time to attach a kernel", (), FAST),
    Metric("esper_tamiyo_decisions_total", "counter", "Decisions made", ("policy",)),
    Metric("esper_tamiyo_blueprint_risk_ratio", "gauge", "Expected risk of the last decision", ("run",)),
    Metric("esper_tamiyo_conservative_mode", "gauge", "1 while the run is in conservative mode", ("run",)),
    Metric("esper_field_reports_total", "counter", "Field reports", ("outcome",)),
    Metric(
        "esper_tezzeret_compile_retry_count",
        "gauge",
        "Repeated attempts at the last compile job",
    ),
    Metric("esper_leyline_enum_invalid_total", "counter", "Enum values that these contracts lack", ("enum",)),
    Metric("esper_telemetry_packets_total", "counter", "Telemetry packets", ("source",)),
    Metric("esper_telemetry_events_total", "counter", "Events inside telemetry packets", ("source", "event")),
    Metric("esper_telemetry_shed_total", "counter", "Telemetry events that writers report as shed"),
    Metric("esper_security_violations_total", "counter", "Security violations", ("reason",)),
    Metric("esper_emergency_signals_total", "counter", "Emergency signals", ("level",)),
    Metric("esper_emergency_level", "gauge", "Level of a run's emergency, 3 conservative, 4 halt; else 0", ("run",)),
    Metric("esper_dead_letters_total", "counter", "Records on the dead-letter topic", ("source",)),
    Metric("esper_nissa_ingest_latency_seconds", "histogram", "From written to folded", (), SLOW),
    Metric("esper_archive_lag_seconds", "gauge", "How long what the worker has handled waits to be archived"),
    Metric("esper_nissa_telemetry_unknown_total", "counter", "Points of telemetry packets that this list lacks"),
    Metric("esper_nissa_alerts_active", "gauge", "1 while the alert is active, else 0", ("rule",)),
    Metric("esper_nissa_alerts_total", "counter", "Alerts fired", ("rule",)),
    Metric("esper_nissa_notifications_total", "counter", "Who was told of alerts, or not", ("channel", "outcome")),
)
"""Of the worker, folded from events."""

ARCHIVE: Final = (
    Metric("esper_archive_records_total", "counter", "Records archived"),
    Metric("esper_archive_invalid_total", "counter", "Records that are no valid event, kept raw with the reason"),
    Metric("esper_archive_lost_total", "counter", "Offsets that the log no longer had when the archive came for them"),
    Metric("esper_archive_unreadable_total", "counter", "Offsets whose bytes on the log are damaged"),
    Metric("esper_archive_damaged_total", "counter", "Files whose bytes are not those that were written"),
    Metric("esper_archive_merges_total", "counter", "Merges of small files put into effect"),
    Metric("esper_archive_files", "gauge", "Files that the manifest lists"),
    Metric("esper_archive_flush_seconds", "histogram", "From flush begun to durable and readable", (), SLOW),
)
"""Of the archiver."""

BROKER: Final = (
    Metric("esper_broker_connections", "gauge", "Clients connected to the embedded log"),
    Metric("esper_broker_requests_total", "counter", "Requests read"),
    Metric("esper_broker_malformed_total", "counter", "Connections closed because they sent no request"),
    Metric("esper_broker_refused_total", "counter", "Batches and commits refused, a full disk among the reasons"),
    Metric("esper_broker_unwritable", "gauge", "1 while the disk takes no batch: tried whenever this is asked for"),
    Metric("esper_broker_records_total", "counter", "Records stored"),
    Metric("esper_broker_duplicates_total", "counter", "Batches that came again and were not stored again"),
    Metric("esper_broker_received_bytes_total", "counter", "Bytes of the batches stored"),
    Metric("esper_broker_sent_bytes_total", "counter", "Bytes of the batches fetched"),
    Metric("esper_broker_damaged_segments", "gauge", "Segment files in which bytes are lost"),
    Metric("esper_broker_log_bytes", "gauge", "Size of a partition on the disk", ("topic", "partition")),
    Metric("esper_broker_log_start_offset", "gauge", "First offset that can be read", ("topic", "partition")),
    Metric("esper_broker_log_end_offset", "gauge", "Offset after the last record", ("topic", "partition")),
)
"""Of the embedded broker."""

SERVE: Final = (
    Metric("esper_serve_clients", "gauge", "Pages that are open"),
    Metric("esper_serve_messages_total", "counter", "Overviews sent to them"),
    Metric("esper_serve_skipped_total", "counter", "Overviews that a page was too slow for"),
    Metric("esper_serve_look_seconds", "histogram", "From looked at the archive to a new overview", (), SLOW),
    Metric("esper_serve_kept_bytes", "gauge", "Answers that are kept for the next page that asks"),
    Metric("esper_serve_refused_total", "counter", "Requests of who had no session, or too many", ("status",)),
)
"""Of `esper serve`."""

METRICS: Final = (*OONA, *WEATHERLIGHT, *TAMIYO, *TEZZERET, *URZA, *NISSA, *ARCHIVE, *BROKER, *SERVE)
BY_NAME: Final = {metric.name: metric for metric in METRICS}

_BASE_UNITS: Final = {
    "ms": ("seconds", 1e3),
    "us": ("seconds", 1e6),
    "s": ("seconds", 1.0),
    "percent": ("ratio", 1e2),
}


def prometheus_form(name: str, value: float) -> tuple[str, float]:
    """The catalogue's form of one of the original's names and its value, such as `oona.publish.latency_ms` and 3.0.

    A total that a packet tells is a gauge of its source, and no counter: it loses the ending that Prometheus keeps for
    those, `_total`. A share is told as one. Where a counter of all runs together has that name already, which is kept
    without its ending in a process's registry, the gauge is "of run".
    """
    if name.endswith((".total", "_total")):
        name = name[: -len("_total")]
    if name == "tolaria.training.accuracy":
        name += "_ratio"
    stem = "esper_" + name.replace(".", "_")
    if f"{stem}_total" in BY_NAME:
        stem += "_of_run"
    head, _, unit = stem.rpartition("_")
    if unit in _BASE_UNITS:
        base, units = _BASE_UNITS[unit]
        return f"{head}_{base}", value / units
    return stem, value


WHOSE: Final = (
    ("Every process that talks to the log", OONA),
    ("Supervisor", WEATHERLIGHT),
    ("Decider", TAMIYO),
    ("Forge", TEZZERET),
    ("Worker, by the library of kernels", URZA),
    ("Worker, of what runs tell", NISSA),
    ("Archiver", ARCHIVE),
    ("Embedded broker", BROKER),
    ("Mission control", SERVE),
)


def page() -> str:
    """docs/metrics.md: every metric, whose it is, and what it means."""
    lines = [
        "# Metrics",
        "",
        "Made by `python -m esper.nissa.catalogue docs`. Each process serves them at `/metrics` of its own port",
        "(`esper doctor` has the ports, `run/*.json` in the data folder is the list that Prometheus reads). A label's",
        "value is one word of a small set; `run` is that of a run that goes on, of fifty at most, and goes with it.",
    ]
    for whose, metrics in WHOSE:
        lines += ["", f"## {whose}", "", "| Metric | Kind | Labels | Meaning |", "|---|---|---|---|"]
        lines += [f"| `{m.name}` | {m.kind} | {', '.join(m.labels)} | {m.help} |" for m in metrics]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (Path(sys.argv[1]) / "metrics.md").write_text(page(), "utf-8")
