-- How often does each gate let a seed pass?
SELECT gate_name(gate) AS gate, count(*) AS judged, avg(passed::INTEGER) AS passed
FROM log.gate_evaluated AS fact
WHERE fact.log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence)
GROUP BY gate
ORDER BY gate;
