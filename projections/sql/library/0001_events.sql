-- What the log says about blueprints, one row an event, kept under the event's id: a repetition changes nothing, and no
-- table depends on another, so the order of topics does not matter. `place` is the offset: a blueprint's events share a
-- partition.
CREATE TABLE registered (
    event_id BLOB PRIMARY KEY, place BIGINT, blueprint_id VARCHAR, name VARCHAR, tier INTEGER, stage INTEGER, risk FLOAT,
    quarantine_only BOOLEAN, approval_required BOOLEAN, description VARCHAR, bounds VARCHAR, shape_kinds VARCHAR[],
    tags VARCHAR[]
);
CREATE TABLE approvals (
    event_id BLOB PRIMARY KEY, place BIGINT, blueprint_id VARCHAR, said_at_ms BIGINT, approved BOOLEAN, said_by VARCHAR,
    why VARCHAR
);
CREATE TABLE requested (
    event_id BLOB PRIMARY KEY, place BIGINT, blueprint_id VARCHAR, job_id VARCHAR, pipeline VARCHAR, shape_kind VARCHAR,
    shape INTEGER[], parameters VARCHAR
);
CREATE TABLE finished (
    event_id BLOB PRIMARY KEY, place BIGINT, blueprint_id VARCHAR, job_id VARCHAR, artifact_ref VARCHAR,
    compile_ms FLOAT, eager_us FLOAT, compiled_us FLOAT, prewarm_p50_ms FLOAT, prewarm_p95_ms FLOAT
);
CREATE TABLE stored (
    event_id BLOB PRIMARY KEY, place BIGINT, blueprint_id VARCHAR, stored_at_ms BIGINT, artifact_ref VARCHAR,
    version INTEGER, checksum VARCHAR, guard_digest VARCHAR, bytes BIGINT, form VARCHAR
);
CREATE TABLE sheets (
    event_id BLOB PRIMARY KEY, place BIGINT, blueprint_id VARCHAR, risk_score FLOAT, hazard_band INTEGER,
    handling_class INTEGER, resource_profile INTEGER, recommendation VARCHAR, provenance INTEGER
);
CREATE TABLE attached (
    event_id BLOB PRIMARY KEY, place BIGINT, blueprint_id VARCHAR, artifact_ref VARCHAR, run_id VARCHAR
);
