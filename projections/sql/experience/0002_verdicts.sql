-- rebuild: which facts count is decided fact by fact, from a run's first on.
-- `facts` has of every fact what the rule looks at, so that a run is judged on where this file ends.
CREATE TABLE facts (
    event_id BLOB PRIMARY KEY, place BIGINT, run_id VARCHAR, name VARCHAR, incarnation UINTEGER, sequence UBIGINT, raw BLOB
);
ALTER TABLE started ADD COLUMN verdict UTINYINT;
ALTER TABLE packets ADD COLUMN verdict UTINYINT;
ALTER TABLE outcomes ADD COLUMN verdict UTINYINT;
ALTER TABLE jumps ADD COLUMN verdict UTINYINT;
ALTER TABLE finished ADD COLUMN verdict UTINYINT;
