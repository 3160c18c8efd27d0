-- One row per move of a seed from one stage to another, in the trainer's words.
-- `surviving` is false where a rollback or a resume went back behind it, or its writer was superseded.
WITH once AS NOT MATERIALIZED (
    SELECT * FROM log.seed_transitioned WHERE log_regular
    UNION ALL
    SELECT fact.*
    FROM log.seed_transitioned AS fact
    WHERE run_id IN (SELECT run_id FROM log.seed_transitioned WHERE NOT log_regular)
    QUALIFY NOT log_regular
        AND row_number() OVER (PARTITION BY run_id, event_id ORDER BY log_regular DESC, log_offset) = 1
)
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
    NOT EXISTS (
        FROM fold_jumps AS jump
        WHERE jump.run_id = fact.run_id AND jump.to_sequence < fact.sequence
            AND (jump.log_offset > fact.log_offset OR jump.incarnation > fact.incarnation)
    ) AS surviving,
    moment(fact.recorded_at_ns) AS recorded_at,
    uuid_text(fact.event_id) AS event_id,
    uuid_text(fact.causation_id) AS causation_id,
    uuid_text(fact.correlation_id) AS correlation_id,
    fact.log_offset
FROM once AS fact;
