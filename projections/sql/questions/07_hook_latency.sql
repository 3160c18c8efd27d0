-- How long did the epoch hook take, per run (99th percentile, ms)?
SELECT run_id, quantile_cont(hook_ms_before, 0.99) AS p99_ms, count(*) AS epochs
FROM log.epoch_completed AS fact
WHERE fact.log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence)
GROUP BY run_id
ORDER BY run_id;
