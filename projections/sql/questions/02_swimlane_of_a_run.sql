-- Which stages did each seed of a run go through, and when?
SELECT seed_id, step, epoch, from_stage, to_stage, reason
FROM transitions
WHERE run_id = $run AND surviving
ORDER BY seed_id, sequence;
