-- The life of every policy, one row an event. A policy's events share a partition, so `place` orders them.
CREATE TABLE trained (
    event_id BLOB PRIMARY KEY, place BIGINT, policy_id VARCHAR, recorded_at_ns UBIGINT, policy_version VARCHAR,
    weights_ref VARCHAR, experiences UBIGINT, metrics VARCHAR
);
CREATE TABLE validated (
    event_id BLOB PRIMARY KEY, place BIGINT, policy_id VARCHAR, recorded_at_ns UBIGINT, passed BOOLEAN, metrics VARCHAR,
    reason VARCHAR
);
CREATE TABLE rejected (event_id BLOB PRIMARY KEY, place BIGINT, policy_id VARCHAR, recorded_at_ns UBIGINT, reason VARCHAR);
CREATE TABLE promoted (
    event_id BLOB PRIMARY KEY, place BIGINT, policy_id VARCHAR, recorded_at_ns UBIGINT, policy_version VARCHAR,
    promoted_by VARCHAR
);
CREATE TABLE loaded (
    event_id BLOB PRIMARY KEY, place BIGINT, policy_id VARCHAR, recorded_at_ns UBIGINT, policy_version VARCHAR,
    process VARCHAR
);
CREATE TABLE updates (
    event_id BLOB PRIMARY KEY, place BIGINT, policy_id VARCHAR, recorded_at_ns UBIGINT, policy_version VARCHAR,
    payload_ref VARCHAR
);
