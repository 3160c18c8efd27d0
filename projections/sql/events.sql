-- Every event as the log holds it, one row per record: its envelope, where it lies and its bytes. `log.every` is the
-- union of the tables `log.<body>`, which have the columns of the bodies. `surviving` is false where a fact does not count
-- or a rollback or a resume cut it since, and for what such a fact brought about.
SELECT
    fact.run_id,
    log_body AS body,
    producer,
    sequence,
    incarnation,
    timeline,
    global_step AS step,
    epoch,
    moment(recorded_at_ns) AS recorded_at,
    CASE
        WHEN log_topic = 'esper.runs' THEN log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence)
        ELSE stands(fact.run_id, fact.causation_id, fact.correlation_id)
    END AS surviving,
    priority_name(priority) AS priority,
    uuid_text(event_id) AS event_id,
    uuid_text(causation_id) AS causation_id,
    uuid_text(correlation_id) AS correlation_id,
    log_topic AS topic,
    log_partition AS partition,
    log_offset AS "offset",
    log_raw AS raw
FROM log.every AS fact;
