-- One row per run, as the archive's view of this name has it; `control_accuracy` is that of its control run. What an
-- incarnation wrote that another one superseded, and epochs that a rollback went behind, do not count.
WITH claims AS (
    SELECT *
    FROM jumps
    WHERE is_claim
    -- Of two claims to an incarnation the lower place wins, and one below an earlier one counts for nothing.
    QUALIFY incarnation > coalesce(max(incarnation) OVER (
        PARTITION BY run_id ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ), 1)
), cuts AS (
    FROM claims
    UNION ALL
    SELECT back.*
    FROM jumps AS back
    WHERE NOT is_claim AND NOT EXISTS (
        FROM claims
        WHERE claims.run_id = back.run_id AND claims.incarnation > back.incarnation AND back.sequence > claims.to_sequence
    )
), begun AS (
    SELECT * FROM started QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY place) = 1
), owner AS (
    SELECT run_id, max(incarnation) AS incarnation
    FROM (SELECT run_id, incarnation FROM begun UNION ALL SELECT run_id, incarnation FROM claims)
    GROUP BY run_id
), ended AS (
    -- Whoever takes a run over goes on with it, however it had ended.
    SELECT fact.*
    FROM finished AS fact
    JOIN owner ON owner.run_id = fact.run_id AND owner.incarnation = fact.incarnation
    QUALIFY row_number() OVER (PARTITION BY fact.run_id ORDER BY place DESC) = 1
), reached AS (
    SELECT fact.run_id, max(epoch) AS epoch, max(step) AS step, max(recorded_at_ns) AS recorded_at_ns,
        max_by(probe_accuracy, place) AS probe_accuracy, max_by(probe_loss, place) AS probe_loss,
        max_by(params, place) AS params
    FROM packets AS fact
    WHERE NOT EXISTS (
        FROM cuts
        WHERE cuts.run_id = fact.run_id AND cuts.to_sequence < fact.sequence
            AND (cuts.place > fact.place OR cuts.incarnation > fact.incarnation)
    )
    GROUP BY fact.run_id
), control AS (
    SELECT begun.control_of AS run_id, arg_max(ended.test_accuracy, begun.recorded_at_ns) AS test_accuracy
    FROM begun
    JOIN ended USING (run_id)
    WHERE begun.control_of <> ''
    GROUP BY ALL
)
SELECT
    begun.run_id,
    coalesce(ended.status, 'running') AS status,
    begun.task,
    begun.policy,
    begun.lifecycle,
    nullif(begun.control_of, '') AS control_of,
    nullif(begun.parent_run_id, '') AS parent_run_id,
    begun.epochs AS epochs_planned,
    coalesce(reached.epoch, 0) AS epochs_done,
    coalesce(reached.step, 0) AS steps_done,
    reached.probe_accuracy,
    reached.probe_loss,
    CASE WHEN NOT isnan(ended.test_accuracy) THEN ended.test_accuracy END AS test_accuracy,
    CASE WHEN NOT isnan(ended.test_loss) THEN ended.test_loss END AS test_loss,
    CASE WHEN NOT isnan(control.test_accuracy) THEN control.test_accuracy END AS control_accuracy,
    begun.params_host,
    coalesce(ended.params_final, reached.params) AS params_final,
    ended.flops,
    ended.germinated AS seeds_germinated,
    ended.fossilized AS seeds_fossilized,
    ended.culled AS seeds_culled,
    ended.telemetry_shed,
    ended.wall_s,
    nullif(ended.reason, '') AS reason,
    owner.incarnation,
    make_timestamp_ns(begun.recorded_at_ns::BIGINT) AS started_at,
    make_timestamp_ns(
        coalesce(ended.recorded_at_ns, reached.recorded_at_ns, begun.recorded_at_ns)::BIGINT
    ) AS last_at,
    begun.device,
    begun.esper_version,
    begun.random_seeds,
    begun.config_json
FROM begun
LEFT JOIN ended USING (run_id)
LEFT JOIN reached USING (run_id)
LEFT JOIN owner USING (run_id)
LEFT JOIN control ON control.run_id = begun.run_id;
