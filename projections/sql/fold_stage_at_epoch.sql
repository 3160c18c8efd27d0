-- The stage of every seed at the end of every epoch of the surviving timeline, by the fold.
WITH once AS NOT MATERIALIZED (
    SELECT run_id, log_offset, sequence, epoch, global_step FROM log.epoch_completed WHERE log_regular
    UNION ALL
    SELECT fact.run_id, log_offset, fact.sequence, epoch, global_step
    FROM log.epoch_completed AS fact
    JOIN fold_claims AS claim
        ON claim.run_id = fact.run_id AND claim.incarnation = fact.incarnation
        AND log_offset BETWEEN claim.from_offset AND claim.until_offset
    WHERE fact.run_id IN (SELECT run_id FROM log.epoch_completed WHERE NOT log_regular)
    QUALIFY NOT log_regular AND row_number() OVER (
        PARTITION BY fact.run_id, fact.incarnation, fact.sequence ORDER BY log_regular DESC, log_offset
    ) = 1
), surviving AS (
    SELECT once.*
    FROM once
    LEFT JOIN fold_problems AS problem ON problem.run_id = once.run_id
    WHERE once.log_offset < coalesce(problem.log_offset, 9223372036854775807)
        AND NOT EXISTS (
            FROM fold_jumps AS jump
            WHERE jump.run_id = once.run_id AND jump.log_offset > once.log_offset
                AND jump.to_sequence < once.sequence
                AND jump.log_offset < coalesce(problem.log_offset, 9223372036854775807)
        )
)
SELECT surviving.run_id, surviving.sequence, epoch, global_step AS step, seed.seed_id,
    coalesce(change.stage, 1) AS stage
FROM surviving
JOIN fold_seeds AS seed ON seed.run_id = surviving.run_id
ASOF LEFT JOIN fold_changes AS change
    ON change.run_id = surviving.run_id AND change.seed_id = seed.seed_id
    AND change.log_offset <= surviving.log_offset;
