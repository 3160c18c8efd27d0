-- Which events did an event cause?
SELECT log_body AS type, run_id, global_step AS step, uuid_text(event_id) AS event_id
FROM log.every
WHERE causation_id = $event
ORDER BY recorded_at_ns, event_id;
