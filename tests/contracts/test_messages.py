"""The published messages and enums, tag by tag (R-LEY-2 to R-LEY-4, R-LEY-17).

The table is typed from the published description, not from the .proto files: that is what makes it a check.
"""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import FieldDescriptor

from contracts.leyline.v1 import event_pb2, leyline_pb2

MESSAGES = {
    "HardwareContext": "1 device_type str, 2 device_id str, 3 total_memory_gb f32, 4 available_memory_gb f32,"
    " 5 temperature_celsius f32?, 6 utilization_percent f32, 7 compute_capability u32",
    "SeedState": "1 seed_id str, 2 stage SeedLifecycleStage, 3 gradient_norm f32, 4 learning_rate f32,"
    " 5 layer_depth u32, 6 metrics map str f32, 7 age_epochs u32, 8 risk_score f32",
    "SystemStatePacket": "1 version u32, 2 current_epoch u32, 3 validation_accuracy f32, 4 validation_loss f32,"
    " 5 timestamp_ns u64, 6 hardware_context HardwareContext, 7 training_metrics map str f32,"
    " 8 seed_states rep SeedState, 9 packet_id str, 10 global_step u64, 11 training_loss f32,"
    " 12 source_subsystem str, 13 training_run_id str, 14 experiment_name str",
    "CommandSeedOperation": "1 operation SeedOperation, 2 blueprint_id str, 3 parameters map str f32",
    "CommandOptimizerAdjustment": "1 optimizer_id str, 2 hyperparameters map str f32",
    "CommandCircuitBreaker": "1 desired_state CircuitBreakerState, 2 rationale str",
    "AdaptationCommand": "1 version u32, 2 command_id str, 3 command_type CommandType, 4 target_seed_id str,"
    " 5 execution_deadline_ms u32, 6 issued_at Timestamp, 7 issued_by str, 10 seed_operation CommandSeedOperation,"
    " 11 optimizer_adjustment CommandOptimizerAdjustment, 12 circuit_breaker CommandCircuitBreaker,"
    " 13 rollback_payload Struct, 20 annotations map str str",
    "EmergencySignal": "1 version u32, 2 level EmergencyLevel, 3 reason str, 4 origin str, 5 triggered_at Timestamp,"
    " 6 monotonic_time_ms u64, 7 run_id str, 8 attributes map str str, 9 payload_checksum bytes",
    "KernelPrefetchRequest": "1 request_id str, 2 blueprint_id str, 3 training_run_id str, 4 issued_at Timestamp",
    "KernelArtifactReady": "1 request_id str, 2 blueprint_id str, 3 artifact_ref str, 4 checksum str,"
    " 5 guard_digest str, 6 prewarm_p50_ms f32, 7 prewarm_p95_ms f32",
    "KernelArtifactError": "1 request_id str, 2 blueprint_id str, 3 reason str",
    "KernelCatalogUpdate": "1 blueprint_id str, 2 artifact_ref str, 3 checksum str, 4 guard_digest str,"
    " 5 compile_ms f32, 6 prewarm_ms f32",
    "MitigationAction": "1 action_type str, 2 rationale str",
    "FieldReport": "1 version u32, 2 report_id str, 3 command_id str, 4 training_run_id str, 5 seed_id str,"
    " 6 blueprint_id str, 7 outcome FieldReportOutcome, 8 metrics map str f32, 9 observation_window_epochs u32,"
    " 10 issued_at Timestamp, 11 tamiyo_policy_version str, 12 follow_up_actions rep MitigationAction, 13 notes str",
    "BlueprintParameterBounds": "1 min_value f64, 2 max_value f64",
    "BlueprintDescriptor": "1 blueprint_id str, 2 name str, 3 tier BlueprintTier,"
    " 4 allowed_parameters map str BlueprintParameterBounds, 5 risk f32, 6 stage u32, 7 quarantine_only bool,"
    " 8 approval_required bool, 9 description str",
    # The weights themselves (tag 6) went to the object store; their reference has a tag of its own.
    "PolicyUpdate": "1 version u32, 2 policy_id str, 3 training_run_id str, 4 issued_at Timestamp,"
    " 5 tamiyo_policy_version str, 7 payload_ref str, 8 registry_digests map str str, 9 architecture str",
    "MetricPoint": "1 name str, 2 value f64, 3 unit str, 4 attributes map str str",
    "TelemetryEvent": "1 event_id str, 2 description str, 3 level TelemetryLevel, 4 attributes map str str",
    "TraceSpan": "1 span_id str, 2 parent_span_id str, 3 name str, 4 start_time Timestamp, 5 end_time Timestamp,"
    " 6 attributes map str str",
    "SystemHealth": "1 status HealthStatus, 2 summary str, 3 indicators map str str",
    "TelemetryPacket": "1 packet_id str, 2 timestamp Timestamp, 3 source_subsystem str, 4 level TelemetryLevel,"
    " 10 metrics rep MetricPoint, 20 events rep TelemetryEvent, 30 spans rep TraceSpan,"
    " 40 system_health SystemHealth",
    "BSDS": "1 version u32, 2 blueprint_id str, 3 risk_score f32, 4 hazard_band HazardBand,"
    " 5 handling_class HandlingClass, 6 resource_profile ResourceProfile, 7 recommendation str,"
    " 8 issued_at Timestamp, 9 provenance Provenance",
    "BlueprintBenchmarkProfile": "1 name str, 2 p50_latency_ms f32, 3 p95_latency_ms f32,"
    " 4 throughput_samples_per_s f32",
    "BlueprintBenchmark": "1 version u32, 2 blueprint_id str, 3 profiles rep BlueprintBenchmarkProfile,"
    " 4 device str, 5 torch_version str",
    "BSDSIssued": "1 bsds BSDS",
    "BSDSFailed": "1 blueprint_id str, 2 reason str",
    "BenchmarkReport": "1 benchmark BlueprintBenchmark",
}

