-- How long did decisions take (median and 99th percentile, ms), by policy?
SELECT policy, quantile_cont(latency_ms, [0.5, 0.99]) AS p50_p99_ms, count(*) AS decisions
FROM log.decision_made
GROUP BY policy;
