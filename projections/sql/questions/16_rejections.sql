-- Why were commands rejected?
SELECT reason, count(*) AS commands FROM log.command_rejected AS fact
WHERE fact.log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence)
GROUP BY reason
ORDER BY commands DESC, reason;
