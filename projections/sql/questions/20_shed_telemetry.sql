-- How much telemetry was shed, by run?
SELECT run_id, max(total) AS shed FROM log.telemetry_shed GROUP BY run_id ORDER BY shed DESC, run_id;
