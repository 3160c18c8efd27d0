-- One row per run: what it was to do, how far it came, how it ended, and whether its history holds together.
-- `status` is running until the trainer says otherwise, and stopped where the fold found a fact that cannot be true.
-- What stands behind "of some:" is its SQL where only the runs of some ids are asked for (`views.runs_of`).
WITH started AS (
    SELECT DISTINCT ON (run_id) * FROM log.run_started
    -- of some: WHERE run_id IN (SELECT unnest($ids))
    ORDER BY log_offset
), owner AS (
    SELECT run_id, max(incarnation) AS incarnation
    FROM (
        SELECT run_id, incarnation FROM log.run_started WHERE log_verdict = 1
        UNION ALL SELECT run_id, incarnation FROM log.run_resumed WHERE log_verdict = 1
    )
    -- of some: WHERE run_id IN (SELECT unnest($ids))
    GROUP BY run_id
), ended AS (
    -- A process that takes a run over goes on with it, however it had ended.
    SELECT DISTINCT ON (run_id) fact.*
    FROM log.run_finished AS fact
    JOIN owner ON owner.run_id = fact.run_id AND owner.incarnation = fact.incarnation
    WHERE fact.log_verdict = 1
    -- of some: AND fact.run_id IN (SELECT unnest($ids))
    ORDER BY log_offset DESC
), going_on AS (
    SELECT DISTINCT run_id FROM log.run_started WHERE run_id NOT IN (SELECT run_id FROM ended)
    -- of some: AND run_id IN (SELECT unnest($ids))
), process AS (
    -- What each process took: as it said at its end, else from its first fact to its last. One that was superseded and wrote
    -- on has facts that do not count.
    SELECT fact.run_id, fact.incarnation,
        coalesce(any_value(told.wall_s), (max(fact.recorded_at_ns) - min(fact.recorded_at_ns)) / 1e9) AS wall_s
    FROM log.facts AS fact
    LEFT JOIN (
        SELECT run_id, incarnation, max(wall_s) AS wall_s FROM log.run_finished WHERE log_verdict = 1 GROUP BY ALL
    ) AS told ON told.run_id = fact.run_id AND told.incarnation = fact.incarnation
    WHERE fact.log_verdict = 1
        AND fact.run_id IN (SELECT run_id FROM log.run_resumed UNION SELECT run_id FROM going_on)
        -- of some: AND fact.run_id IN (SELECT unnest($ids))
    GROUP BY ALL
), took AS (
    SELECT run_id, sum(wall_s) AS wall_s FROM process GROUP BY run_id
), machines AS (
    -- What each process of a run computed with; null in what an older Esper wrote.
    SELECT run_id, list({'incarnation': incarnation, 'from_step': global_step, 'machine': machine} ORDER BY log_offset)
        AS processes
    FROM (
        SELECT run_id, log_offset, incarnation, global_step, machine FROM log.run_started WHERE log_verdict = 1
        UNION ALL
        SELECT run_id, log_offset, incarnation, global_step, machine FROM log.run_resumed WHERE log_verdict = 1
    )
    -- of some: WHERE run_id IN (SELECT unnest($ids))
    GROUP BY run_id
), heard AS (
    -- The last that its trainer said of a run that has not ended: telemetry comes within an epoch, too.
    SELECT run_id, max(recorded_at_ns) AS recorded_at_ns
    FROM log.every
    WHERE producer = 'trainer' AND run_id IN (SELECT run_id FROM going_on)
    GROUP BY run_id
), told AS (
    -- Whether a person has told its trainer to stand still.
    SELECT run_id, arg_max(paused, log_offset) AS paused
    FROM log.command_applied
    WHERE log_verdict = 1 AND paused IS NOT NULL
    -- of some: AND run_id IN (SELECT unnest($ids))
    GROUP BY run_id
), reached AS (
    SELECT run_id, max(epoch) AS epoch, max(global_step) AS step,
        max_by(state.validation_accuracy, log_offset) AS probe_accuracy, max_by(metrics, log_offset)[1] AS main,
        max_by(state.validation_loss, log_offset) AS probe_loss, max_by(params, log_offset) AS params
    FROM log.epoch_completed AS fact
    WHERE log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence)
    -- of some: AND run_id IN (SELECT unnest($ids))
    GROUP BY run_id
)
SELECT
    started.run_id,
    CASE WHEN problem.problem IS NOT NULL THEN 'stopped' ELSE coalesce(ended.status, 'running') END AS status,
    ended.status IS NULL AND coalesce(told.paused, false) AS paused,
    started.task,
    nullif(regexp_extract(started.config_json, '"task": "([^"\\]*\.py:[^"\\]*)"', 1), '') AS task_file,
    started.policy,
    started.lifecycle,
    nullif(started.control_of, '') AS control_of,
    nullif(regexp_extract(started.config_json, '"static_of": "([^"\\]*)"', 1), '') AS static_of,
    nullif(started.parent_run_id, '') AS parent_run_id,
    CASE WHEN started.parent_run_id <> '' THEN started.global_step END AS fork_step,
    nullif(started.fork_change, '') AS fork_change,
    started.epochs AS epochs_planned,
    coalesce(reached.epoch, 0) AS epochs_done,
    coalesce(reached.step, 0) AS steps_done,
    number_of(reached.probe_accuracy) AS probe_accuracy,
    reached.probe_loss,
    coalesce(ended.metrics[1].name, reached.main.name, started.metrics[1].name, 'accuracy') AS metric,
    coalesce(ended.metrics[1].unit, reached.main.unit, started.metrics[1].unit, '%') AS metric_unit,
    CASE WHEN coalesce(ended.metrics[1].lower_is_better, reached.main.lower_is_better, started.metrics[1].lower_is_better)
        THEN 'lower is better' ELSE 'higher is better' END AS metric_direction,
    number_of(coalesce(reached.main.value, 100 * reached.probe_accuracy::DOUBLE)) AS probe_metric,
    number_of(coalesce(ended.metrics[1].value, 100 * ended.test_accuracy)) AS test_metric,
    number_of(ended.test_accuracy) AS test_accuracy,
    number_of(ended.test_loss) AS test_loss,
    started.params_host,
    coalesce(ended.params_final, reached.params) AS params_final,
    ended.flops,
    ended.germinated AS seeds_germinated,
    ended.fossilized AS seeds_fossilized,
    ended.culled AS seeds_culled,
    len(ended.unproven)::UINTEGER AS seeds_unproven,
    ended.test_accuracy_without,
    ended.test_loss_without,
    ended.telemetry_shed,
    coalesce(took.wall_s, ended.wall_s) AS wall_s,
    coalesce(problem.problem || ' at sequence ' || problem.sequence, nullif(ended.reason, '')) AS reason,
    owner.incarnation,
    machines.processes,
    moment(started.recorded_at_ns) AS started_at,
    moment(coalesce(ended.recorded_at_ns, heard.recorded_at_ns, started.recorded_at_ns)) AS last_at,
    TRY_CAST(regexp_extract(started.config_json, '"seed": ([0-9]+)', 1) AS UBIGINT) AS random_seed,
    nullif(regexp_extract(started.config_json, '"optimizer": "([^"\\]*)"', 1), '') AS optimizer,
    TRY_CAST(regexp_extract(started.config_json, '"learning_rate": ([-+.0-9eE]+)', 1) AS DOUBLE) AS learning_rate,
    nullif(regexp_extract(started.config_json, '"rate_policy": "([^"\\]*)"', 1), '') AS rate_policy,
    TRY_CAST(regexp_extract(started.config_json, '"weight_decay": ([-+.0-9eE]+)', 1) AS DOUBLE) AS weight_decay,
    TRY_CAST(regexp_extract(started.config_json, '"batch_size": ([0-9]+)', 1) AS UINTEGER) AS batch_size,
    started.device,
    started.esper_version,
    started.seeds AS random_seeds,
    started.config_json
FROM started
LEFT JOIN ended USING (run_id)
LEFT JOIN took USING (run_id)
LEFT JOIN told USING (run_id)
LEFT JOIN machines USING (run_id)
LEFT JOIN heard USING (run_id)
LEFT JOIN reached USING (run_id)
LEFT JOIN owner USING (run_id)
LEFT JOIN stops AS problem USING (run_id);
