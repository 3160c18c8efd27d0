-- In which stage was each seed of a run at a step?
SELECT seed_id, max_by(to_stage, sequence) AS stage
FROM transitions
WHERE run_id = $run AND surviving AND step <= $step
GROUP BY seed_id
ORDER BY seed_id;
