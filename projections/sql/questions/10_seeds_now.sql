-- How many seeds are in each stage now, by the fold?
SELECT stage_name(stage) AS stage, count(*) AS seeds FROM fold_stages GROUP BY stage ORDER BY stage;
