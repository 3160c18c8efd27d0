-- One row per decision on a state packet: what was chosen among what, and why.
-- `surviving` is false where the packet does not count or a rollback or a resume cut it since.
WITH once AS NOT MATERIALIZED (
    SELECT *
    FROM log.decision_made
    JOIN (
        SELECT run_id, log_partition, min(log_offset) AS log_offset
        FROM log.decision_made
        GROUP BY run_id, log_partition, event_id
    ) AS first USING (run_id, log_partition, log_offset)
)
SELECT
    fact.run_id,
    fact.epoch,
    fact.global_step AS step,
    fact.policy,
    fact.policy_version,
    fact.actions[fact.action::BIGINT + 1] AS chosen,
    fact.reason,
    fact.risk,
    fact.risk_reasons,
    fact.actions,
    fact.logits,
    fact.draw,
    fact.latency_ms,
    fact.value_estimate,
    uuid_text(fact.packet_id) AS packet_id,
    uuid_text(fact.command_id) AS command_id,
    hex_text(fact.observation_hash) AS observation_hash,
    nullif(fact.observation_ref, '') AS observation_ref,
    hex_text(fact.policy_hash) AS policy_hash,
    stands(fact.run_id, fact.causation_id, fact.correlation_id) AS surviving,
    moment(fact.recorded_at_ns) AS recorded_at,
    uuid_text(fact.event_id) AS event_id,
    uuid_text(fact.causation_id) AS causation_id,
    uuid_text(fact.correlation_id) AS correlation_id,
    fact.log_offset
FROM once AS fact;
