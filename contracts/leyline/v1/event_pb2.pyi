from contracts.leyline.v1 import leyline_pb2 as _leyline_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Event(_message.Message):
    __slots__ = ("event_id", "run_id", "producer", "sequence", "incarnation", "timeline", "global_step", "epoch", "recorded_at_ns", "causation_id", "correlation_id", "schema_version", "priority", "run_started", "run_resumed", "run_finished", "epoch_completed", "decision_timed_out", "command_applied", "command_rejected", "seed_transitioned", "gate_evaluated", "optimizer_changed", "learning_rate_changed", "kernel_attached", "kernel_swapped", "checkpoint_saved", "checkpoint_pruned", "rolled_back", "state_digested", "breaker_changed", "conservative_mode_changed", "seed_absorbed", "decision_made", "adaptation_command", "blueprint_registered", "blueprint_approved", "compile_requested", "compile_started", "compile_finished", "compile_failed", "compile_parked", "artifact_stored", "kernel_catalog_update", "bsds_issued", "bsds_failed", "benchmark_report", "kernel_prefetch_request", "kernel_artifact_ready", "kernel_artifact_error", "field_report", "policy_trained", "policy_validated", "policy_rejected", "policy_promoted", "policy_loaded", "policy_update", "step_sampled", "telemetry_packet", "telemetry_shed", "emergency_signal", "security_violation", "alert_fired", "alert_cleared", "alert_notified", "alert_acknowledged", "alerts_silenced", "alert_resend_requested", "dead_lettered", "run_requested", "run_taken", "run_released", "worker_seen")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    GLOBAL_STEP_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    RECORDED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    CAUSATION_ID_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    RUN_STARTED_FIELD_NUMBER: _ClassVar[int]
    RUN_RESUMED_FIELD_NUMBER: _ClassVar[int]
    RUN_FINISHED_FIELD_NUMBER: _ClassVar[int]
    EPOCH_COMPLETED_FIELD_NUMBER: _ClassVar[int]
    DECISION_TIMED_OUT_FIELD_NUMBER: _ClassVar[int]
    COMMAND_APPLIED_FIELD_NUMBER: _ClassVar[int]
    COMMAND_REJECTED_FIELD_NUMBER: _ClassVar[int]
    SEED_TRANSITIONED_FIELD_NUMBER: _ClassVar[int]
    GATE_EVALUATED_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_CHANGED_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_CHANGED_FIELD_NUMBER: _ClassVar[int]
    KERNEL_ATTACHED_FIELD_NUMBER: _ClassVar[int]
    KERNEL_SWAPPED_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_SAVED_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_PRUNED_FIELD_NUMBER: _ClassVar[int]
    ROLLED_BACK_FIELD_NUMBER: _ClassVar[int]
    STATE_DIGESTED_FIELD_NUMBER: _ClassVar[int]
    BREAKER_CHANGED_FIELD_NUMBER: _ClassVar[int]
    CONSERVATIVE_MODE_CHANGED_FIELD_NUMBER: _ClassVar[int]
    SEED_ABSORBED_FIELD_NUMBER: _ClassVar[int]
    DECISION_MADE_FIELD_NUMBER: _ClassVar[int]
    ADAPTATION_COMMAND_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_REGISTERED_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_APPROVED_FIELD_NUMBER: _ClassVar[int]
    COMPILE_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    COMPILE_STARTED_FIELD_NUMBER: _ClassVar[int]
    COMPILE_FINISHED_FIELD_NUMBER: _ClassVar[int]
    COMPILE_FAILED_FIELD_NUMBER: _ClassVar[int]
    COMPILE_PARKED_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_STORED_FIELD_NUMBER: _ClassVar[int]
    KERNEL_CATALOG_UPDATE_FIELD_NUMBER: _ClassVar[int]
    BSDS_ISSUED_FIELD_NUMBER: _ClassVar[int]
    BSDS_FAILED_FIELD_NUMBER: _ClassVar[int]
    BENCHMARK_REPORT_FIELD_NUMBER: _ClassVar[int]
    KERNEL_PREFETCH_REQUEST_FIELD_NUMBER: _ClassVar[int]
    KERNEL_ARTIFACT_READY_FIELD_NUMBER: _ClassVar[int]
    KERNEL_ARTIFACT_ERROR_FIELD_NUMBER: _ClassVar[int]
    FIELD_REPORT_FIELD_NUMBER: _ClassVar[int]
    POLICY_TRAINED_FIELD_NUMBER: _ClassVar[int]
    POLICY_VALIDATED_FIELD_NUMBER: _ClassVar[int]
    POLICY_REJECTED_FIELD_NUMBER: _ClassVar[int]
    POLICY_PROMOTED_FIELD_NUMBER: _ClassVar[int]
    POLICY_LOADED_FIELD_NUMBER: _ClassVar[int]
    POLICY_UPDATE_FIELD_NUMBER: _ClassVar[int]
    STEP_SAMPLED_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_PACKET_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_SHED_FIELD_NUMBER: _ClassVar[int]
    EMERGENCY_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    SECURITY_VIOLATION_FIELD_NUMBER: _ClassVar[int]
    ALERT_FIRED_FIELD_NUMBER: _ClassVar[int]
    ALERT_CLEARED_FIELD_NUMBER: _ClassVar[int]
    ALERT_NOTIFIED_FIELD_NUMBER: _ClassVar[int]
    ALERT_ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    ALERTS_SILENCED_FIELD_NUMBER: _ClassVar[int]
    ALERT_RESEND_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERED_FIELD_NUMBER: _ClassVar[int]
    RUN_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    RUN_TAKEN_FIELD_NUMBER: _ClassVar[int]
    RUN_RELEASED_FIELD_NUMBER: _ClassVar[int]
    WORKER_SEEN_FIELD_NUMBER: _ClassVar[int]
    event_id: bytes
    run_id: str
    producer: str
    sequence: int
    incarnation: int
    timeline: int
    global_step: int
    epoch: int
    recorded_at_ns: int
    causation_id: bytes
    correlation_id: bytes
    schema_version: int
    priority: _leyline_pb2.MessagePriority
    run_started: RunStarted
    run_resumed: RunResumed
    run_finished: RunFinished
    epoch_completed: EpochCompleted
    decision_timed_out: DecisionTimedOut
    command_applied: CommandApplied
    command_rejected: CommandRejected
    seed_transitioned: SeedTransitioned
    gate_evaluated: GateEvaluated
    optimizer_changed: OptimizerChanged
    learning_rate_changed: LearningRateChanged
    kernel_attached: KernelAttached
    kernel_swapped: KernelSwapped
    checkpoint_saved: CheckpointSaved
    checkpoint_pruned: CheckpointPruned
    rolled_back: RolledBack
    state_digested: StateDigested
    breaker_changed: BreakerChanged
    conservative_mode_changed: ConservativeModeChanged
    seed_absorbed: SeedAbsorbed
    decision_made: DecisionMade
    adaptation_command: _leyline_pb2.AdaptationCommand
    blueprint_registered: BlueprintRegistered
    blueprint_approved: BlueprintApproved
    compile_requested: CompileRequested
    compile_started: CompileStarted
    compile_finished: CompileFinished
    compile_failed: CompileFailed
    compile_parked: CompileParked
    artifact_stored: ArtifactStored
    kernel_catalog_update: _leyline_pb2.KernelCatalogUpdate
    bsds_issued: _leyline_pb2.BSDSIssued
    bsds_failed: _leyline_pb2.BSDSFailed
    benchmark_report: _leyline_pb2.BenchmarkReport
    kernel_prefetch_request: _leyline_pb2.KernelPrefetchRequest
    kernel_artifact_ready: _leyline_pb2.KernelArtifactReady
    kernel_artifact_error: _leyline_pb2.KernelArtifactError
    field_report: _leyline_pb2.FieldReport
    policy_trained: PolicyTrained
    policy_validated: PolicyValidated
    policy_rejected: PolicyRejected
    policy_promoted: PolicyPromoted
    policy_loaded: PolicyLoaded
    policy_update: _leyline_pb2.PolicyUpdate
    step_sampled: StepSampled
    telemetry_packet: _leyline_pb2.TelemetryPacket
    telemetry_shed: TelemetryShed
    emergency_signal: _leyline_pb2.EmergencySignal
    security_violation: SecurityViolation
    alert_fired: AlertFired
    alert_cleared: AlertCleared
    alert_notified: AlertNotified
    alert_acknowledged: AlertAcknowledged
    alerts_silenced: AlertsSilenced
    alert_resend_requested: AlertResendRequested
    dead_lettered: DeadLettered
    run_requested: RunRequested
    run_taken: RunTaken
    run_released: RunReleased
    worker_seen: WorkerSeen
    def __init__(self, event_id: _Optional[bytes] = ..., run_id: _Optional[str] = ..., producer: _Optional[str] = ..., sequence: _Optional[int] = ..., incarnation: _Optional[int] = ..., timeline: _Optional[int] = ..., global_step: _Optional[int] = ..., epoch: _Optional[int] = ..., recorded_at_ns: _Optional[int] = ..., causation_id: _Optional[bytes] = ..., correlation_id: _Optional[bytes] = ..., schema_version: _Optional[int] = ..., priority: _Optional[_Union[_leyline_pb2.MessagePriority, str]] = ..., run_started: _Optional[_Union[RunStarted, _Mapping]] = ..., run_resumed: _Optional[_Union[RunResumed, _Mapping]] = ..., run_finished: _Optional[_Union[RunFinished, _Mapping]] = ..., epoch_completed: _Optional[_Union[EpochCompleted, _Mapping]] = ..., decision_timed_out: _Optional[_Union[DecisionTimedOut, _Mapping]] = ..., command_applied: _Optional[_Union[CommandApplied, _Mapping]] = ..., command_rejected: _Optional[_Union[CommandRejected, _Mapping]] = ..., seed_transitioned: _Optional[_Union[SeedTransitioned, _Mapping]] = ..., gate_evaluated: _Optional[_Union[GateEvaluated, _Mapping]] = ..., optimizer_changed: _Optional[_Union[OptimizerChanged, _Mapping]] = ..., learning_rate_changed: _Optional[_Union[LearningRateChanged, _Mapping]] = ..., kernel_attached: _Optional[_Union[KernelAttached, _Mapping]] = ..., kernel_swapped: _Optional[_Union[KernelSwapped, _Mapping]] = ..., checkpoint_saved: _Optional[_Union[CheckpointSaved, _Mapping]] = ..., checkpoint_pruned: _Optional[_Union[CheckpointPruned, _Mapping]] = ..., rolled_back: _Optional[_Union[RolledBack, _Mapping]] = ..., state_digested: _Optional[_Union[StateDigested, _Mapping]] = ..., breaker_changed: _Optional[_Union[BreakerChanged, _Mapping]] = ..., conservative_mode_changed: _Optional[_Union[ConservativeModeChanged, _Mapping]] = ..., seed_absorbed: _Optional[_Union[SeedAbsorbed, _Mapping]] = ..., decision_made: _Optional[_Union[DecisionMade, _Mapping]] = ..., adaptation_command: _Optional[_Union[_leyline_pb2.AdaptationCommand, _Mapping]] = ..., blueprint_registered: _Optional[_Union[BlueprintRegistered, _Mapping]] = ..., blueprint_approved: _Optional[_Union[BlueprintApproved, _Mapping]] = ..., compile_requested: _Optional[_Union[CompileRequested, _Mapping]] = ..., compile_started: _Optional[_Union[CompileStarted, _Mapping]] = ..., compile_finished: _Optional[_Union[CompileFinished, _Mapping]] = ..., compile_failed: _Optional[_Union[CompileFailed, _Mapping]] = ..., compile_parked: _Optional[_Union[CompileParked, _Mapping]] = ..., artifact_stored: _Optional[_Union[ArtifactStored, _Mapping]] = ..., kernel_catalog_update: _Optional[_Union[_leyline_pb2.KernelCatalogUpdate, _Mapping]] = ..., bsds_issued: _Optional[_Union[_leyline_pb2.BSDSIssued, _Mapping]] = ..., bsds_failed: _Optional[_Union[_leyline_pb2.BSDSFailed, _Mapping]] = ..., benchmark_report: _Optional[_Union[_leyline_pb2.BenchmarkReport, _Mapping]] = ..., kernel_prefetch_request: _Optional[_Union[_leyline_pb2.KernelPrefetchRequest, _Mapping]] = ..., kernel_artifact_ready: _Optional[_Union[_leyline_pb2.KernelArtifactReady, _Mapping]] = ..., kernel_artifact_error: _Optional[_Union[_leyline_pb2.KernelArtifactError, _Mapping]] = ..., field_report: _Optional[_Union[_leyline_pb2.FieldReport, _Mapping]] = ..., policy_trained: _Optional[_Union[PolicyTrained, _Mapping]] = ..., policy_validated: _Optional[_Union[PolicyValidated, _Mapping]] = ..., policy_rejected: _Optional[_Union[PolicyRejected, _Mapping]] = ..., policy_promoted: _Optional[_Union[PolicyPromoted, _Mapping]] = ..., policy_loaded: _Optional[_Union[PolicyLoaded, _Mapping]] = ..., policy_update: _Optional[_Union[_leyline_pb2.PolicyUpdate, _Mapping]] = ..., step_sampled: _Optional[_Union[StepSampled, _Mapping]] = ..., telemetry_packet: _Optional[_Union[_leyline_pb2.TelemetryPacket, _Mapping]] = ..., telemetry_shed: _Optional[_Union[TelemetryShed, _Mapping]] = ..., emergency_signal: _Optional[_Union[_leyline_pb2.EmergencySignal, _Mapping]] = ..., security_violation: _Optional[_Union[SecurityViolation, _Mapping]] = ..., alert_fired: _Optional[_Union[AlertFired, _Mapping]] = ..., alert_cleared: _Optional[_Union[AlertCleared, _Mapping]] = ..., alert_notified: _Optional[_Union[AlertNotified, _Mapping]] = ..., alert_acknowledged: _Optional[_Union[AlertAcknowledged, _Mapping]] = ..., alerts_silenced: _Optional[_Union[AlertsSilenced, _Mapping]] = ..., alert_resend_requested: _Optional[_Union[AlertResendRequested, _Mapping]] = ..., dead_lettered: _Optional[_Union[DeadLettered, _Mapping]] = ..., run_requested: _Optional[_Union[RunRequested, _Mapping]] = ..., run_taken: _Optional[_Union[RunTaken, _Mapping]] = ..., run_released: _Optional[_Union[RunReleased, _Mapping]] = ..., worker_seen: _Optional[_Union[WorkerSeen, _Mapping]] = ...) -> None: ...

