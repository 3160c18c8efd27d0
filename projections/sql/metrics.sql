-- One row per value of a metric: of each epoch on the probe set, and on the test set at a run's end.
-- A run of before there were metrics was measured by its accuracy. `main` is the one that the run is about.
WITH said AS (
    SELECT run_id, epoch, global_step, 'probe' AS measured_on, state.validation_accuracy::DOUBLE AS accuracy, metrics,
        log_verdict, log_offset, sequence, recorded_at_ns, event_id
    FROM log.epoch_completed
    UNION ALL
    SELECT run_id, epoch, global_step, 'test', test_accuracy, metrics, log_verdict, log_offset, sequence, recorded_at_ns,
        event_id
    FROM log.run_finished
), value AS (
    SELECT *, unnest(CASE WHEN len(metrics) > 0 THEN metrics ELSE
        [{'name': 'accuracy', 'unit': '%', 'lower_is_better': false, 'value': 100 * accuracy, 'stderr': NULL::DOUBLE}]
    END) AS metric, unnest(range(greatest(len(metrics), 1))) AS place
    FROM said
    WHERE log_verdict <> 2 AND (len(metrics) > 0 OR NOT isnan(accuracy))
)
SELECT
    value.run_id,
    value.epoch,
    value.global_step AS step,
    value.sequence,
    value.measured_on,
    value.metric.name AS name,
    value.metric.unit AS unit,
    CASE WHEN value.metric.lower_is_better THEN 'lower is better' ELSE 'higher is better' END AS direction,
    number_of(value.metric.value) AS value,
    value.metric.stderr AS stderr,
    value.place = 0 AS main,
    value.log_verdict = 1 AND survives(value.run_id, value.log_offset, value.sequence) AS surviving,
    moment(value.recorded_at_ns) AS recorded_at,
    uuid_text(value.event_id) AS event_id
FROM value;
