-- One row per command, a decision's or a person's, with what the trainer made of it: applied, rejected, or null so far.
-- `surviving` is false where that does not count or a rollback or a resume cut it since; without an answer, as its decision.
WITH once AS NOT MATERIALIZED (
    SELECT *
    FROM log.adaptation_command
    JOIN (
        SELECT run_id, log_partition, min(log_offset) AS log_offset
        FROM log.adaptation_command
        GROUP BY run_id, log_partition, event_id
    ) AS first USING (run_id, log_partition, log_offset)
), answered AS (
    -- Of several answers one that survives comes first, then that the command was applied, then the first.
    SELECT run_id, command_id, arg_min(answer, place) AS answer
    FROM (
        SELECT *, log_offset + ((answer.outcome <> 'applied')::BIGINT << 60) + ((NOT answer.surviving)::BIGINT << 61) AS place
        FROM (
            SELECT fact.run_id, fact.command_id, fact.log_offset, {
                'outcome': 'applied', 'step': fact.global_step, 'reason': NULL::VARCHAR, 'detail': NULL::VARCHAR,
                'recorded_at_ns': fact.recorded_at_ns,
                'surviving': fact.log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence)
            } AS answer
            FROM log.command_applied AS fact
            WHERE fact.log_verdict <> 2
            UNION ALL
            SELECT fact.run_id, fact.command_id, fact.log_offset, {
                'outcome': 'rejected', 'step': fact.global_step, 'reason': fact.reason, 'detail': nullif(fact.detail, ''),
                'recorded_at_ns': fact.recorded_at_ns,
                'surviving': fact.log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence)
            }
            FROM log.command_rejected AS fact
            WHERE fact.log_verdict <> 2
        )
    )
    GROUP BY ALL
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
    answered.answer.outcome AS outcome,
    answered.answer.step AS outcome_step,
    answered.answer.reason AS rejected_reason,
    answered.answer.detail AS rejected_detail,
    moment(answered.answer.recorded_at_ns) AS outcome_at,
    request.rollback_payload,
    request.annotations,
    coalesce(answered.answer.surviving, stands(request.run_id, request.causation_id, request.correlation_id)) AS surviving,
    moment(request.recorded_at_ns) AS recorded_at,
    uuid_text(request.event_id) AS event_id,
    uuid_text(request.causation_id) AS causation_id,
    uuid_text(request.correlation_id) AS correlation_id,
    request.log_offset
FROM once AS request
LEFT JOIN answered
    ON answered.run_id = request.run_id AND answered.command_id = try(unhex(replace(request.command_id, '-', '')));
