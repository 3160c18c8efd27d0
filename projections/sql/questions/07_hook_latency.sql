-- How long did the epoch hook take, per run (99th percentile, ms)?
SELECT run_id, quantile_cont(hook_ms_before, 0.99) AS p99_ms, count(*) AS epochs
FROM log.epoch_completed
GROUP BY run_id
ORDER BY run_id;
