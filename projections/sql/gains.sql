-- One row per completed run that stands beside a control run or a static one: what growth won by the run's main metric.
-- A gain above 0 is better whichever the metric's direction; `student_t(count(*)) * stddev(gain_over_control) /
-- sqrt(count(*))` is half the 95 % interval of its mean over random seeds.
WITH told AS (
    SELECT run_id, control_of, static_of, metric, metric_unit, test_metric, test_loss, flops
    FROM runs
    WHERE status = 'completed' AND (control_of IS NOT NULL OR static_of IS NOT NULL)
), control AS (
    SELECT DISTINCT ON (control_of) * FROM told WHERE control_of IS NOT NULL ORDER BY run_id
), static AS (
    SELECT DISTINCT ON (static_of) * FROM told WHERE static_of IS NOT NULL ORDER BY run_id
)
SELECT
    grown.run_id,
    grown.task,
    grown.random_seed,
    grown.policy,
    grown.lifecycle,
    grown.metric,
    grown.metric_unit,
    grown.metric_direction,
    grown.test_metric,
    control.run_id AS control_run_id,
    CASE WHEN control.metric = grown.metric AND control.metric_unit = grown.metric_unit THEN control.test_metric END
        AS control_test_metric,
    better * (grown.test_metric - control_test_metric) AS gain_over_control,
    static.run_id AS static_run_id,
    CASE WHEN static.metric = grown.metric AND static.metric_unit = grown.metric_unit THEN static.test_metric END
        AS static_test_metric,
    better * (grown.test_metric - static_test_metric) AS gain_over_static,
    grown.test_loss,
    control.test_loss AS control_test_loss,
    static.test_loss AS static_test_loss,
    grown.flops,
    control.flops AS control_flops,
    static.flops AS static_flops,
    grown.seeds_fossilized,
    grown.started_at
FROM (SELECT *, CASE WHEN metric_direction = 'lower is better' THEN -1 ELSE 1 END AS better FROM runs) AS grown
LEFT JOIN control ON control.control_of = grown.run_id
LEFT JOIN static ON static.static_of = grown.run_id
WHERE grown.status = 'completed' AND (control.run_id IS NOT NULL OR static.run_id IS NOT NULL);
