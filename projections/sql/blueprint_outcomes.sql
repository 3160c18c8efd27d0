-- One row per blueprint and shape of the sites that it grew at: what became of its seeds, and what they did to the loss.
--
-- A germination counts where it survives, and so does its end; `undecided` ones were neither fossilised nor culled (yet).
-- `delta` is the change of the probe loss from a germination to its cull, or, where it was not culled, to the run's last
-- epoch: below zero it fell. The host learns meanwhile, too, so `gain`, for runs that have a control, is how much more it
-- fell than the control's between the same epochs: the figure that says whether a blueprint earned its place. Seeds that
-- grow at the same time share it. `low` and `high` are the 95 % interval of a mean by Student's t, null below two; a run
-- that only repeats another (same task, data, weights, policy and length) is counted, and is once in the means.
-- Cost is the median of what was attached.
WITH slot AS (
    SELECT DISTINCT ON (run_id, site.seed_id) run_id, site.seed_id AS seed_id, site.shape_kind AS shape_kind,
        site.shape AS shape
    FROM (SELECT run_id, log_offset, unnest(sites) AS site FROM log.run_started)
    ORDER BY log_offset
), independent AS (
    SELECT run_id
    FROM (SELECT DISTINCT ON (run_id) * FROM log.run_started ORDER BY log_offset)
    QUALIFY row_number() OVER (
        PARTITION BY task, data_fingerprint, weights_digest, policy, lifecycle, epochs,
            CASE WHEN octet_length(weights_digest) = 0 OR parent_run_id <> '' OR control_of <> '' THEN run_id END
        ORDER BY recorded_at_ns DESC
    ) = 1
), control AS (
    SELECT DISTINCT ON (control_of) control_of AS run_id, run_id AS control_id
    FROM log.run_started
    WHERE control_of <> ''
    ORDER BY log_offset DESC
), moves AS (
    SELECT run_id, seed_id, blueprint_id, from_stage, to_stage, sequence, epoch, recorded_at
    FROM transitions
    WHERE surviving AND (to_stage IN ('FOSSILIZED', 'CULLED') OR (from_stage = 'DORMANT' AND to_stage = 'GERMINATED'))
), life AS (
    SELECT begun.run_id, begun.seed_id, begun.blueprint_id, begun.epoch, begun.recorded_at, slot.shape_kind, slot.shape,
        ended.to_stage AS ending, CASE WHEN ended.to_stage = 'CULLED' THEN ended.epoch END AS until_epoch
    FROM (FROM moves WHERE to_stage = 'GERMINATED') AS begun
    JOIN slot USING (run_id, seed_id)
    ASOF LEFT JOIN (FROM moves WHERE to_stage <> 'GERMINATED') AS ended
        ON ended.run_id = begun.run_id AND ended.seed_id = begun.seed_id AND ended.blueprint_id = begun.blueprint_id
        AND begun.sequence <= ended.sequence
), counted AS (
    SELECT blueprint_id, shape_kind, shape, count(DISTINCT run_id) AS runs, count(*) AS germinated,
        count(*) FILTER (ending = 'FOSSILIZED') AS fossilized, count(*) FILTER (ending = 'CULLED') AS culled,
        max(recorded_at) AS last_at
    FROM life
    GROUP BY ALL
), probe AS (
    SELECT DISTINCT ON (run_id, epoch) run_id, epoch, probe_loss::DOUBLE AS loss
    FROM epochs
    WHERE surviving
    ORDER BY sequence DESC
), last AS (
    SELECT run_id, max(epoch) AS epoch FROM probe GROUP BY run_id
), measured AS (
    SELECT life.blueprint_id, life.shape_kind, life.shape, closed.loss - opened.loss AS delta,
        (there.loss - here.loss) - (closed.loss - opened.loss) AS gain
    FROM life
    JOIN independent USING (run_id)
    JOIN last ON last.run_id = life.run_id
    JOIN probe AS opened ON opened.run_id = life.run_id AND opened.epoch = life.epoch
    JOIN probe AS closed ON closed.run_id = life.run_id AND closed.epoch = coalesce(life.until_epoch, last.epoch)
    LEFT JOIN control ON control.run_id = life.run_id
    LEFT JOIN probe AS here ON here.run_id = control.control_id AND here.epoch = opened.epoch
    LEFT JOIN probe AS there ON there.run_id = control.control_id AND there.epoch = closed.epoch
), spread AS (
    SELECT blueprint_id, shape_kind, shape,
        count(delta) FILTER (isfinite(delta)) AS measured, avg(delta) FILTER (isfinite(delta)) AS mean_delta,
        stddev_samp(delta) FILTER (isfinite(delta)) AS delta_spread,
        count(gain) FILTER (isfinite(gain)) AS compared, avg(gain) FILTER (isfinite(gain)) AS mean_gain,
        stddev_samp(gain) FILTER (isfinite(gain)) AS gain_spread
    FROM measured
    GROUP BY ALL
), cost AS (
    SELECT attached.blueprint_id, slot.shape_kind, slot.shape, TRY_CAST(median(module_parameters) AS BIGINT) AS parameters,
        TRY_CAST(median(flops_per_sample) AS BIGINT) AS flops_per_sample
    FROM log.kernel_attached AS attached
    JOIN slot USING (run_id, seed_id)
    WHERE attached.log_verdict = 1 AND coalesce(attached.trouble, '') = ''
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
    coalesce(spread.measured, 0) AS measured,
    spread.mean_delta,
    spread.mean_delta - student_t(spread.measured) * spread.delta_spread / sqrt(spread.measured) AS delta_low,
    spread.mean_delta + student_t(spread.measured) * spread.delta_spread / sqrt(spread.measured) AS delta_high,
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
