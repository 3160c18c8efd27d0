-- The seed slots that a run declared when it started.
SELECT run_id, site.seed_id, site.site, log_offset, sequence
FROM (SELECT run_id, log_offset, sequence, unnest(sites) AS site FROM log.run_started WHERE log_verdict = 1);