class SiteDescription(_message.Message):
    __slots__ = ("site", "seed_id", "shape_kind", "shape", "depth", "blend_mode", "options", "width")
    SITE_FIELD_NUMBER: _ClassVar[int]
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    SHAPE_KIND_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    BLEND_MODE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    site: str
    seed_id: str
    shape_kind: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    depth: int
    blend_mode: _leyline_pb2.BlendMode
    options: _containers.RepeatedCompositeFieldContainer[BlueprintOption]
    width: WidthPlace
    def __init__(self, site: _Optional[str] = ..., seed_id: _Optional[str] = ..., shape_kind: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., depth: _Optional[int] = ..., blend_mode: _Optional[_Union[_leyline_pb2.BlendMode, str]] = ..., options: _Optional[_Iterable[_Union[BlueprintOption, _Mapping]]] = ..., width: _Optional[_Union[WidthPlace, _Mapping]] = ...) -> None: ...

class WidthPlace(_message.Message):
    __slots__ = ("consumer", "norms", "units", "parameters_per_unit", "flops_per_unit", "incoming", "bias", "outgoing", "group", "positions", "between", "running", "sections")
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    NORMS_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_PER_UNIT_FIELD_NUMBER: _ClassVar[int]
    FLOPS_PER_UNIT_FIELD_NUMBER: _ClassVar[int]
    INCOMING_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    OUTGOING_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    BETWEEN_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    SECTIONS_FIELD_NUMBER: _ClassVar[int]
    consumer: str
    norms: _containers.RepeatedScalarFieldContainer[str]
    units: int
    parameters_per_unit: int
    flops_per_unit: int
    incoming: _containers.RepeatedScalarFieldContainer[int]
    bias: bool
    outgoing: _containers.RepeatedScalarFieldContainer[int]
    group: int
    positions: _containers.RepeatedScalarFieldContainer[int]
    between: _containers.RepeatedScalarFieldContainer[str]
    running: _containers.RepeatedScalarFieldContainer[bool]
    sections: int
    def __init__(self, consumer: _Optional[str] = ..., norms: _Optional[_Iterable[str]] = ..., units: _Optional[int] = ..., parameters_per_unit: _Optional[int] = ..., flops_per_unit: _Optional[int] = ..., incoming: _Optional[_Iterable[int]] = ..., bias: _Optional[bool] = ..., outgoing: _Optional[_Iterable[int]] = ..., group: _Optional[int] = ..., positions: _Optional[_Iterable[int]] = ..., between: _Optional[_Iterable[str]] = ..., running: _Optional[_Iterable[bool]] = ..., sections: _Optional[int] = ...) -> None: ...

