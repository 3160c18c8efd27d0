-- One row per approval of a blueprint, or withdrawal of one, in the order in which they were given: who, why, and when.
-- The last one of a blueprint holds; `approved` is false for a withdrawal, and for one that does not say who and why.
WITH once AS NOT MATERIALIZED (
    SELECT DISTINCT ON (event_id) * FROM log.blueprint_approved ORDER BY log_offset
)
SELECT
    fact.blueprint_id,
    fact.approved AND trim(fact.by) <> '' AND trim(fact.why) <> '' AS approved,
    fact.by AS said_by,
    fact.why,
    row_number() OVER (PARTITION BY fact.blueprint_id ORDER BY fact.log_offset DESC) = 1 AS holds,
    moment(fact.recorded_at_ns) AS recorded_at,
    uuid_text(fact.event_id) AS event_id,
    fact.log_offset
FROM once AS fact;