ENUMS = {
    "SeedLifecycleStage": "UNKNOWN 0, DORMANT 1, GERMINATED 2, TRAINING 3, BLENDING 4, SHADOWING 5, PROBATIONARY 6,"
    " FOSSILIZED 7, CULLED 8, EMBARGOED 9, RESETTING 10, TERMINATED 11",
    "SeedLifecycleGate": "UNKNOWN 0, G0_SANITY 1, G1_GRADIENT_HEALTH 2, G2_STABILITY 3, G3_INTERFACE 4,"
    " G4_SYSTEM_IMPACT 5, G5_RESET 6",
    "HealthStatus": "UNKNOWN 0, HEALTHY 1, DEGRADED 2, UNHEALTHY 3, CRITICAL 4",
    "CircuitBreakerState": "UNKNOWN 0, CLOSED 1, OPEN 2, HALF_OPEN 3",
    "CommandType": "UNKNOWN 0, SEED 1, ROLLBACK 2, OPTIMIZER 3, CIRCUIT_BREAKER 4, PAUSE 5, EMERGENCY 6,"
    " STRUCTURAL_PRUNING 7",
    "SeedOperation": "UNKNOWN 0, GERMINATE 1, START_TRAINING 2, START_GRAFTING 3, STABILIZE 4, EVALUATE 5,"
    " FINE_TUNE 6, FOSSILIZE 7, CULL 8, CANCEL 9, ADVANCE 100, HOLD 101",
    "BlendMode": "UNKNOWN 0, CONVEX 1, RESIDUAL 2, CHANNEL 3, CONFIDENCE 4",
    "MessagePriority": "UNSPECIFIED 0, LOW 1, NORMAL 2, HIGH 3, CRITICAL 4",
    "DeliveryGuarantee": "UNKNOWN 0, AT_LEAST_ONCE 1, AT_MOST_ONCE 2, EXACTLY_ONCE 3",
    "TelemetryLevel": "UNSPECIFIED 0, INFO 1, WARNING 2, ERROR 3, CRITICAL 4",
    "EmergencyLevel": "UNSPECIFIED 0, NOTICE 1, ELEVATED 2, CONSERVATIVE 3, HALT 4",
    "FieldReportOutcome": "UNSPECIFIED 0, SUCCESS 1, NEUTRAL 2, REGRESSION 3, ABORTED 4",
    "BlueprintTier": "UNSPECIFIED 0, SAFE 1, EXPERIMENTAL 2, HIGH_RISK 3",
    "BusMessageType": "UNSPECIFIED 0, SYSTEM_STATE 1, ADAPTATION_COMMAND 2, FIELD_REPORT 3, TELEMETRY 4,"
    " POLICY_UPDATE 5, KERNEL_PREFETCH_REQUEST 6, KERNEL_PREFETCH_READY 7, KERNEL_PREFETCH_ERROR 8,"
    " KERNEL_CATALOG_UPDATE 9, EMERGENCY_SIGNAL 10, BSDS_ISSUED 20, BSDS_FAILED 21, BENCHMARK_REPORT 22",
    "HazardBand": "UNSPECIFIED 0, LOW 1, MEDIUM 2, HIGH 3, CRITICAL 4",
    "HandlingClass": "UNSPECIFIED 0, STANDARD 1, RESTRICTED 2, QUARANTINE 3",
    "ResourceProfile": "UNSPECIFIED 0, CPU 1, GPU 2, MEMORY_HEAVY 3, IO_HEAVY 4, MIXED 5",
    "Provenance": "UNSPECIFIED 0, URABRASK 1, CURATED 2, HEURISTIC 3, EXTERNAL 4",
}

