-- One row per move of a seed from one stage to another, in the trainer's words.
-- `surviving` is false where its fact does not count or a rollback or a resume cut it since.
SELECT
    fact.run_id,
    fact.epoch,
    fact.global_step AS step,
    fact.timeline,
    fact.incarnation,
    fact.sequence,
    fact.seed_id,
    fact.site,
    stage_name(fact.from_stage) AS from_stage,
    stage_name(fact.to_stage) AS to_stage,
    fact.reason,
    nullif(fact.blueprint_id, '') AS blueprint_id,
    fact.life,
    fact.alpha,
    fact.parameters,
    uuid_text(fact.command_id) AS command_id,
    fact.log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence) AS surviving,
    moment(fact.recorded_at_ns) AS recorded_at,
    uuid_text(fact.event_id) AS event_id,
    uuid_text(fact.causation_id) AS causation_id,
    uuid_text(fact.correlation_id) AS correlation_id,
    fact.log_offset
FROM log.seed_transitioned AS fact
WHERE fact.log_verdict <> 2;
