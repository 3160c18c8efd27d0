-- How many steps do seeds stay in each stage?
SELECT stage_name(from_stage) AS stage, avg(steps) AS mean_steps, count(*) AS stays
FROM (
    SELECT from_stage, global_step - lag(global_step) OVER (PARTITION BY run_id, seed_id ORDER BY sequence) AS steps
    FROM log.seed_transitioned AS fact
    WHERE fact.log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence)
)
WHERE steps IS NOT NULL
GROUP BY from_stage
ORDER BY from_stage;
