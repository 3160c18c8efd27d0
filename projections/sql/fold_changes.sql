-- Every change of a seed's stage in the order of the log: its transitions, and what a jump restored it to (null: as before
-- its first transition), and how a fork found it. `prior` is the stage that the seed was in, `cause_offset` the transition that `stage` comes from.
WITH once AS MATERIALIZED (
    SELECT run_id, seed_id, log_offset, sequence, from_stage, to_stage FROM log.seed_transitioned WHERE log_regular
    UNION ALL
    SELECT transition.run_id, seed_id, log_offset, transition.sequence, from_stage, to_stage
    FROM log.seed_transitioned AS transition
    JOIN fold_claims AS claim
        ON claim.run_id = transition.run_id AND claim.incarnation = transition.incarnation
        AND log_offset BETWEEN claim.from_offset AND claim.until_offset
    WHERE transition.run_id IN (SELECT run_id FROM log.seed_transitioned WHERE NOT log_regular)
    QUALIFY NOT log_regular AND row_number() OVER (
        PARTITION BY transition.run_id, transition.incarnation, transition.sequence ORDER BY log_regular DESC, log_offset
    ) = 1
), restored AS (
    SELECT
        jump.run_id, once.seed_id, jump.log_offset, jump.sequence,
        max_by(once.to_stage, once.log_offset) FILTER (kept) AS stage,
        max(once.log_offset) FILTER (kept) AS cause_offset
    FROM fold_jumps AS jump
    JOIN (
        SELECT once.*, later.log_offset AS jump_offset, once.sequence <= later.to_sequence AND NOT EXISTS (
            FROM fold_jumps AS earlier
            WHERE earlier.run_id = once.run_id AND earlier.log_offset > once.log_offset
                AND earlier.log_offset < later.log_offset AND earlier.to_sequence < once.sequence
        ) AS kept
        FROM once
        JOIN fold_jumps AS later ON later.run_id = once.run_id AND later.log_offset > once.log_offset
    ) AS once ON once.run_id = jump.run_id AND once.jump_offset = jump.log_offset
    GROUP BY ALL
), changed AS (
    SELECT run_id, seed_id, log_offset, sequence, from_stage, to_stage AS stage, log_offset AS cause_offset FROM once
    UNION ALL
    SELECT run_id, seed_id, restored.log_offset, restored.sequence, NULL, coalesce(stage, seed.inherited.stage), cause_offset
    FROM restored
    LEFT JOIN fold_seeds AS seed USING (run_id, seed_id)
    UNION ALL
    SELECT run_id, seed_id, from_offset, sequence, NULL, inherited.stage, NULL
    FROM fold_seeds
    WHERE inherited IS NOT NULL
)
SELECT *, lag(stage) OVER (PARTITION BY run_id, seed_id ORDER BY log_offset) AS prior
FROM changed;