class BlueprintOption(_message.Message):
    __slots__ = ("blueprint_id", "parameters", "flops_per_sample", "risk", "residual", "tier", "stage", "hazard_band", "handling_class", "outcomes")
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    FLOPS_PER_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    RISK_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    HAZARD_BAND_FIELD_NUMBER: _ClassVar[int]
    HANDLING_CLASS_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    blueprint_id: str
    parameters: int
    flops_per_sample: int
    risk: float
    residual: bool
    tier: _leyline_pb2.BlueprintTier
    stage: int
    hazard_band: _leyline_pb2.HazardBand
    handling_class: _leyline_pb2.HandlingClass
    outcomes: BlueprintOutcomes
    def __init__(self, blueprint_id: _Optional[str] = ..., parameters: _Optional[int] = ..., flops_per_sample: _Optional[int] = ..., risk: _Optional[float] = ..., residual: _Optional[bool] = ..., tier: _Optional[_Union[_leyline_pb2.BlueprintTier, str]] = ..., stage: _Optional[int] = ..., hazard_band: _Optional[_Union[_leyline_pb2.HazardBand, str]] = ..., handling_class: _Optional[_Union[_leyline_pb2.HandlingClass, str]] = ..., outcomes: _Optional[_Union[BlueprintOutcomes, _Mapping]] = ...) -> None: ...

class BlueprintOutcomes(_message.Message):
    __slots__ = ("germinated", "fossilized", "culled", "reports", "loss_delta_mean", "loss_delta_stderr")
    GERMINATED_FIELD_NUMBER: _ClassVar[int]
    FOSSILIZED_FIELD_NUMBER: _ClassVar[int]
    CULLED_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    LOSS_DELTA_MEAN_FIELD_NUMBER: _ClassVar[int]
    LOSS_DELTA_STDERR_FIELD_NUMBER: _ClassVar[int]
    germinated: int
    fossilized: int
    culled: int
    reports: int
    loss_delta_mean: float
    loss_delta_stderr: float
    def __init__(self, germinated: _Optional[int] = ..., fossilized: _Optional[int] = ..., culled: _Optional[int] = ..., reports: _Optional[int] = ..., loss_delta_mean: _Optional[float] = ..., loss_delta_stderr: _Optional[float] = ...) -> None: ...

class SiteEvidence(_message.Message):
    __slots__ = ("seed_id", "gradient_norm", "activation_norm", "activation_rank", "dead_fraction", "descent", "candidate_descent")
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_NORM_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_RANK_FIELD_NUMBER: _ClassVar[int]
    DEAD_FRACTION_FIELD_NUMBER: _ClassVar[int]
    DESCENT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_DESCENT_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    gradient_norm: float
    activation_norm: float
    activation_rank: float
    dead_fraction: float
    descent: float
    candidate_descent: float
    def __init__(self, seed_id: _Optional[str] = ..., gradient_norm: _Optional[float] = ..., activation_norm: _Optional[float] = ..., activation_rank: _Optional[float] = ..., dead_fraction: _Optional[float] = ..., descent: _Optional[float] = ..., candidate_descent: _Optional[float] = ...) -> None: ...

class SeedObservation(_message.Message):
    __slots__ = ("seed_id", "stage", "stage_age_epochs", "blueprint_id", "alpha", "life", "culls", "parameters", "gradient_norm", "activation_norm_ratio", "contribution", "contribution_stderr", "loss_before", "gate_ready", "epochs_until_free", "isolation_violations", "closed", "change", "change_stderr", "held")
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STAGE_AGE_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    CULLS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_NORM_RATIO_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_STDERR_FIELD_NUMBER: _ClassVar[int]
    LOSS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    GATE_READY_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_UNTIL_FREE_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    CHANGE_STDERR_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    stage: _leyline_pb2.SeedLifecycleStage
    stage_age_epochs: int
    blueprint_id: str
    alpha: float
    life: int
    culls: int
    parameters: int
    gradient_norm: float
    activation_norm_ratio: float
    contribution: float
    contribution_stderr: float
    loss_before: float
    gate_ready: bool
    epochs_until_free: int
    isolation_violations: int
    closed: bool
    change: float
    change_stderr: float
    held: bool
    def __init__(self, seed_id: _Optional[str] = ..., stage: _Optional[_Union[_leyline_pb2.SeedLifecycleStage, str]] = ..., stage_age_epochs: _Optional[int] = ..., blueprint_id: _Optional[str] = ..., alpha: _Optional[float] = ..., life: _Optional[int] = ..., culls: _Optional[int] = ..., parameters: _Optional[int] = ..., gradient_norm: _Optional[float] = ..., activation_norm_ratio: _Optional[float] = ..., contribution: _Optional[float] = ..., contribution_stderr: _Optional[float] = ..., loss_before: _Optional[float] = ..., gate_ready: _Optional[bool] = ..., epochs_until_free: _Optional[int] = ..., isolation_violations: _Optional[int] = ..., closed: _Optional[bool] = ..., change: _Optional[float] = ..., change_stderr: _Optional[float] = ..., held: _Optional[bool] = ...) -> None: ...

class ObservationWindow(_message.Message):
    __slots__ = ("command_id", "decision_id", "seed_id", "blueprint_id", "opened_epoch", "age_epochs", "loss_at_open", "loss_min", "loss_max", "loss_now", "parameters_added", "hook_ms_mean", "critical", "closed", "ended_as", "policy_version")
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    OPENED_EPOCH_FIELD_NUMBER: _ClassVar[int]
    AGE_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    LOSS_AT_OPEN_FIELD_NUMBER: _ClassVar[int]
    LOSS_MIN_FIELD_NUMBER: _ClassVar[int]
    LOSS_MAX_FIELD_NUMBER: _ClassVar[int]
    LOSS_NOW_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_ADDED_FIELD_NUMBER: _ClassVar[int]
    HOOK_MS_MEAN_FIELD_NUMBER: _ClassVar[int]
    CRITICAL_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    ENDED_AS_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    command_id: bytes
    decision_id: bytes
    seed_id: str
    blueprint_id: str
    opened_epoch: int
    age_epochs: int
    loss_at_open: float
    loss_min: float
    loss_max: float
    loss_now: float
    parameters_added: float
    hook_ms_mean: float
    critical: bool
    closed: bool
    ended_as: str
    policy_version: str
    def __init__(self, command_id: _Optional[bytes] = ..., decision_id: _Optional[bytes] = ..., seed_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., opened_epoch: _Optional[int] = ..., age_epochs: _Optional[int] = ..., loss_at_open: _Optional[float] = ..., loss_min: _Optional[float] = ..., loss_max: _Optional[float] = ..., loss_now: _Optional[float] = ..., parameters_added: _Optional[float] = ..., hook_ms_mean: _Optional[float] = ..., critical: _Optional[bool] = ..., closed: _Optional[bool] = ..., ended_as: _Optional[str] = ..., policy_version: _Optional[str] = ...) -> None: ...

class Measurement(_message.Message):
    __slots__ = ("name", "value", "limit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    limit: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., limit: _Optional[float] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("name", "unit", "lower_is_better")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    LOWER_IS_BETTER_FIELD_NUMBER: _ClassVar[int]
    name: str
    unit: str
    lower_is_better: bool
    def __init__(self, name: _Optional[str] = ..., unit: _Optional[str] = ..., lower_is_better: _Optional[bool] = ...) -> None: ...

class MetricValue(_message.Message):
    __slots__ = ("name", "unit", "lower_is_better", "value", "stderr")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    LOWER_IS_BETTER_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    name: str
    unit: str
    lower_is_better: bool
    value: float
    stderr: float
    def __init__(self, name: _Optional[str] = ..., unit: _Optional[str] = ..., lower_is_better: _Optional[bool] = ..., value: _Optional[float] = ..., stderr: _Optional[float] = ...) -> None: ...

class RunStarted(_message.Message):
    __slots__ = ("task", "config_json", "esper_version", "library_versions", "cpu_capability", "threads", "seeds", "data_fingerprint", "task_source", "weights_digest", "device", "params_host", "flops_per_sample", "epochs", "steps_per_epoch", "policy", "sites", "control_of", "parent_run_id", "parent_sequence", "lifecycle", "train_samples", "probe_samples", "test_samples", "inherited", "fork_change", "machine", "metrics", "script")
    class LibraryVersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class SeedsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TASK_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    ESPER_VERSION_FIELD_NUMBER: _ClassVar[int]
    LIBRARY_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    CPU_CAPABILITY_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    DATA_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TASK_SOURCE_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PARAMS_HOST_FIELD_NUMBER: _ClassVar[int]
    FLOPS_PER_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    STEPS_PER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    CONTROL_OF_FIELD_NUMBER: _ClassVar[int]
    PARENT_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LIFECYCLE_FIELD_NUMBER: _ClassVar[int]
    TRAIN_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    PROBE_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TEST_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    INHERITED_FIELD_NUMBER: _ClassVar[int]
    FORK_CHANGE_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    SCRIPT_FIELD_NUMBER: _ClassVar[int]
    task: str
    config_json: str
    esper_version: str
    library_versions: _containers.ScalarMap[str, str]
    cpu_capability: str
    threads: int
    seeds: _containers.ScalarMap[str, int]
    data_fingerprint: str
    task_source: str
    weights_digest: bytes
    device: str
    params_host: int
    flops_per_sample: int
    epochs: int
    steps_per_epoch: int
    policy: str
    sites: _containers.RepeatedCompositeFieldContainer[SiteDescription]
    control_of: str
    parent_run_id: str
    parent_sequence: int
    lifecycle: str
    train_samples: int
    probe_samples: int
    test_samples: int
    inherited: _containers.RepeatedCompositeFieldContainer[SeedObservation]
    fork_change: str
    machine: Machine
    metrics: _containers.RepeatedCompositeFieldContainer[Metric]
    script: Script
    def __init__(self, task: _Optional[str] = ..., config_json: _Optional[str] = ..., esper_version: _Optional[str] = ..., library_versions: _Optional[_Mapping[str, str]] = ..., cpu_capability: _Optional[str] = ..., threads: _Optional[int] = ..., seeds: _Optional[_Mapping[str, int]] = ..., data_fingerprint: _Optional[str] = ..., task_source: _Optional[str] = ..., weights_digest: _Optional[bytes] = ..., device: _Optional[str] = ..., params_host: _Optional[int] = ..., flops_per_sample: _Optional[int] = ..., epochs: _Optional[int] = ..., steps_per_epoch: _Optional[int] = ..., policy: _Optional[str] = ..., sites: _Optional[_Iterable[_Union[SiteDescription, _Mapping]]] = ..., control_of: _Optional[str] = ..., parent_run_id: _Optional[str] = ..., parent_sequence: _Optional[int] = ..., lifecycle: _Optional[str] = ..., train_samples: _Optional[int] = ..., probe_samples: _Optional[int] = ..., test_samples: _Optional[int] = ..., inherited: _Optional[_Iterable[_Union[SeedObservation, _Mapping]]] = ..., fork_change: _Optional[str] = ..., machine: _Optional[_Union[Machine, _Mapping]] = ..., metrics: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ..., script: _Optional[_Union[Script, _Mapping]] = ...) -> None: ...

class Script(_message.Message):
    __slots__ = ("path", "arguments", "folder", "sources", "commit", "diff", "environment", "ranks", "before")
    class SourcesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class EnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PATH_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    DIFF_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    path: str
    arguments: _containers.RepeatedScalarFieldContainer[str]
    folder: str
    sources: _containers.ScalarMap[str, str]
    commit: str
    diff: str
    environment: _containers.ScalarMap[str, str]
    ranks: int
    before: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, path: _Optional[str] = ..., arguments: _Optional[_Iterable[str]] = ..., folder: _Optional[str] = ..., sources: _Optional[_Mapping[str, str]] = ..., commit: _Optional[str] = ..., diff: _Optional[str] = ..., environment: _Optional[_Mapping[str, str]] = ..., ranks: _Optional[int] = ..., before: _Optional[_Iterable[str]] = ...) -> None: ...

