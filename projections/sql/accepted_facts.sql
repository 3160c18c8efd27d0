-- Every fact that counts, once. `on_path` is true where it is part of the surviving timeline; a fact behind which a
-- rollback went happened, and counts for what no rollback takes back. `step` and `epoch` are the run's clock after the
-- fact, which a rollback sets back.
SELECT
    fact.run_id, fact.log_offset, fact.sequence, fact.log_body AS body, fact.event_id,
    coalesce(back.to_step, fact.global_step) AS step,
    coalesce(back.to_epoch, fact.epoch) AS epoch,
    coalesce(back.new_timeline, fact.timeline) AS timeline,
    survives(fact.run_id, fact.log_offset, fact.sequence) AS on_path
FROM log.facts AS fact
LEFT JOIN log.rolled_back AS back ON back.run_id = fact.run_id AND back.log_offset = fact.log_offset
WHERE fact.log_verdict = 1 AND NOT EXISTS (
    FROM cuts AS claim
    WHERE claim.run_id = fact.run_id AND claim.is_claim
        AND claim.log_offset > fact.log_offset AND claim.to_sequence < fact.sequence
);
