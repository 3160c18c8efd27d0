-- One row per figure that was measured while training: step samples, each seed's part of them, and metric points.
-- A loss has the unit of the run's metric of that name, or nats where classes are learnt, as all were before metrics.
WITH measured AS (
    SELECT run_id, coalesce(
        list_filter(metrics, lambda metric: metric.name = 'loss')[1].unit,
        CASE WHEN coalesce(len(metrics), 0) = 0
            OR len(list_filter(metrics, lambda metric: metric.name = 'accuracy')) > 0 THEN 'nats' ELSE '' END
    ) AS loss_unit
    FROM (SELECT DISTINCT ON (run_id) run_id, metrics FROM log.run_started ORDER BY log_offset)
)
SELECT run_id, global_step AS step, epoch, NULL AS seed_id, sample.name, sample.value, sample.unit, producer AS source,
    moment(recorded_at_ns) AS recorded_at
FROM (
    SELECT *, unnest([
        {'name': 'loss', 'value': loss::DOUBLE, 'unit': coalesce(loss_unit, '')},
        {'name': 'gradient_norm', 'value': gradient_norm::DOUBLE, 'unit': ''},
        {'name': 'samples_per_s', 'value': samples_per_s::DOUBLE, 'unit': '1/s'},
        {'name': 'step_ms', 'value': step_ms::DOUBLE, 'unit': 'ms'}
    ]) AS sample
    FROM log.step_sampled LEFT JOIN measured USING (run_id)
)
UNION ALL
SELECT run_id, global_step, epoch, seed.seed_id, sample.name, sample.value, '', producer, moment(recorded_at_ns)
FROM (
    SELECT *, unnest([
        {'name': 'alpha', 'value': seed.alpha::DOUBLE},
        {'name': 'seed_gradient_norm', 'value': seed.gradient_norm::DOUBLE},
        {'name': 'side_loss', 'value': seed.side_loss::DOUBLE},
        {'name': 'activation_norm_ratio', 'value': seed.activation_norm_ratio::DOUBLE}
    ]) AS sample
    FROM (SELECT *, unnest(seeds) AS seed FROM log.step_sampled)
)
UNION ALL
-- What a script said of a step goes out with the next sample, and says which step it was.
SELECT run_id, CASE source_subsystem WHEN 'script' THEN coalesce(TRY_CAST(point.attributes['step'] AS UBIGINT), global_step)
    ELSE global_step END, epoch, point.attributes['seed_id'], point.name, point.value, point.unit,
    source_subsystem, moment(recorded_at_ns)
FROM (SELECT *, unnest(metrics) AS point FROM log.telemetry_packet);
