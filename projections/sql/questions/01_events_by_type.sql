-- How many events of each type are there?
SELECT log_body AS type, count(*) AS events FROM log.every GROUP BY ALL ORDER BY events DESC, type;
