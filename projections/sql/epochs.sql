-- One row per epoch that a run completed.
-- `surviving` is false where a rollback or a resume went back behind it, or its writer was superseded.
WITH once AS NOT MATERIALIZED (
    SELECT * FROM log.epoch_completed WHERE log_regular
    UNION ALL
    SELECT fact.*
    FROM log.epoch_completed AS fact
    WHERE run_id IN (SELECT run_id FROM log.epoch_completed WHERE NOT log_regular)
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
    fact.state.training_loss AS training_loss,
    fact.state.validation_loss AS probe_loss,
    fact.probe_loss_stderr,
    fact.state.validation_accuracy AS probe_accuracy,
    fact.params,
    fact.params_host,
    fact.flops,
    fact.duration_s,
    fact.hook_ms_before,
    fact.conservative,
    fact.epochs_since_structural_change,
    fact.seeds,
    fact.evidence,
    fact.windows,
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
