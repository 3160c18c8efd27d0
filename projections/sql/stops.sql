-- The first fact of a run that cannot be true, if any: there the run is stopped, and nothing counts after it.
SELECT run_id, problem_name(log_verdict) AS problem, sequence, log_offset
FROM log.facts
WHERE log_verdict > 10;
