-- Every fact that counts: not void, not a repetition, and before the fold found a problem. `on_path` is true where it is
-- part of the surviving timeline; a fact behind which a rollback went happened, and counts for what no rollback takes
-- back. `step` and `epoch` are the run's clock after the fact, which a rollback sets back.
WITH owned AS (
    SELECT run_id, log_offset, sequence, timeline, global_step, epoch, event_id, log_body AS body
    FROM log.facts WHERE log_regular
    UNION ALL
    SELECT fact.run_id, fact.log_offset, fact.sequence, fact.timeline, fact.global_step, fact.epoch, fact.event_id,
        fact.log_body
    FROM log.facts AS fact
    JOIN fold_claims AS claim
        ON claim.run_id = fact.run_id AND claim.incarnation = fact.incarnation
        AND fact.log_offset BETWEEN claim.from_offset AND claim.until_offset
    WHERE fact.run_id IN (SELECT run_id FROM log.facts WHERE NOT log_regular)
        AND (fact.log_offset = claim.from_offset OR fact.log_body NOT IN ('run_started', 'run_resumed'))
    QUALIFY NOT log_regular AND row_number() OVER (
        PARTITION BY fact.run_id, fact.incarnation, fact.sequence ORDER BY log_regular DESC, fact.log_offset
    ) = 1
), jumps AS (
    SELECT jump.*
    FROM fold_jumps AS jump
    LEFT JOIN fold_problems AS problem ON problem.run_id = jump.run_id
    WHERE jump.log_offset < coalesce(problem.log_offset, 9223372036854775807)
)
SELECT
    fact.run_id, fact.log_offset, fact.sequence, fact.body, fact.event_id,
    coalesce(back.to_step, fact.global_step) AS step,
    coalesce(back.to_epoch, fact.epoch) AS epoch,
    coalesce(back.new_timeline, fact.timeline) AS timeline,
    NOT EXISTS (
        FROM jumps AS jump
        WHERE jump.run_id = fact.run_id AND jump.log_offset > fact.log_offset AND jump.to_sequence < fact.sequence
    ) AS on_path
FROM owned AS fact
LEFT JOIN fold_problems AS problem ON problem.run_id = fact.run_id
LEFT JOIN log.rolled_back AS back ON back.run_id = fact.run_id AND back.log_offset = fact.log_offset
WHERE fact.log_offset < coalesce(problem.log_offset, 9223372036854775807)
    AND NOT EXISTS (
        FROM jumps AS jump
        WHERE jump.run_id = fact.run_id AND jump.is_claim
            AND jump.log_offset > fact.log_offset AND jump.to_sequence < fact.sequence
    );
