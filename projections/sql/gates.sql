-- One row per gate that was evaluated, with its figures: name, value and, where there is one, limit.
-- `surviving` is false where its fact does not count or a rollback or a resume cut it since.
SELECT
    fact.run_id,
    fact.epoch,
    fact.global_step AS step,
    fact.timeline,
    fact.incarnation,
    fact.sequence,
    fact.seed_id,
    gate_name(fact.gate) AS gate,
    fact.passed,
    fact.reason,
    stage_name(fact.stage) AS stage,
    fact.life,
    fact.measurements,
    fact.log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence) AS surviving,
    moment(fact.recorded_at_ns) AS recorded_at,
    uuid_text(fact.event_id) AS event_id,
    uuid_text(fact.causation_id) AS causation_id,
    uuid_text(fact.correlation_id) AS correlation_id,
    fact.log_offset
FROM log.gate_evaluated AS fact
WHERE fact.log_verdict <> 2;
