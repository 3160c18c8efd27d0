-- One row per command, a decision's or a person's, with what the trainer made of it: applied, rejected, or null so far.
WITH once AS NOT MATERIALIZED (
    SELECT *
    FROM log.adaptation_command
    JOIN (
        SELECT run_id, log_partition, min(log_offset) AS log_offset
        FROM log.adaptation_command
        GROUP BY run_id, log_partition, event_id
    ) AS first USING (run_id, log_partition, log_offset)
), applied AS (
    SELECT run_id, command_id, min(global_step) AS step, min(recorded_at_ns) AS recorded_at_ns
    FROM log.command_applied GROUP BY ALL
), rejected AS (
    SELECT run_id, command_id, min(global_step) AS step, first(reason ORDER BY log_offset) AS reason,
        first(detail ORDER BY log_offset) AS detail, min(recorded_at_ns) AS recorded_at_ns
    FROM log.command_rejected GROUP BY ALL
)
SELECT
    request.run_id,
    request.epoch,
    request.global_step AS step,
    request.command_id,
    command_type_name(request.command_type) AS command_type,
    operation_name(request.seed_operation.operation) AS operation,
    nullif(request.target_seed_id, '') AS seed_id,
    nullif(request.seed_operation.blueprint_id, '') AS blueprint_id,
    request.seed_operation.parameters AS parameters,
    request.issued_by,
    request.issued_at,
    CASE WHEN applied.step IS NOT NULL THEN 'applied' WHEN rejected.step IS NOT NULL THEN 'rejected' END AS outcome,
    coalesce(applied.step, rejected.step) AS outcome_step,
    rejected.reason AS rejected_reason,
    nullif(rejected.detail, '') AS rejected_detail,
    moment(coalesce(applied.recorded_at_ns, rejected.recorded_at_ns)) AS outcome_at,
    request.rollback_payload,
    request.annotations,
    moment(request.recorded_at_ns) AS recorded_at,
    uuid_text(request.event_id) AS event_id,
    uuid_text(request.causation_id) AS causation_id,
    uuid_text(request.correlation_id) AS correlation_id,
    request.log_offset
FROM once AS request
LEFT JOIN applied ON applied.run_id = request.run_id AND applied.command_id = try(unhex(replace(request.command_id, '-', '')))
LEFT JOIN rejected
    ON rejected.run_id = request.run_id AND rejected.command_id = try(unhex(replace(request.command_id, '-', '')));
