-- One row per checkpoint that was saved, and when it was pruned, if it was.
-- `surviving` is false where its fact does not count or a rollback or a resume cut it since.
SELECT
    fact.run_id,
    fact.epoch,
    fact.global_step AS step,
    fact.timeline,
    fact.incarnation,
    fact.sequence,
    fact.ref,
    fact.bytes,
    hex_text(fact.state_digest) AS state_digest,
    fact.upto_sequence,
    fact.reason,
    fact.duration_ms,
    pruned.pruned_at,
    pruned.pruned_at IS NULL AS kept,
    fact.log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence) AS surviving,
    moment(fact.recorded_at_ns) AS recorded_at,
    uuid_text(fact.event_id) AS event_id,
    uuid_text(fact.causation_id) AS causation_id,
    uuid_text(fact.correlation_id) AS correlation_id,
    fact.log_offset
FROM log.checkpoint_saved AS fact
LEFT JOIN (
    SELECT run_id, ref, moment(min(recorded_at_ns)) AS pruned_at FROM log.checkpoint_pruned GROUP BY ALL
) AS pruned ON pruned.run_id = fact.run_id AND pruned.ref = fact.ref
WHERE fact.log_verdict <> 2;
