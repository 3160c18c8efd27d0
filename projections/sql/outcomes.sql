-- What became of seeds, per blueprint and kind of site: lives that began, were kept and were removed, and what the field
-- reports on their beginnings measured (change of the probe loss over the report's window).
-- Left out: what a rollback or resume made undone, quarantine drills, the random policy (its culls say nothing about a
-- blueprint), the direct lifecycle (it has no gates), and all but the newest of runs that are each other's repetition.
WITH ordinary AS (
    SELECT run_id
    FROM log.run_started
    WHERE policy <> 'random' AND lifecycle <> 'direct' AND NOT contains(config_json, '"drill": true')
    QUALIFY row_number() OVER (
        PARTITION BY task, data_fingerprint, weights_digest, policy, epochs, control_of <> '' ORDER BY recorded_at_ns DESC
    ) = 1
), site AS (
    SELECT DISTINCT run_id, site.seed_id AS seed_id, site.shape_kind AS shape_kind
    FROM (SELECT run_id, unnest(sites) AS site FROM log.run_started WHERE run_id IN (FROM ordinary))
), lives AS (
    SELECT
        blueprint_id, shape_kind,
        count(*) FILTER (to_stage = 'GERMINATED') AS germinated,
        count(*) FILTER (to_stage = 'FOSSILIZED') AS fossilized,
        count(*) FILTER (to_stage = 'CULLED') AS culled
    FROM transitions
    JOIN site USING (run_id, seed_id)
    WHERE surviving AND blueprint_id IS NOT NULL
    GROUP BY ALL
), measured AS (
    SELECT blueprint_id, shape_kind, metrics['loss_delta_total'] AS loss_delta
    FROM reports
    JOIN site USING (run_id, seed_id)
    WHERE surviving
        AND (run_id, command_id) IN (SELECT (run_id, command_id) FROM commands WHERE operation = 'GERMINATE' AND surviving)
), reported AS (
    SELECT
        blueprint_id, shape_kind, count(*) AS reports, avg(loss_delta) AS loss_delta_mean,
        coalesce(stddev_samp(loss_delta) / sqrt(count(*)), 0) AS loss_delta_stderr
    FROM measured
    WHERE isfinite(loss_delta)
    GROUP BY ALL
)
SELECT
    blueprint_id,
    shape_kind,
    germinated,
    fossilized,
    culled,
    coalesce(reports, 0) AS reports,
    coalesce(loss_delta_mean, 0) AS loss_delta_mean,
    coalesce(loss_delta_stderr, 0) AS loss_delta_stderr
FROM lives
LEFT JOIN reported USING (blueprint_id, shape_kind)
WHERE germinated > 0
ORDER BY ALL;