OWN = {
    "KernelPrefetchRequest": ", 100 shape_kind str, 101 shape rep u32, 102 parameters map str f64",
    "AdaptationCommand": ", 100 training CommandTraining",
    "FieldReport": ", 100 decision_id str",
}
"""Fields that are not published: from 100 on, where no published one can come to lie."""

SHORT = {
    FieldDescriptor.TYPE_STRING: "str",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_FLOAT: "f32",
    FieldDescriptor.TYPE_DOUBLE: "f64",
    FieldDescriptor.TYPE_UINT32: "u32",
    FieldDescriptor.TYPE_UINT64: "u64",
}
FILE = leyline_pb2.DESCRIPTOR


def kind(field) -> str:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name
        return f"map {kind(entry['key'])} {kind(entry['value'])}"
    named = field.message_type or field.enum_type
    optional = field.containing_oneof is not None and field.containing_oneof.name.startswith("_")
    return ("rep " if field.is_repeated else "") + (named.name if named else SHORT[field.type]) + "?" * optional


@pytest.mark.requirement("R-LEY-2")
@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_has_the_published_tags_names_and_types(name):
    fields = sorted(FILE.message_types_by_name[name].fields, key=lambda field: field.number)

    assert ", ".join(f"{field.number} {field.name} {kind(field)}" for field in fields) == MESSAGES[name] + OWN.get(
        name, ""
    )


def test_no_message_is_left_out_of_the_table():
    """The three limit tables are checked number by number beside the constants that fill them."""
    own = {"CommandTraining"}
    limits = {"PerformanceBudgets", "MemoryBudgets", "SystemLimits"}

    assert set(FILE.message_types_by_name) == {*MESSAGES, *limits, *own}


@pytest.mark.requirement("R-KAS-1", "R-LEY-3", "R-LEY-4")
@pytest.mark.parametrize("name", ENUMS)
def test_an_enum_has_the_published_names_and_numbers(name):
    values = FILE.enum_types_by_name[name].values
    prefix = values[0].name.removesuffix("UNKNOWN").removesuffix("UNSPECIFIED")

    assert ", ".join(f"{value.name.removeprefix(prefix)} {value.number}" for value in values) == ENUMS[name]


def test_no_enum_is_left_out_of_the_table():
    assert set(FILE.enum_types_by_name) == set(ENUMS)


def test_the_choice_of_a_command_has_four_payloads():
    payload = FILE.message_types_by_name["AdaptationCommand"].oneofs_by_name["payload"]

    assert [field.number for field in payload.fields] == [10, 11, 12, 13]


@pytest.mark.requirement("R-LEY-17")
def test_tags_100_to_199_of_the_state_packet_stay_reserved(root):
    """R-LEY-17. The generated code does not keep reservations, so this reads the source."""
    source = (root / "contracts/leyline/v1/leyline.proto").read_text(encoding="utf-8")
    packet = source.split("message SystemStatePacket {")[1].split("\n}")[0]

    assert "reserved 100 to 199;" in packet


@pytest.mark.parametrize("file", [leyline_pb2, event_pb2], ids=["leyline", "event"])
def test_fields_are_declared_in_the_order_of_their_numbers(file):
    """The archive pairs a message's columns with its fields by place, and its decoder goes by number."""
    declared = {
        name: [field.number for field in message.fields]
        for name, message in file.DESCRIPTOR.message_types_by_name.items()
    }

    assert {name: numbers for name, numbers in declared.items() if numbers != sorted(numbers)} == {}
