-- How long did decisions take, from the packet to the answer (median and 99th percentile, ms), by policy?
SELECT decision.policy, quantile_cont((decision.recorded_at_ns - packet.recorded_at_ns) / 1e6, [0.5, 0.99]) AS p50_p99_ms,
    count(*) AS decisions
FROM log.decision_made AS decision
JOIN log.epoch_completed AS packet ON packet.event_id = decision.packet_id AND packet.log_verdict = 1
WHERE stands(decision.run_id, decision.causation_id, decision.correlation_id)
GROUP BY decision.policy
ORDER BY decision.policy;
