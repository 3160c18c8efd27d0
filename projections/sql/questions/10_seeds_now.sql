-- How many seeds are in each stage now, by the fold?
SELECT stage, count(*) AS seeds FROM seeds GROUP BY stage ORDER BY stage;
