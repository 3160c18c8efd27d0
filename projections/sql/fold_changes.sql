-- Every change of a seed's stage in the order of the log: its transitions, what a jump restored it to (null: as before its
-- first transition), and how a fork found it. `prior` is the stage that the seed was in, `cause_offset` the transition that
-- `stage` comes from, or the fact by which a fork has it of its ancestors.
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
), known AS NOT MATERIALIZED (
    SELECT run_id, seed_id, log_offset, sequence, from_stage, to_stage AS stage FROM once
    UNION ALL
    SELECT run_id, seed_id, log_offset, sequence, NULL, stage FROM fold_inherited
), restored AS (
    SELECT
        jump.run_id, known.seed_id, jump.log_offset, jump.sequence,
        arg_max_null(known.stage, known.log_offset) FILTER (kept) AS stage,
        max(known.log_offset) FILTER (kept) AS cause_offset
    FROM fold_jumps AS jump
    JOIN (
        SELECT known.*, later.log_offset AS jump_offset, known.sequence <= later.to_sequence AND NOT EXISTS (
            FROM fold_jumps AS earlier
            WHERE earlier.run_id = known.run_id AND earlier.log_offset > known.log_offset
                AND earlier.log_offset < later.log_offset AND earlier.to_sequence < known.sequence
        ) AS kept
        FROM known
        JOIN fold_jumps AS later ON later.run_id = known.run_id AND later.log_offset > known.log_offset
    ) AS known ON known.run_id = jump.run_id AND known.jump_offset = jump.log_offset
    GROUP BY ALL
), changed AS (
    SELECT *, log_offset AS cause_offset FROM known
    UNION ALL
    SELECT run_id, seed_id, log_offset, sequence, NULL, stage, cause_offset
    FROM restored
    ANTI JOIN fold_inherited USING (run_id, log_offset)
)
SELECT *, lag(stage) OVER (PARTITION BY run_id, seed_id ORDER BY log_offset) AS prior
FROM changed;
