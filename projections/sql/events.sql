-- Every event as the log holds it, one row per record: its envelope, where it lies and its bytes. `log.every` is the
-- union of the tables `log.<body>`, which have the columns of the bodies.
SELECT
    run_id,
    log_body AS body,
    producer,
    sequence,
    incarnation,
    timeline,
    global_step AS step,
    epoch,
    moment(recorded_at_ns) AS recorded_at,
    priority_name(priority) AS priority,
    uuid_text(event_id) AS event_id,
    uuid_text(causation_id) AS causation_id,
    uuid_text(correlation_id) AS correlation_id,
    log_topic AS topic,
    log_partition AS partition,
    log_offset AS "offset",
    log_raw AS raw
FROM log.every;