class Machine(_message.Message):
    __slots__ = ("esper_version", "library_versions", "torch_build", "processor", "cpu_capability", "threads", "device", "process")
    class LibraryVersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ESPER_VERSION_FIELD_NUMBER: _ClassVar[int]
    LIBRARY_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    TORCH_BUILD_FIELD_NUMBER: _ClassVar[int]
    PROCESSOR_FIELD_NUMBER: _ClassVar[int]
    CPU_CAPABILITY_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    esper_version: str
    library_versions: _containers.ScalarMap[str, str]
    torch_build: str
    processor: str
    cpu_capability: str
    threads: int
    device: str
    process: TrainerProcess
    def __init__(self, esper_version: _Optional[str] = ..., library_versions: _Optional[_Mapping[str, str]] = ..., torch_build: _Optional[str] = ..., processor: _Optional[str] = ..., cpu_capability: _Optional[str] = ..., threads: _Optional[int] = ..., device: _Optional[str] = ..., process: _Optional[_Union[TrainerProcess, _Mapping]] = ...) -> None: ...

class TrainerProcess(_message.Message):
    __slots__ = ("boot", "pid", "started_ticks")
    BOOT_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_TICKS_FIELD_NUMBER: _ClassVar[int]
    boot: str
    pid: int
    started_ticks: int
    def __init__(self, boot: _Optional[str] = ..., pid: _Optional[int] = ..., started_ticks: _Optional[int] = ...) -> None: ...

class RunResumed(_message.Message):
    __slots__ = ("accepted_sequence", "from_step", "checkpoint_ref", "superseded", "reason", "machine", "script")
    ACCEPTED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FROM_STEP_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_REF_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    SCRIPT_FIELD_NUMBER: _ClassVar[int]
    accepted_sequence: int
    from_step: int
    checkpoint_ref: str
    superseded: bool
    reason: str
    machine: Machine
    script: Script
    def __init__(self, accepted_sequence: _Optional[int] = ..., from_step: _Optional[int] = ..., checkpoint_ref: _Optional[str] = ..., superseded: _Optional[bool] = ..., reason: _Optional[str] = ..., machine: _Optional[_Union[Machine, _Mapping]] = ..., script: _Optional[_Union[Script, _Mapping]] = ...) -> None: ...

class RunFinished(_message.Message):
    __slots__ = ("status", "reason", "test_accuracy", "test_loss", "params_final", "flops", "germinated", "fossilized", "culled", "telemetry_shed", "wall_s", "side_pass_flops", "probe_flops", "metrics", "unproven", "test_accuracy_without", "test_loss_without", "metrics_without")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TEST_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    TEST_LOSS_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FINAL_FIELD_NUMBER: _ClassVar[int]
    FLOPS_FIELD_NUMBER: _ClassVar[int]
    GERMINATED_FIELD_NUMBER: _ClassVar[int]
    FOSSILIZED_FIELD_NUMBER: _ClassVar[int]
    CULLED_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_SHED_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
    SIDE_PASS_FLOPS_FIELD_NUMBER: _ClassVar[int]
    PROBE_FLOPS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    UNPROVEN_FIELD_NUMBER: _ClassVar[int]
    TEST_ACCURACY_WITHOUT_FIELD_NUMBER: _ClassVar[int]
    TEST_LOSS_WITHOUT_FIELD_NUMBER: _ClassVar[int]
    METRICS_WITHOUT_FIELD_NUMBER: _ClassVar[int]
    status: str
    reason: str
    test_accuracy: float
    test_loss: float
    params_final: int
    flops: float
    germinated: int
    fossilized: int
    culled: int
    telemetry_shed: int
    wall_s: float
    side_pass_flops: float
    probe_flops: float
    metrics: _containers.RepeatedCompositeFieldContainer[MetricValue]
    unproven: _containers.RepeatedScalarFieldContainer[str]
    test_accuracy_without: float
    test_loss_without: float
    metrics_without: _containers.RepeatedCompositeFieldContainer[MetricValue]
    def __init__(self, status: _Optional[str] = ..., reason: _Optional[str] = ..., test_accuracy: _Optional[float] = ..., test_loss: _Optional[float] = ..., params_final: _Optional[int] = ..., flops: _Optional[float] = ..., germinated: _Optional[int] = ..., fossilized: _Optional[int] = ..., culled: _Optional[int] = ..., telemetry_shed: _Optional[int] = ..., wall_s: _Optional[float] = ..., side_pass_flops: _Optional[float] = ..., probe_flops: _Optional[float] = ..., metrics: _Optional[_Iterable[_Union[MetricValue, _Mapping]]] = ..., unproven: _Optional[_Iterable[str]] = ..., test_accuracy_without: _Optional[float] = ..., test_loss_without: _Optional[float] = ..., metrics_without: _Optional[_Iterable[_Union[MetricValue, _Mapping]]] = ...) -> None: ...

