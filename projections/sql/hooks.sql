-- One row per epoch hook, as its trainer told: how long it took from packet to acknowledgement, and the parts of that.
-- It is telemetry, which may be shed under pressure: an epoch can lack its row, and one that was repeated has several.
WITH told AS (
    SELECT DISTINCT ON (run_id, event_id) *
    FROM log.telemetry_packet
    WHERE len(list_filter(metrics, lambda metric: metric.name = 'tolaria.epoch_hook.latency_ms')) > 0
)
SELECT
    run_id,
    epoch,
    global_step AS step,
    timeline,
    incarnation,
    list_filter(metrics, lambda metric: metric.name = 'tolaria.epoch_hook.latency_ms')[1].value AS latency_ms,
    list_filter(metrics, lambda metric: metric.name = 'tolaria.epoch_hook.assembly_ms')[1].value AS assembly_ms,
    list_filter(metrics, lambda metric: metric.name = 'tolaria.epoch_hook.decision_ms')[1].value AS decision_ms,
    list_filter(metrics, lambda metric: metric.name = 'tolaria.epoch_hook.command_ms')[1].value AS command_ms,
    list_filter(metrics, lambda metric: metric.name = 'tolaria.epoch_hook.acknowledgement_ms')[1].value
        AS acknowledgement_ms,
    moment(recorded_at_ns) AS recorded_at,
    uuid_text(event_id) AS event_id,
    log_offset
FROM told;
