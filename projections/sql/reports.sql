-- One row per field report: what came of an applied command, or of a decision that no window watches.
-- `surviving` is false where the packet that closed its window does not count or a rollback or a resume cut it since.
WITH told AS NOT MATERIALIZED (
    SELECT *, stands(fact.run_id, fact.causation_id, fact.correlation_id) AS surviving FROM log.field_report AS fact
), once AS NOT MATERIALIZED (
    -- A stretch that is gone through again reports on the same command under the same id: the one that survives counts.
    SELECT *
    FROM told
    JOIN (
        SELECT run_id, log_partition, min_by(log_offset, log_offset + ((NOT surviving)::BIGINT << 61)) AS log_offset
        FROM told
        GROUP BY run_id, log_partition, event_id
    ) AS first USING (run_id, log_partition, log_offset)
)
SELECT
    fact.run_id,
    fact.epoch,
    fact.global_step AS step,
    nullif(fact.seed_id, '') AS seed_id,
    nullif(fact.blueprint_id, '') AS blueprint_id,
    outcome_name(fact.outcome) AS outcome,
    fact.metrics,
    fact.observation_window_epochs,
    fact.tamiyo_policy_version AS policy_version,
    fact.follow_up_actions,
    fact.notes,
    fact.report_id,
    nullif(fact.command_id, '') AS command_id,
    nullif(fact.decision_id, '') AS decision_id,
    fact.issued_at,
    fact.surviving,
    moment(fact.recorded_at_ns) AS recorded_at,
    uuid_text(fact.event_id) AS event_id,
    uuid_text(fact.causation_id) AS causation_id,
    uuid_text(fact.correlation_id) AS correlation_id,
    fact.log_offset
FROM once AS fact;
