-- What Simic learns from, one row an event: packets, the decisions on them, what became of those, and how runs went on.
CREATE TABLE started (
    event_id BLOB PRIMARY KEY, place BIGINT, run_id VARCHAR, sequence UBIGINT, incarnation UINTEGER, timeline UINTEGER,
    step UBIGINT, epoch UINTEGER, recorded_at_ns UBIGINT, task VARCHAR, policy VARCHAR, params_host UBIGINT,
    control_of VARCHAR, parent_run_id VARCHAR
);
CREATE TABLE packets (
    event_id BLOB PRIMARY KEY, place BIGINT, run_id VARCHAR, sequence UBIGINT, incarnation UINTEGER, timeline UINTEGER,
    step UBIGINT, epoch UINTEGER, recorded_at_ns UBIGINT, probe_loss DOUBLE, probe_accuracy DOUBLE, training_loss DOUBLE,
    probe_loss_stderr FLOAT, params UBIGINT, params_budget UBIGINT, flops DOUBLE, hook_ms FLOAT, conservative BOOLEAN
);
CREATE TABLE decided (
    event_id BLOB PRIMARY KEY, place BIGINT, run_id VARCHAR, packet_id BLOB, policy VARCHAR, policy_version VARCHAR,
    policy_hash BLOB, observation BLOB, observation_ref VARCHAR, observation_hash BLOB, action_mask BLOB, logits FLOAT[],
    draw DOUBLE, action UINTEGER, actions VARCHAR[], command_id BLOB, risk FLOAT, value_estimate FLOAT
);
CREATE TABLE outcomes (
    event_id BLOB PRIMARY KEY, place BIGINT, run_id VARCHAR, sequence UBIGINT, incarnation UINTEGER, timeline UINTEGER,
    step UBIGINT, epoch UINTEGER, recorded_at_ns UBIGINT, command_id BLOB, outcome VARCHAR, reason VARCHAR
);
CREATE TABLE reported (
    event_id BLOB PRIMARY KEY, place BIGINT, run_id VARCHAR, command_id BLOB, seed_id VARCHAR, blueprint_id VARCHAR,
    outcome INTEGER, window_epochs UINTEGER, loss_delta FLOAT, loss_delta_min FLOAT, loss_delta_max FLOAT,
    hook_ms FLOAT, ended_as VARCHAR
);
CREATE TABLE jumps (
    event_id BLOB PRIMARY KEY, place BIGINT, run_id VARCHAR, sequence UBIGINT, incarnation UINTEGER, timeline UINTEGER,
    step UBIGINT, epoch UINTEGER, recorded_at_ns UBIGINT, to_sequence UBIGINT, is_claim BOOLEAN, reason VARCHAR
);
CREATE TABLE finished (
    event_id BLOB PRIMARY KEY, place BIGINT, run_id VARCHAR, sequence UBIGINT, incarnation UINTEGER, timeline UINTEGER,
    step UBIGINT, epoch UINTEGER, recorded_at_ns UBIGINT, status VARCHAR, test_accuracy DOUBLE, test_loss DOUBLE,
    params_final UBIGINT, flops DOUBLE
);
