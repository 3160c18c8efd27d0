-- One row per service level objective: what of its error budget of 30 days is spent, and how fast.
-- The windows end with the newest thing that any objective counts, so that a history says the same whenever it is asked.
WITH goals(slo, kind, objective) AS (
    VALUES ('decisions_in_time', 'availability', 0.999), ('epoch_hooks', 'latency', 0.95),
        ('rollbacks_in_time', 'latency', 0.99), ('telemetry_kept', 'error_rate', 0.95)
), answered AS (
    SELECT packet_id, max(recorded_at_ns) AS at_ns, bool_or(late) AS late FROM (
        SELECT packet_id, recorded_at_ns, false AS late FROM log.decision_made
        UNION ALL
        SELECT packet_id, recorded_at_ns, true FROM log.decision_timed_out WHERE log_verdict = 1
    ) GROUP BY packet_id
), pairs AS (
    SELECT recorded_at_ns, parts[1] AS slo,
        any_value(point.value) FILTER (parts[2] = 'actual') AS actual,
        any_value(point.value) FILTER (parts[2] = 'objective') AS wanted,
        any_value(point.attributes['kind']) AS kind
    FROM (
        SELECT *, regexp_extract_all(point.name, '^slo\.(.+)_(actual|objective)$', 1)
            || regexp_extract_all(point.name, '^slo\.(.+)_(actual|objective)$', 2) AS parts
        FROM (SELECT *, unnest(metrics) AS point FROM log.telemetry_packet)
        WHERE starts_with(point.name, 'slo.')
    )
    WHERE len(parts) = 2
    GROUP BY event_id, recorded_at_ns, parts[1]
), counted AS (
    SELECT 'decisions_in_time' AS slo, at_ns, (late)::BIGINT AS bad, 1::BIGINT AS asked FROM answered
    UNION ALL
    SELECT 'epoch_hooks', recorded_at_ns,
        (hook_ms_before - least(hook_contended_ms_before, hook_ms_before) > 18)::BIGINT, 1
    FROM log.epoch_completed WHERE log_verdict = 1 AND hook_ms_before > 0
    UNION ALL
    SELECT 'rollbacks_in_time', recorded_at_ns, deadline_exceeded::BIGINT, 1
    FROM log.rolled_back WHERE log_verdict = 1 AND level <> 'rewind'
    UNION ALL
    SELECT 'telemetry_kept', recorded_at_ns, 0, 1 FROM log.step_sampled
    UNION ALL
    SELECT 'telemetry_kept', recorded_at_ns, 0, 1 FROM log.telemetry_packet
    UNION ALL
    SELECT 'telemetry_kept', recorded_at_ns, "count"::BIGINT, "count"::BIGINT FROM log.telemetry_shed
    UNION ALL
    SELECT slo, recorded_at_ns,
        (CASE WHEN kind = 'availability' THEN actual < wanted ELSE actual > wanted END)::BIGINT, 1
    FROM pairs WHERE actual IS NOT NULL AND wanted IS NOT NULL
), told AS (
    SELECT slo, any_value(coalesce(kind, 'latency')) AS kind FROM pairs
    WHERE actual IS NOT NULL AND wanted IS NOT NULL GROUP BY slo
), every_goal AS (
    FROM goals
    UNION ALL
    SELECT slo, kind, 0.99 FROM told WHERE slo NOT IN (SELECT slo FROM goals)
), aged AS (
    SELECT *, ((SELECT max(at_ns) FROM counted) - at_ns) / 3.6e12 AS hours FROM counted
), summed AS (
    SELECT slo, sum(asked) AS asked, sum(bad) AS bad,
        sum(bad) FILTER (hours <= 24) AS bad_1d,
        sum(bad) FILTER (hours <= 1) / sum(asked) FILTER (hours <= 1) AS errors_1h,
        sum(bad) FILTER (hours <= 6) / sum(asked) FILTER (hours <= 6) AS errors_6h,
        sum(bad) FILTER (hours <= 24) / sum(asked) FILTER (hours <= 24) AS errors_1d,
        sum(bad) FILTER (hours <= 72) / sum(asked) FILTER (hours <= 72) AS errors_3d
    FROM aged WHERE hours <= 720 GROUP BY slo
)
SELECT
    slo,
    kind,
    objective::DOUBLE AS objective,
    coalesce(asked, 0)::BIGINT AS asked,
    coalesce(bad, 0)::BIGINT AS bad,
    ((1 - objective) * coalesce(asked, 0))::DOUBLE AS budget,
    (coalesce(bad / ((1 - objective) * asked), 0))::DOUBLE AS spent,
    (greatest(0, 1 - coalesce(bad / ((1 - objective) * asked), 0)))::DOUBLE AS budget_left,
    (coalesce(errors_1h, 0) / (1 - objective))::DOUBLE AS burn_1h,
    (coalesce(errors_6h, 0) / (1 - objective))::DOUBLE AS burn_6h,
    (coalesce(errors_1d, 0) / (1 - objective))::DOUBLE AS burn_1d,
    (coalesce(errors_3d, 0) / (1 - objective))::DOUBLE AS burn_3d,
    (coalesce(bad_1d / ((1 - objective) * asked), 0))::DOUBLE AS spent_1d,
    coalesce((1 - objective) * asked >= 1 AND bad_1d / ((1 - objective) * asked) >= 0.4, false) AS burning
FROM every_goal LEFT JOIN summed USING (slo)
ORDER BY slo;
