-- Which blueprints last: how many lives ended fossilised, how many culled?
SELECT blueprint_id, count(*) FILTER (to_stage = 7) AS fossilized, count(*) FILTER (to_stage = 8) AS culled
FROM log.seed_transitioned AS fact
WHERE to_stage IN (7, 8) AND fact.log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence)
GROUP BY blueprint_id
ORDER BY fossilized DESC, culled, blueprint_id;
