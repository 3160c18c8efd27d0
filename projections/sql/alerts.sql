-- One row per alert that fired, the newest first: over which run, when it cleared, whom it reached, and who knows of it.
WITH fired AS NOT MATERIALIZED (
    SELECT DISTINCT ON (event_id) * FROM log.alert_fired ORDER BY log_offset
), cleared AS (
    SELECT rule, run_id, log_partition, log_offset, min(recorded_at_ns) AS recorded_at_ns
    FROM log.alert_cleared
    GROUP BY ALL
), told AS (
    SELECT
        alert_id,
        list(DISTINCT channel ORDER BY channel) FILTER (delivered) AS delivered,
        list(DISTINCT channel ORDER BY channel) FILTER (NOT delivered) AS failed,
        arg_max(error, log_offset) FILTER (NOT delivered) AS error
    FROM log.alert_notified
    GROUP BY alert_id
), known AS (
    SELECT alert_id, arg_max(acknowledged.by, log_offset) AS said_by, arg_max(note, log_offset) AS note
    FROM log.alert_acknowledged AS acknowledged
    GROUP BY alert_id
)
SELECT
    fact.event_id AS alert_id,
    fact.rule,
    fact.run_id,
    moment(fact.recorded_at_ns) AS fired_at,
    (
        SELECT moment(min(off.recorded_at_ns)) FROM cleared AS off
        WHERE off.rule = fact.rule AND off.run_id = fact.run_id
            AND off.log_partition = fact.log_partition AND off.log_offset > fact.log_offset
    ) AS cleared_at,
    fact.value,
    fact.threshold,
    fact.description,
    fact.suggested_action,
    coalesce(told.delivered, []) AS delivered,
    list_filter(coalesce(told.failed, []), lambda channel: NOT list_contains(coalesce(told.delivered, []), channel)) AS failed,
    told.error,
    known.said_by,
    known.note,
    fact.log_offset
FROM fired AS fact
LEFT JOIN told ON told.alert_id = fact.event_id
LEFT JOIN known ON known.alert_id = fact.event_id
ORDER BY fact.recorded_at_ns DESC;
