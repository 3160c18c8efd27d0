-- The seed slots that a run declared when it started.
SELECT started.run_id, site.seed_id, site.site, claim.from_offset, claim.sequence
FROM (SELECT run_id, log_offset, unnest(sites) AS site FROM log.run_started) AS started
JOIN fold_claims AS claim ON claim.run_id = started.run_id AND claim.first AND claim.from_offset = started.log_offset;