class EpochCompleted(_message.Message):
    __slots__ = ("state", "seeds", "evidence", "windows", "probe_loss_history", "epochs_total", "params", "params_host", "params_budget", "policy", "policy_seed", "sites", "probe_loss_stderr", "epochs_since_structural_change", "conservative", "duration_s", "hook_ms_before", "flops", "lifecycle", "rate_policy", "decay_from_epoch", "flops_training", "flops_measuring", "metrics", "action_set", "risk_memory", "last_decision", "normalizer", "hook_contended_ms_before")
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    PROBE_LOSS_HISTORY_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    PARAMS_HOST_FIELD_NUMBER: _ClassVar[int]
    PARAMS_BUDGET_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    POLICY_SEED_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    PROBE_LOSS_STDERR_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_SINCE_STRUCTURAL_CHANGE_FIELD_NUMBER: _ClassVar[int]
    CONSERVATIVE_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    HOOK_MS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    FLOPS_FIELD_NUMBER: _ClassVar[int]
    LIFECYCLE_FIELD_NUMBER: _ClassVar[int]
    RATE_POLICY_FIELD_NUMBER: _ClassVar[int]
    DECAY_FROM_EPOCH_FIELD_NUMBER: _ClassVar[int]
    FLOPS_TRAINING_FIELD_NUMBER: _ClassVar[int]
    FLOPS_MEASURING_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    ACTION_SET_FIELD_NUMBER: _ClassVar[int]
    RISK_MEMORY_FIELD_NUMBER: _ClassVar[int]
    LAST_DECISION_FIELD_NUMBER: _ClassVar[int]
    NORMALIZER_FIELD_NUMBER: _ClassVar[int]
    HOOK_CONTENDED_MS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    state: _leyline_pb2.SystemStatePacket
    seeds: _containers.RepeatedCompositeFieldContainer[SeedObservation]
    evidence: _containers.RepeatedCompositeFieldContainer[SiteEvidence]
    windows: _containers.RepeatedCompositeFieldContainer[ObservationWindow]
    probe_loss_history: _containers.RepeatedScalarFieldContainer[float]
    epochs_total: int
    params: int
    params_host: int
    params_budget: int
    policy: str
    policy_seed: int
    sites: _containers.RepeatedCompositeFieldContainer[SiteDescription]
    probe_loss_stderr: float
    epochs_since_structural_change: int
    conservative: bool
    duration_s: float
    hook_ms_before: float
    flops: float
    lifecycle: str
    rate_policy: str
    decay_from_epoch: int
    flops_training: float
    flops_measuring: float
    metrics: _containers.RepeatedCompositeFieldContainer[MetricValue]
    action_set: int
    risk_memory: RiskMemory
    last_decision: LastDecision
    normalizer: Normalizer
    hook_contended_ms_before: float
    def __init__(self, state: _Optional[_Union[_leyline_pb2.SystemStatePacket, _Mapping]] = ..., seeds: _Optional[_Iterable[_Union[SeedObservation, _Mapping]]] = ..., evidence: _Optional[_Iterable[_Union[SiteEvidence, _Mapping]]] = ..., windows: _Optional[_Iterable[_Union[ObservationWindow, _Mapping]]] = ..., probe_loss_history: _Optional[_Iterable[float]] = ..., epochs_total: _Optional[int] = ..., params: _Optional[int] = ..., params_host: _Optional[int] = ..., params_budget: _Optional[int] = ..., policy: _Optional[str] = ..., policy_seed: _Optional[int] = ..., sites: _Optional[_Iterable[_Union[SiteDescription, _Mapping]]] = ..., probe_loss_stderr: _Optional[float] = ..., epochs_since_structural_change: _Optional[int] = ..., conservative: _Optional[bool] = ..., duration_s: _Optional[float] = ..., hook_ms_before: _Optional[float] = ..., flops: _Optional[float] = ..., lifecycle: _Optional[str] = ..., rate_policy: _Optional[str] = ..., decay_from_epoch: _Optional[int] = ..., flops_training: _Optional[float] = ..., flops_measuring: _Optional[float] = ..., metrics: _Optional[_Iterable[_Union[MetricValue, _Mapping]]] = ..., action_set: _Optional[int] = ..., risk_memory: _Optional[_Union[RiskMemory, _Mapping]] = ..., last_decision: _Optional[_Union[LastDecision, _Mapping]] = ..., normalizer: _Optional[_Union[Normalizer, _Mapping]] = ..., hook_contended_ms_before: _Optional[float] = ...) -> None: ...

class Normalizer(_message.Message):
    __slots__ = ("mean", "variance", "updates")
    MEAN_FIELD_NUMBER: _ClassVar[int]
    VARIANCE_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    mean: _containers.RepeatedScalarFieldContainer[float]
    variance: _containers.RepeatedScalarFieldContainer[float]
    updates: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, mean: _Optional[_Iterable[float]] = ..., variance: _Optional[_Iterable[float]] = ..., updates: _Optional[_Iterable[int]] = ...) -> None: ...

class RiskMemory(_message.Message):
    __slots__ = ("thresholds", "out_of_bounds", "tuned_epoch", "level", "conservative_since", "conservative_cause", "stable_epochs", "outcomes", "predicted", "failed", "breakers", "accuracy")
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_BOUNDS_FIELD_NUMBER: _ClassVar[int]
    TUNED_EPOCH_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    CONSERVATIVE_SINCE_FIELD_NUMBER: _ClassVar[int]
    CONSERVATIVE_CAUSE_FIELD_NUMBER: _ClassVar[int]
    STABLE_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    BREAKERS_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    thresholds: _containers.RepeatedScalarFieldContainer[float]
    out_of_bounds: _containers.RepeatedScalarFieldContainer[int]
    tuned_epoch: int
    level: int
    conservative_since: int
    conservative_cause: str
    stable_epochs: int
    outcomes: int
    predicted: bytes
    failed: bytes
    breakers: _containers.RepeatedCompositeFieldContainer[RiskBreaker]
    accuracy: float
    def __init__(self, thresholds: _Optional[_Iterable[float]] = ..., out_of_bounds: _Optional[_Iterable[int]] = ..., tuned_epoch: _Optional[int] = ..., level: _Optional[int] = ..., conservative_since: _Optional[int] = ..., conservative_cause: _Optional[str] = ..., stable_epochs: _Optional[int] = ..., outcomes: _Optional[int] = ..., predicted: _Optional[bytes] = ..., failed: _Optional[bytes] = ..., breakers: _Optional[_Iterable[_Union[RiskBreaker, _Mapping]]] = ..., accuracy: _Optional[float] = ...) -> None: ...

class RiskBreaker(_message.Message):
    __slots__ = ("name", "state", "failures", "opened_epoch")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    OPENED_EPOCH_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: _leyline_pb2.CircuitBreakerState
    failures: int
    opened_epoch: int
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[_leyline_pb2.CircuitBreakerState, str]] = ..., failures: _Optional[int] = ..., opened_epoch: _Optional[int] = ...) -> None: ...

class LastDecision(_message.Message):
    __slots__ = ("packet_id", "decision_id", "command_id", "outcome", "reason", "epoch", "loss", "policy_version", "command_type", "ended")
    PACKET_ID_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    COMMAND_TYPE_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    packet_id: bytes
    decision_id: bytes
    command_id: bytes
    outcome: str
    reason: str
    epoch: int
    loss: float
    policy_version: str
    command_type: _leyline_pb2.CommandType
    ended: str
    def __init__(self, packet_id: _Optional[bytes] = ..., decision_id: _Optional[bytes] = ..., command_id: _Optional[bytes] = ..., outcome: _Optional[str] = ..., reason: _Optional[str] = ..., epoch: _Optional[int] = ..., loss: _Optional[float] = ..., policy_version: _Optional[str] = ..., command_type: _Optional[_Union[_leyline_pb2.CommandType, str]] = ..., ended: _Optional[str] = ...) -> None: ...

class DecisionTimedOut(_message.Message):
    __slots__ = ("packet_id", "waited_ms")
    PACKET_ID_FIELD_NUMBER: _ClassVar[int]
    WAITED_MS_FIELD_NUMBER: _ClassVar[int]
    packet_id: bytes
    waited_ms: float
    def __init__(self, packet_id: _Optional[bytes] = ..., waited_ms: _Optional[float] = ...) -> None: ...

class CommandApplied(_message.Message):
    __slots__ = ("command_id", "decision_id", "command_type", "operation", "seed_id", "blueprint_id", "parameters", "apply_ms", "origin", "told", "paused")
    class ParametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_TYPE_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    APPLY_MS_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    TOLD_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    command_id: bytes
    decision_id: bytes
    command_type: _leyline_pb2.CommandType
    operation: _leyline_pb2.SeedOperation
    seed_id: str
    blueprint_id: str
    parameters: _containers.ScalarMap[str, float]
    apply_ms: float
    origin: str
    told: str
    paused: bool
    def __init__(self, command_id: _Optional[bytes] = ..., decision_id: _Optional[bytes] = ..., command_type: _Optional[_Union[_leyline_pb2.CommandType, str]] = ..., operation: _Optional[_Union[_leyline_pb2.SeedOperation, str]] = ..., seed_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., parameters: _Optional[_Mapping[str, float]] = ..., apply_ms: _Optional[float] = ..., origin: _Optional[str] = ..., told: _Optional[str] = ..., paused: _Optional[bool] = ...) -> None: ...

class CommandRejected(_message.Message):
    __slots__ = ("command_id", "reason", "detail", "critical", "seed_id")
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    CRITICAL_FIELD_NUMBER: _ClassVar[int]
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    command_id: bytes
    reason: str
    detail: str
    critical: bool
    seed_id: str
    def __init__(self, command_id: _Optional[bytes] = ..., reason: _Optional[str] = ..., detail: _Optional[str] = ..., critical: _Optional[bool] = ..., seed_id: _Optional[str] = ...) -> None: ...

class SeedTransitioned(_message.Message):
    __slots__ = ("seed_id", "site", "from_stage", "to_stage", "reason", "blueprint_id", "life", "alpha", "parameters", "command_id")
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    FROM_STAGE_FIELD_NUMBER: _ClassVar[int]
    TO_STAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    site: str
    from_stage: _leyline_pb2.SeedLifecycleStage
    to_stage: _leyline_pb2.SeedLifecycleStage
    reason: str
    blueprint_id: str
    life: int
    alpha: float
    parameters: int
    command_id: bytes
    def __init__(self, seed_id: _Optional[str] = ..., site: _Optional[str] = ..., from_stage: _Optional[_Union[_leyline_pb2.SeedLifecycleStage, str]] = ..., to_stage: _Optional[_Union[_leyline_pb2.SeedLifecycleStage, str]] = ..., reason: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., life: _Optional[int] = ..., alpha: _Optional[float] = ..., parameters: _Optional[int] = ..., command_id: _Optional[bytes] = ...) -> None: ...

