-- One row per figure that was measured while training: step samples, each seed's part of them, and metric points.
SELECT run_id, global_step AS step, epoch, NULL AS seed_id, sample.name, sample.value, sample.unit, producer AS source,
    moment(recorded_at_ns) AS recorded_at
FROM (
    SELECT *, unnest([
        {'name': 'loss', 'value': loss::DOUBLE, 'unit': 'nats'},
        {'name': 'gradient_norm', 'value': gradient_norm::DOUBLE, 'unit': ''},
        {'name': 'samples_per_s', 'value': samples_per_s::DOUBLE, 'unit': '1/s'},
        {'name': 'step_ms', 'value': step_ms::DOUBLE, 'unit': 'ms'}
    ]) AS sample
    FROM log.step_sampled
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
SELECT run_id, global_step, epoch, point.attributes['seed_id'], point.name, point.value, point.unit,
    source_subsystem, moment(recorded_at_ns)
FROM (SELECT *, unnest(metrics) AS point FROM log.telemetry_packet);
