-- One row per field report.
CREATE TABLE reported (
    event_id BLOB PRIMARY KEY, place BIGINT, run_id VARCHAR, step UBIGINT, epoch UINTEGER, recorded_at_ns UBIGINT,
    report_id VARCHAR, command_id VARCHAR, seed_id VARCHAR, blueprint_id VARCHAR, outcome INTEGER, metrics VARCHAR,
    loss_delta FLOAT, window_epochs UINTEGER, policy_version VARCHAR, follow_up_actions UINTEGER, notes VARCHAR
);