class SeedAbsorbed(_message.Message):
    __slots__ = ("seed_id", "site", "consumer", "blueprint_id", "life", "units_before", "units", "parameters", "opened")
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    UNITS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    site: str
    consumer: str
    blueprint_id: str
    life: int
    units_before: int
    units: int
    parameters: int
    opened: str
    def __init__(self, seed_id: _Optional[str] = ..., site: _Optional[str] = ..., consumer: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., life: _Optional[int] = ..., units_before: _Optional[int] = ..., units: _Optional[int] = ..., parameters: _Optional[int] = ..., opened: _Optional[str] = ...) -> None: ...

class GateEvaluated(_message.Message):
    __slots__ = ("seed_id", "gate", "passed", "reason", "measurements", "stage", "life")
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MEASUREMENTS_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    gate: _leyline_pb2.SeedLifecycleGate
    passed: bool
    reason: str
    measurements: _containers.RepeatedCompositeFieldContainer[Measurement]
    stage: _leyline_pb2.SeedLifecycleStage
    life: int
    def __init__(self, seed_id: _Optional[str] = ..., gate: _Optional[_Union[_leyline_pb2.SeedLifecycleGate, str]] = ..., passed: _Optional[bool] = ..., reason: _Optional[str] = ..., measurements: _Optional[_Iterable[_Union[Measurement, _Mapping]]] = ..., stage: _Optional[_Union[_leyline_pb2.SeedLifecycleStage, str]] = ..., life: _Optional[int] = ...) -> None: ...

class OptimizerChanged(_message.Message):
    __slots__ = ("change", "optimizer", "group", "parameters", "hyperparameters", "duration_ms")
    class HyperparametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    HYPERPARAMETERS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    change: str
    optimizer: str
    group: str
    parameters: int
    hyperparameters: _containers.ScalarMap[str, float]
    duration_ms: float
    def __init__(self, change: _Optional[str] = ..., optimizer: _Optional[str] = ..., group: _Optional[str] = ..., parameters: _Optional[int] = ..., hyperparameters: _Optional[_Mapping[str, float]] = ..., duration_ms: _Optional[float] = ...) -> None: ...

