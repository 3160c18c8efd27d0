-- How long did the epoch hook take, per run (99th percentile, ms)?
SELECT run_id, quantile_cont(value, 0.99) AS p99_ms, count(*) AS epochs
FROM (
    SELECT run_id, list_filter(metrics, lambda m: m.name = 'tolaria.epoch_hook.latency_ms')[1].value AS value
    FROM log.telemetry_packet
)
WHERE value IS NOT NULL
GROUP BY run_id;
