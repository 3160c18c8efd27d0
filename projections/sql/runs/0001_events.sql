-- The course of every run, one row an event.
CREATE TABLE started (
    event_id BLOB PRIMARY KEY, place BIGINT, run_id VARCHAR, sequence UBIGINT, incarnation UINTEGER, timeline UINTEGER,
    step UBIGINT, epoch UINTEGER, recorded_at_ns UBIGINT, task VARCHAR, policy VARCHAR, lifecycle VARCHAR,
    control_of VARCHAR, parent_run_id VARCHAR, parent_sequence UBIGINT, epochs UINTEGER, steps_per_epoch UINTEGER,
    params_host UBIGINT, device VARCHAR, esper_version VARCHAR, random_seeds VARCHAR, config_json VARCHAR
);
CREATE TABLE packets (
    event_id BLOB PRIMARY KEY, place BIGINT, run_id VARCHAR, sequence UBIGINT, incarnation UINTEGER, timeline UINTEGER,
    step UBIGINT, epoch UINTEGER, recorded_at_ns UBIGINT, probe_loss DOUBLE, probe_accuracy DOUBLE, params UBIGINT
);
CREATE TABLE jumps (
    event_id BLOB PRIMARY KEY, place BIGINT, run_id VARCHAR, sequence UBIGINT, incarnation UINTEGER, timeline UINTEGER,
    step UBIGINT, epoch UINTEGER, recorded_at_ns UBIGINT, to_sequence UBIGINT, is_claim BOOLEAN, reason VARCHAR
);
CREATE TABLE finished (
    event_id BLOB PRIMARY KEY, place BIGINT, run_id VARCHAR, sequence UBIGINT, incarnation UINTEGER, timeline UINTEGER,
    step UBIGINT, epoch UINTEGER, recorded_at_ns UBIGINT, status VARCHAR, reason VARCHAR, test_accuracy DOUBLE,
    test_loss DOUBLE, params_final UBIGINT, flops DOUBLE, germinated UINTEGER, fossilized UINTEGER, culled UINTEGER,
    telemetry_shed UBIGINT, wall_s DOUBLE
);