class LearningRateChanged(_message.Message):
    __slots__ = ("group", "old_lr", "new_lr", "policy", "reason")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    OLD_LR_FIELD_NUMBER: _ClassVar[int]
    NEW_LR_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    group: str
    old_lr: float
    new_lr: float
    policy: str
    reason: str
    def __init__(self, group: _Optional[str] = ..., old_lr: _Optional[float] = ..., new_lr: _Optional[float] = ..., policy: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class KernelAttached(_message.Message):
    __slots__ = ("seed_id", "blueprint_id", "artifact_ref", "kernel_digest", "form", "parameters", "module_parameters", "flops_per_sample", "attach_ms", "blend_mode", "trouble")
    class ParametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_REF_FIELD_NUMBER: _ClassVar[int]
    KERNEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    MODULE_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    FLOPS_PER_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    ATTACH_MS_FIELD_NUMBER: _ClassVar[int]
    BLEND_MODE_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    blueprint_id: str
    artifact_ref: str
    kernel_digest: bytes
    form: str
    parameters: _containers.ScalarMap[str, float]
    module_parameters: int
    flops_per_sample: int
    attach_ms: float
    blend_mode: _leyline_pb2.BlendMode
    trouble: str
    def __init__(self, seed_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., artifact_ref: _Optional[str] = ..., kernel_digest: _Optional[bytes] = ..., form: _Optional[str] = ..., parameters: _Optional[_Mapping[str, float]] = ..., module_parameters: _Optional[int] = ..., flops_per_sample: _Optional[int] = ..., attach_ms: _Optional[float] = ..., blend_mode: _Optional[_Union[_leyline_pb2.BlendMode, str]] = ..., trouble: _Optional[str] = ...) -> None: ...

class KernelSwapped(_message.Message):
    __slots__ = ("seed_id", "blueprint_id", "from_form", "to_form", "artifact_ref", "max_difference")
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_FORM_FIELD_NUMBER: _ClassVar[int]
    TO_FORM_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_REF_FIELD_NUMBER: _ClassVar[int]
    MAX_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    blueprint_id: str
    from_form: str
    to_form: str
    artifact_ref: str
    max_difference: float
    def __init__(self, seed_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., from_form: _Optional[str] = ..., to_form: _Optional[str] = ..., artifact_ref: _Optional[str] = ..., max_difference: _Optional[float] = ...) -> None: ...

class CheckpointSaved(_message.Message):
    __slots__ = ("ref", "step", "bytes", "state_digest", "upto_sequence", "reason", "duration_ms")
    REF_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    STATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    UPTO_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    ref: str
    step: int
    bytes: int
    state_digest: bytes
    upto_sequence: int
    reason: str
    duration_ms: float
    def __init__(self, ref: _Optional[str] = ..., step: _Optional[int] = ..., bytes: _Optional[int] = ..., state_digest: _Optional[bytes] = ..., upto_sequence: _Optional[int] = ..., reason: _Optional[str] = ..., duration_ms: _Optional[float] = ...) -> None: ...

class CheckpointPruned(_message.Message):
    __slots__ = ("ref", "step", "bytes_freed")
    REF_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    BYTES_FREED_FIELD_NUMBER: _ClassVar[int]
    ref: str
    step: int
    bytes_freed: int
    def __init__(self, ref: _Optional[str] = ..., step: _Optional[int] = ..., bytes_freed: _Optional[int] = ...) -> None: ...

class RolledBack(_message.Message):
    __slots__ = ("level", "reason", "from_step", "to_step", "to_sequence", "new_timeline", "checkpoint_ref", "state_digest", "prepare_ms", "commit_ms", "confirm_ms", "deadline_exceeded", "to_epoch", "seed_id")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FROM_STEP_FIELD_NUMBER: _ClassVar[int]
    TO_STEP_FIELD_NUMBER: _ClassVar[int]
    TO_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NEW_TIMELINE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_REF_FIELD_NUMBER: _ClassVar[int]
    STATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PREPARE_MS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_MS_FIELD_NUMBER: _ClassVar[int]
    CONFIRM_MS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_EXCEEDED_FIELD_NUMBER: _ClassVar[int]
    TO_EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    level: str
    reason: str
    from_step: int
    to_step: int
    to_sequence: int
    new_timeline: int
    checkpoint_ref: str
    state_digest: bytes
    prepare_ms: float
    commit_ms: float
    confirm_ms: float
    deadline_exceeded: bool
    to_epoch: int
    seed_id: str
    def __init__(self, level: _Optional[str] = ..., reason: _Optional[str] = ..., from_step: _Optional[int] = ..., to_step: _Optional[int] = ..., to_sequence: _Optional[int] = ..., new_timeline: _Optional[int] = ..., checkpoint_ref: _Optional[str] = ..., state_digest: _Optional[bytes] = ..., prepare_ms: _Optional[float] = ..., commit_ms: _Optional[float] = ..., confirm_ms: _Optional[float] = ..., deadline_exceeded: _Optional[bool] = ..., to_epoch: _Optional[int] = ..., seed_id: _Optional[str] = ...) -> None: ...

class StateDigested(_message.Message):
    __slots__ = ("root", "tensors_ref", "tensors", "occasion")
    ROOT_FIELD_NUMBER: _ClassVar[int]
    TENSORS_REF_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    OCCASION_FIELD_NUMBER: _ClassVar[int]
    root: bytes
    tensors_ref: str
    tensors: int
    occasion: str
    def __init__(self, root: _Optional[bytes] = ..., tensors_ref: _Optional[str] = ..., tensors: _Optional[int] = ..., occasion: _Optional[str] = ...) -> None: ...

class BreakerChanged(_message.Message):
    __slots__ = ("breaker", "from_state", "to_state", "reason", "failures")
    BREAKER_FIELD_NUMBER: _ClassVar[int]
    FROM_STATE_FIELD_NUMBER: _ClassVar[int]
    TO_STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    breaker: str
    from_state: _leyline_pb2.CircuitBreakerState
    to_state: _leyline_pb2.CircuitBreakerState
    reason: str
    failures: int
    def __init__(self, breaker: _Optional[str] = ..., from_state: _Optional[_Union[_leyline_pb2.CircuitBreakerState, str]] = ..., to_state: _Optional[_Union[_leyline_pb2.CircuitBreakerState, str]] = ..., reason: _Optional[str] = ..., failures: _Optional[int] = ...) -> None: ...

class ConservativeModeChanged(_message.Message):
    __slots__ = ("entered", "reason")
    ENTERED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    entered: bool
    reason: str
    def __init__(self, entered: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class DecisionMade(_message.Message):
    __slots__ = ("packet_id", "policy", "policy_version", "policy_hash", "observation", "observation_ref", "observation_hash", "action_mask", "logits", "draw", "action", "actions", "reason", "command_id", "risk", "risk_reasons", "latency_ms", "value_estimate", "verdicts", "risk_engine", "risk_level", "replaced", "policy_ref", "risk_memory")
    PACKET_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    POLICY_HASH_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_REF_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_HASH_FIELD_NUMBER: _ClassVar[int]
    ACTION_MASK_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    DRAW_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    RISK_FIELD_NUMBER: _ClassVar[int]
    RISK_REASONS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    VALUE_ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    RISK_ENGINE_FIELD_NUMBER: _ClassVar[int]
    RISK_LEVEL_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    POLICY_REF_FIELD_NUMBER: _ClassVar[int]
    RISK_MEMORY_FIELD_NUMBER: _ClassVar[int]
    packet_id: bytes
    policy: str
    policy_version: str
    policy_hash: bytes
    observation: bytes
    observation_ref: str
    observation_hash: bytes
    action_mask: bytes
    logits: _containers.RepeatedScalarFieldContainer[float]
    draw: float
    action: int
    actions: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    command_id: bytes
    risk: float
    risk_reasons: _containers.RepeatedScalarFieldContainer[str]
    latency_ms: float
    value_estimate: float
    verdicts: _containers.RepeatedCompositeFieldContainer[RiskVerdict]
    risk_engine: int
    risk_level: int
    replaced: str
    policy_ref: str
    risk_memory: RiskMemory
    def __init__(self, packet_id: _Optional[bytes] = ..., policy: _Optional[str] = ..., policy_version: _Optional[str] = ..., policy_hash: _Optional[bytes] = ..., observation: _Optional[bytes] = ..., observation_ref: _Optional[str] = ..., observation_hash: _Optional[bytes] = ..., action_mask: _Optional[bytes] = ..., logits: _Optional[_Iterable[float]] = ..., draw: _Optional[float] = ..., action: _Optional[int] = ..., actions: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ..., command_id: _Optional[bytes] = ..., risk: _Optional[float] = ..., risk_reasons: _Optional[_Iterable[str]] = ..., latency_ms: _Optional[float] = ..., value_estimate: _Optional[float] = ..., verdicts: _Optional[_Iterable[_Union[RiskVerdict, _Mapping]]] = ..., risk_engine: _Optional[int] = ..., risk_level: _Optional[int] = ..., replaced: _Optional[str] = ..., policy_ref: _Optional[str] = ..., risk_memory: _Optional[_Union[RiskMemory, _Mapping]] = ...) -> None: ...

class RiskVerdict(_message.Message):
    __slots__ = ("evaluator", "effect", "reason", "value", "limit")
    EVALUATOR_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    evaluator: str
    effect: str
    reason: str
    value: float
    limit: float
    def __init__(self, evaluator: _Optional[str] = ..., effect: _Optional[str] = ..., reason: _Optional[str] = ..., value: _Optional[float] = ..., limit: _Optional[float] = ...) -> None: ...

class BlueprintRegistered(_message.Message):
    __slots__ = ("descriptor", "shape_kinds", "tags")
    DESCRIPTOR_FIELD_NUMBER: _ClassVar[int]
    SHAPE_KINDS_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    descriptor: _leyline_pb2.BlueprintDescriptor
    shape_kinds: _containers.RepeatedScalarFieldContainer[str]
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, descriptor: _Optional[_Union[_leyline_pb2.BlueprintDescriptor, _Mapping]] = ..., shape_kinds: _Optional[_Iterable[str]] = ..., tags: _Optional[_Iterable[str]] = ...) -> None: ...

class BlueprintApproved(_message.Message):
    __slots__ = ("blueprint_id", "approved", "by", "why")
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    APPROVED_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    blueprint_id: str
    approved: bool
    by: str
    why: str
    def __init__(self, blueprint_id: _Optional[str] = ..., approved: _Optional[bool] = ..., by: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class CompileRequested(_message.Message):
    __slots__ = ("job_id", "blueprint_id", "pipeline", "shape", "shape_kind", "parameters")
    class ParametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_KIND_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    blueprint_id: str
    pipeline: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    shape_kind: str
    parameters: _containers.ScalarMap[str, float]
    def __init__(self, job_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., pipeline: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., shape_kind: _Optional[str] = ..., parameters: _Optional[_Mapping[str, float]] = ...) -> None: ...

class CompileStarted(_message.Message):
    __slots__ = ("job_id", "blueprint_id", "attempt", "pipeline")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    blueprint_id: str
    attempt: int
    pipeline: str
    def __init__(self, job_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., attempt: _Optional[int] = ..., pipeline: _Optional[str] = ...) -> None: ...

class CompileFinished(_message.Message):
    __slots__ = ("job_id", "blueprint_id", "artifact_ref", "form", "compile_ms", "eager_us", "compiled_us", "prewarm_p50_ms", "prewarm_p95_ms", "attempt")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_REF_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    COMPILE_MS_FIELD_NUMBER: _ClassVar[int]
    EAGER_US_FIELD_NUMBER: _ClassVar[int]
    COMPILED_US_FIELD_NUMBER: _ClassVar[int]
    PREWARM_P50_MS_FIELD_NUMBER: _ClassVar[int]
    PREWARM_P95_MS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    blueprint_id: str
    artifact_ref: str
    form: str
    compile_ms: float
    eager_us: float
    compiled_us: float
    prewarm_p50_ms: float
    prewarm_p95_ms: float
    attempt: int
    def __init__(self, job_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., artifact_ref: _Optional[str] = ..., form: _Optional[str] = ..., compile_ms: _Optional[float] = ..., eager_us: _Optional[float] = ..., compiled_us: _Optional[float] = ..., prewarm_p50_ms: _Optional[float] = ..., prewarm_p95_ms: _Optional[float] = ..., attempt: _Optional[int] = ...) -> None: ...

class CompileFailed(_message.Message):
    __slots__ = ("job_id", "blueprint_id", "reason", "attempt", "will_retry")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    WILL_RETRY_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    blueprint_id: str
    reason: str
    attempt: int
    will_retry: bool
    def __init__(self, job_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., reason: _Optional[str] = ..., attempt: _Optional[int] = ..., will_retry: _Optional[bool] = ...) -> None: ...

class CompileParked(_message.Message):
    __slots__ = ("job_id", "blueprint_id", "reason")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    blueprint_id: str
    reason: str
    def __init__(self, job_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ArtifactStored(_message.Message):
    __slots__ = ("blueprint_id", "artifact_ref", "artifact_version", "checksum", "guard_digest", "bytes", "form")
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_REF_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_VERSION_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    GUARD_DIGEST_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    blueprint_id: str
    artifact_ref: str
    artifact_version: int
    checksum: str
    guard_digest: str
    bytes: int
    form: str
    def __init__(self, blueprint_id: _Optional[str] = ..., artifact_ref: _Optional[str] = ..., artifact_version: _Optional[int] = ..., checksum: _Optional[str] = ..., guard_digest: _Optional[str] = ..., bytes: _Optional[int] = ..., form: _Optional[str] = ...) -> None: ...

class PolicyTrained(_message.Message):
    __slots__ = ("policy_id", "policy_version", "weights_ref", "experiences", "metrics", "provenance")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class ProvenanceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    POLICY_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_REF_FIELD_NUMBER: _ClassVar[int]
    EXPERIENCES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    policy_id: str
    policy_version: str
    weights_ref: str
    experiences: int
    metrics: _containers.ScalarMap[str, float]
    provenance: _containers.ScalarMap[str, str]
    def __init__(self, policy_id: _Optional[str] = ..., policy_version: _Optional[str] = ..., weights_ref: _Optional[str] = ..., experiences: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., provenance: _Optional[_Mapping[str, str]] = ...) -> None: ...

class PolicyValidated(_message.Message):
    __slots__ = ("policy_id", "passed", "metrics", "reason", "policy_version", "weights_ref", "gates", "against_ref")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    POLICY_ID_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_REF_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    AGAINST_REF_FIELD_NUMBER: _ClassVar[int]
    policy_id: str
    passed: bool
    metrics: _containers.ScalarMap[str, float]
    reason: str
    policy_version: str
    weights_ref: str
    gates: _containers.RepeatedCompositeFieldContainer[PolicyGate]
    against_ref: str
    def __init__(self, policy_id: _Optional[str] = ..., passed: _Optional[bool] = ..., metrics: _Optional[_Mapping[str, float]] = ..., reason: _Optional[str] = ..., policy_version: _Optional[str] = ..., weights_ref: _Optional[str] = ..., gates: _Optional[_Iterable[_Union[PolicyGate, _Mapping]]] = ..., against_ref: _Optional[str] = ...) -> None: ...

class PolicyGate(_message.Message):
    __slots__ = ("name", "passed", "detail", "figures")
    class FiguresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    name: str
    passed: bool
    detail: str
    figures: _containers.ScalarMap[str, float]
    def __init__(self, name: _Optional[str] = ..., passed: _Optional[bool] = ..., detail: _Optional[str] = ..., figures: _Optional[_Mapping[str, float]] = ...) -> None: ...

class PolicyRejected(_message.Message):
    __slots__ = ("policy_id", "reason", "detail", "process", "weights_ref", "policy_version")
    POLICY_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_REF_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    policy_id: str
    reason: str
    detail: str
    process: str
    weights_ref: str
    policy_version: str
    def __init__(self, policy_id: _Optional[str] = ..., reason: _Optional[str] = ..., detail: _Optional[str] = ..., process: _Optional[str] = ..., weights_ref: _Optional[str] = ..., policy_version: _Optional[str] = ...) -> None: ...

class PolicyPromoted(_message.Message):
    __slots__ = ("policy_id", "policy_version", "by", "weights_ref", "architecture", "issued_at_ns", "previous_ref", "share", "rolled_back_from", "reason")
    POLICY_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_REF_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_REF_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    ROLLED_BACK_FROM_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    policy_id: str
    policy_version: str
    by: str
    weights_ref: str
    architecture: str
    issued_at_ns: int
    previous_ref: str
    share: float
    rolled_back_from: str
    reason: str
    def __init__(self, policy_id: _Optional[str] = ..., policy_version: _Optional[str] = ..., by: _Optional[str] = ..., weights_ref: _Optional[str] = ..., architecture: _Optional[str] = ..., issued_at_ns: _Optional[int] = ..., previous_ref: _Optional[str] = ..., share: _Optional[float] = ..., rolled_back_from: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class PolicyLoaded(_message.Message):
    __slots__ = ("policy_id", "policy_version", "process", "weights_ref", "previous_ref")
    POLICY_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_REF_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_REF_FIELD_NUMBER: _ClassVar[int]
    policy_id: str
    policy_version: str
    process: str
    weights_ref: str
    previous_ref: str
    def __init__(self, policy_id: _Optional[str] = ..., policy_version: _Optional[str] = ..., process: _Optional[str] = ..., weights_ref: _Optional[str] = ..., previous_ref: _Optional[str] = ...) -> None: ...

class StepSampled(_message.Message):
    __slots__ = ("loss", "gradient_norm", "samples_per_s", "step_ms", "seeds")
    LOSS_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_PER_S_FIELD_NUMBER: _ClassVar[int]
    STEP_MS_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    loss: float
    gradient_norm: float
    samples_per_s: float
    step_ms: float
    seeds: _containers.RepeatedCompositeFieldContainer[SeedStep]
    def __init__(self, loss: _Optional[float] = ..., gradient_norm: _Optional[float] = ..., samples_per_s: _Optional[float] = ..., step_ms: _Optional[float] = ..., seeds: _Optional[_Iterable[_Union[SeedStep, _Mapping]]] = ...) -> None: ...

class SeedStep(_message.Message):
    __slots__ = ("seed_id", "stage", "alpha", "gradient_norm", "side_loss", "activation_norm_ratio", "weight")
    SEED_ID_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    SIDE_LOSS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_NORM_RATIO_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    seed_id: str
    stage: _leyline_pb2.SeedLifecycleStage
    alpha: float
    gradient_norm: float
    side_loss: float
    activation_norm_ratio: float
    weight: float
    def __init__(self, seed_id: _Optional[str] = ..., stage: _Optional[_Union[_leyline_pb2.SeedLifecycleStage, str]] = ..., alpha: _Optional[float] = ..., gradient_norm: _Optional[float] = ..., side_loss: _Optional[float] = ..., activation_norm_ratio: _Optional[float] = ..., weight: _Optional[float] = ...) -> None: ...

class TelemetryShed(_message.Message):
    __slots__ = ("count", "total", "reason")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    count: int
    total: int
    reason: str
    def __init__(self, count: _Optional[int] = ..., total: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class SecurityViolation(_message.Message):
    __slots__ = ("reason", "topic", "detail", "subject_id")
    REASON_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    reason: str
    topic: str
    detail: str
    subject_id: bytes
    def __init__(self, reason: _Optional[str] = ..., topic: _Optional[str] = ..., detail: _Optional[str] = ..., subject_id: _Optional[bytes] = ...) -> None: ...

class AlertFired(_message.Message):
    __slots__ = ("rule", "description", "value", "threshold", "suggested_action")
    RULE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SUGGESTED_ACTION_FIELD_NUMBER: _ClassVar[int]
    rule: str
    description: str
    value: float
    threshold: float
    suggested_action: str
    def __init__(self, rule: _Optional[str] = ..., description: _Optional[str] = ..., value: _Optional[float] = ..., threshold: _Optional[float] = ..., suggested_action: _Optional[str] = ...) -> None: ...

class AlertCleared(_message.Message):
    __slots__ = ("rule", "value")
    RULE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    rule: str
    value: float
    def __init__(self, rule: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class AlertNotified(_message.Message):
    __slots__ = ("alert_id", "rule", "channel", "delivered", "attempts", "error")
    ALERT_ID_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    alert_id: bytes
    rule: str
    channel: str
    delivered: bool
    attempts: int
    error: str
    def __init__(self, alert_id: _Optional[bytes] = ..., rule: _Optional[str] = ..., channel: _Optional[str] = ..., delivered: _Optional[bool] = ..., attempts: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class AlertAcknowledged(_message.Message):
    __slots__ = ("alert_id", "rule", "by", "note")
    ALERT_ID_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    alert_id: bytes
    rule: str
    by: str
    note: str
    def __init__(self, alert_id: _Optional[bytes] = ..., rule: _Optional[str] = ..., by: _Optional[str] = ..., note: _Optional[str] = ...) -> None: ...

class AlertsSilenced(_message.Message):
    __slots__ = ("rule", "of_run", "until_ns", "by", "reason")
    RULE_FIELD_NUMBER: _ClassVar[int]
    OF_RUN_FIELD_NUMBER: _ClassVar[int]
    UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    rule: str
    of_run: str
    until_ns: int
    by: str
    reason: str
    def __init__(self, rule: _Optional[str] = ..., of_run: _Optional[str] = ..., until_ns: _Optional[int] = ..., by: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class AlertResendRequested(_message.Message):
    __slots__ = ("alert_id", "channel", "by")
    ALERT_ID_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    alert_id: bytes
    channel: str
    by: str
    def __init__(self, alert_id: _Optional[bytes] = ..., channel: _Optional[str] = ..., by: _Optional[str] = ...) -> None: ...

class DeadLettered(_message.Message):
    __slots__ = ("topic", "partition", "offset", "attempts", "handler", "cause", "record")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    HANDLER_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    topic: str
    partition: int
    offset: int
    attempts: int
    handler: str
    cause: str
    record: bytes
    def __init__(self, topic: _Optional[str] = ..., partition: _Optional[int] = ..., offset: _Optional[int] = ..., attempts: _Optional[int] = ..., handler: _Optional[str] = ..., cause: _Optional[str] = ..., record: _Optional[bytes] = ...) -> None: ...

class RunRequested(_message.Message):
    __slots__ = ("begin", "config_json", "task_source", "parent_run_id", "step", "change", "batch", "place", "max_attempts", "priority", "labels", "submitted_by")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    TASK_SOURCE_FIELD_NUMBER: _ClassVar[int]
    PARENT_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_BY_FIELD_NUMBER: _ClassVar[int]
    begin: str
    config_json: str
    task_source: str
    parent_run_id: str
    step: int
    change: str
    batch: str
    place: int
    max_attempts: int
    priority: int
    labels: _containers.ScalarMap[str, str]
    submitted_by: str
    def __init__(self, begin: _Optional[str] = ..., config_json: _Optional[str] = ..., task_source: _Optional[str] = ..., parent_run_id: _Optional[str] = ..., step: _Optional[int] = ..., change: _Optional[str] = ..., batch: _Optional[str] = ..., place: _Optional[int] = ..., max_attempts: _Optional[int] = ..., priority: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., submitted_by: _Optional[str] = ...) -> None: ...

class RunTaken(_message.Message):
    __slots__ = ("worker", "host", "attempt", "reason")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    worker: str
    host: str
    attempt: int
    reason: str
    def __init__(self, worker: _Optional[str] = ..., host: _Optional[str] = ..., attempt: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class RunReleased(_message.Message):
    __slots__ = ("worker", "host", "attempt", "status", "reason")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    worker: str
    host: str
    attempt: int
    status: str
    reason: str
    def __init__(self, worker: _Optional[str] = ..., host: _Optional[str] = ..., attempt: _Optional[int] = ..., status: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class WorkerSeen(_message.Message):
    __slots__ = ("worker", "host", "slots", "runs", "lease_s", "left", "process")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    worker: str
    host: str
    slots: int
    runs: _containers.RepeatedScalarFieldContainer[str]
    lease_s: float
    left: bool
    process: TrainerProcess
    def __init__(self, worker: _Optional[str] = ..., host: _Optional[str] = ..., slots: _Optional[int] = ..., runs: _Optional[_Iterable[str]] = ..., lease_s: _Optional[float] = ..., left: _Optional[bool] = ..., process: _Optional[_Union[TrainerProcess, _Mapping]] = ...) -> None: ...
