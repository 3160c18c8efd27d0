-- One row per checkpoint that was saved, and when it was pruned, if it was.
-- `surviving` is false where a rollback or a resume went back behind it, or its writer was superseded.
WITH once AS NOT MATERIALIZED (
    SELECT * FROM log.checkpoint_saved WHERE log_regular
    UNION ALL
    SELECT fact.*
    FROM log.checkpoint_saved AS fact
    WHERE run_id IN (SELECT run_id FROM log.checkpoint_saved WHERE NOT log_regular)
    QUALIFY NOT log_regular
        AND row_number() OVER (PARTITION BY run_id, event_id ORDER BY log_regular DESC, log_offset) = 1
)
SELECT
    run_id,
    fact.epoch,
    fact.global_step AS step,
    fact.timeline,
    fact.incarnation,
    fact.sequence,
    ref,
    fact.bytes,
    hex_text(fact.state_digest) AS state_digest,
    fact.upto_sequence,
    fact.reason,
    fact.duration_ms,
    pruned.pruned_at,
    pruned.pruned_at IS NULL AS kept,
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
FROM once AS fact
LEFT JOIN (
    SELECT run_id, ref, moment(min(recorded_at_ns)) AS pruned_at FROM log.checkpoint_pruned GROUP BY ALL
) AS pruned USING (run_id, ref);
