-- How often does each gate let a seed pass?
SELECT gate_name(gate) AS gate, count(*) AS judged, avg(passed::INTEGER) AS passed
FROM log.gate_evaluated
GROUP BY gate
ORDER BY gate;
