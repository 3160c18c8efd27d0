-- One row per blueprint and shape of the sites that it grew at: what became of its seeds, and what the probe loss did.
--
-- A germination counts where it survives, and so does its end; `undecided` ones were neither fossilised nor culled (yet).
-- `delta` is the change of the probe loss over a germination's observation window, below zero where it fell; the host
-- learns meanwhile, too, so `gain`, for runs that have a control, is how much more it fell than the control's over the
-- same epochs: the figure that says whether the blueprint earned its place. Seeds that grow at the same time share it.
-- `low` and `high` are the 95 % interval of a mean by Student's t, null below two. Cost is the median of what was attached.
WITH slot AS (
    SELECT DISTINCT ON (run_id, site.seed_id) run_id, site.seed_id AS seed_id, site.shape_kind AS shape_kind,
        site.shape AS shape
    FROM (SELECT run_id, log_offset, unnest(sites) AS site FROM log.run_started)
    ORDER BY log_offset
), germination AS (
    SELECT transition.run_id, transition.seed_id, transition.blueprint_id, transition.command_id, transition.epoch,
        transition.recorded_at, slot.shape_kind, slot.shape
    FROM transitions AS transition
    JOIN slot USING (run_id, seed_id)
    WHERE transition.surviving AND transition.from_stage = 'DORMANT' AND transition.to_stage = 'GERMINATED'
), ending AS (
    SELECT run_id, seed_id, blueprint_id, count(*) FILTER (to_stage = 'FOSSILIZED') AS fossilized,
        count(*) FILTER (to_stage = 'CULLED') AS culled
    FROM transitions
    WHERE surviving AND to_stage IN ('FOSSILIZED', 'CULLED')
    GROUP BY ALL
), counted AS (
    SELECT blueprint_id, shape_kind, shape, count(DISTINCT run_id) AS runs, sum(germinated)::BIGINT AS germinated,
        coalesce(sum(ending.fossilized), 0)::BIGINT AS fossilized, coalesce(sum(ending.culled), 0)::BIGINT AS culled,
        max(last_at) AS last_at
    FROM (
        SELECT run_id, seed_id, blueprint_id, shape_kind, shape, count(*) AS germinated, max(recorded_at) AS last_at
        FROM germination
        GROUP BY ALL
    ) AS grown
    LEFT JOIN ending USING (run_id, seed_id, blueprint_id)
    GROUP BY ALL
), surviving_epoch AS (
    SELECT DISTINCT ON (run_id, epoch) run_id, epoch, probe_loss
    FROM epochs
    WHERE surviving
    ORDER BY sequence DESC
), control AS (
    SELECT DISTINCT ON (control_of) control_of AS run_id, run_id AS control_id
    FROM log.run_started
    WHERE control_of <> ''
    ORDER BY log_offset DESC
), measured AS (
    SELECT germination.blueprint_id, germination.shape_kind, germination.shape,
        report.metrics['loss_delta_total']::DOUBLE AS delta,
        (closed.probe_loss - opened.probe_loss)::DOUBLE - report.metrics['loss_delta_total'] AS gain
    FROM germination
    JOIN reports AS report ON report.run_id = germination.run_id AND report.command_id = germination.command_id
    LEFT JOIN control ON control.run_id = germination.run_id
    LEFT JOIN surviving_epoch AS opened ON opened.run_id = control.control_id AND opened.epoch = germination.epoch
    LEFT JOIN surviving_epoch AS closed ON closed.run_id = control.control_id AND closed.epoch = report.epoch
), spread AS (
    SELECT blueprint_id, shape_kind, shape,
        count(delta) FILTER (isfinite(delta)) AS reported, avg(delta) FILTER (isfinite(delta)) AS mean_delta,
        stddev_samp(delta) FILTER (isfinite(delta)) AS delta_spread,
        count(gain) FILTER (isfinite(gain)) AS compared, avg(gain) FILTER (isfinite(gain)) AS mean_gain,
        stddev_samp(gain) FILTER (isfinite(gain)) AS gain_spread
    FROM measured
    GROUP BY ALL
), cost AS (
    SELECT attached.blueprint_id, slot.shape_kind, slot.shape, median(module_parameters)::BIGINT AS parameters,
        median(flops_per_sample)::BIGINT AS flops_per_sample
    FROM log.kernel_attached AS attached
    JOIN slot USING (run_id, seed_id)
    GROUP BY ALL
)
SELECT
    counted.blueprint_id,
    counted.shape_kind,
    counted.shape,
    counted.runs,
    counted.germinated,
    counted.fossilized,
    counted.culled,
    counted.germinated - counted.fossilized - counted.culled AS undecided,
    coalesce(spread.reported, 0) AS reported,
    spread.mean_delta,
    spread.mean_delta - student_t(spread.reported) * spread.delta_spread / sqrt(spread.reported) AS delta_low,
    spread.mean_delta + student_t(spread.reported) * spread.delta_spread / sqrt(spread.reported) AS delta_high,
    coalesce(spread.compared, 0) AS compared,
    spread.mean_gain,
    spread.mean_gain - student_t(spread.compared) * spread.gain_spread / sqrt(spread.compared) AS gain_low,
    spread.mean_gain + student_t(spread.compared) * spread.gain_spread / sqrt(spread.compared) AS gain_high,
    cost.parameters,
    cost.flops_per_sample,
    counted.last_at
FROM counted
LEFT JOIN spread USING (blueprint_id, shape_kind, shape)
LEFT JOIN cost USING (blueprint_id, shape_kind, shape);
