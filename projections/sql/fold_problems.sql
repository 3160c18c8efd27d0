-- The first fact of a run that cannot be true, if any: there the fold stops that run and says so. Void facts (of an
-- incarnation that another one superseded, or of a claim that lost) and identical repetitions are no problem.
-- Runs whose facts are all regular and that never jumped have at most an illegal transition (`projections/regularity.py`).
WITH suspect AS MATERIALIZED (
    SELECT run_id FROM log.facts WHERE NOT log_regular
    UNION
    SELECT run_id FROM fold_jumps
), placed AS MATERIALIZED (
    SELECT fact.run_id, fact.log_offset, fact.sequence, fact.incarnation, fact.event_id, fact.log_body AS body,
        claim.claim, claim.incarnation AS owner, claim.from_offset
    FROM log.facts AS fact
    LEFT JOIN fold_claims AS claim
        ON claim.run_id = fact.run_id
        AND fact.log_offset >= claim.from_offset AND fact.log_offset < claim.until_offset
    WHERE fact.run_id IN (FROM suspect)
), live AS MATERIALIZED (
    SELECT *, max(sequence) OVER (
        PARTITION BY claim ORDER BY log_offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS reached
    FROM placed
    WHERE incarnation = owner AND (log_offset = from_offset OR body NOT IN ('run_started', 'run_resumed'))
), found AS (
    SELECT run_id, log_offset, sequence, 1 AS rank, 'not_started' AS problem
    FROM placed WHERE owner IS NULL
    UNION ALL
    SELECT run_id, from_offset, sequence, 1, 'not_started' FROM fold_claims WHERE first AND NOT starts
    UNION ALL
    SELECT run_id, from_offset, sequence, 2, 'gap' FROM fold_claims WHERE first AND starts AND sequence <> accepted + 1
    UNION ALL
    SELECT run_id, log_offset, sequence, 1, 'unclaimed'
    FROM placed WHERE incarnation > owner AND body NOT IN ('run_started', 'run_resumed')
    UNION ALL
    SELECT run_id, from_offset, sequence, 1, 'bad_claim'
    FROM fold_claims WHERE NOT first AND (starts OR sequence <> accepted + 1)
    UNION ALL
    SELECT run_id, log_offset, sequence, 2, CASE WHEN sequence > reached + 1 THEN 'gap' ELSE 'conflict' END
    FROM live AS odd
    WHERE sequence > reached + 1 OR (sequence <= reached AND NOT EXISTS (
        FROM live AS original
        WHERE original.claim = odd.claim AND original.sequence = odd.sequence
            AND original.event_id = odd.event_id AND original.log_offset < odd.log_offset
    ))
    UNION ALL
    SELECT run_id, log_offset, sequence, 3, CASE WHEN is_claim THEN 'bad_claim' ELSE 'bad_rollback' END
    FROM fold_jumps AS jump
    WHERE NOT EXISTS (
        FROM live AS target
        WHERE target.run_id = jump.run_id AND target.sequence = jump.to_sequence AND target.log_offset < jump.log_offset
            AND (target.reached IS NULL OR target.sequence = target.reached + 1)  -- a repetition is no fact to go back to
            AND NOT EXISTS (
                FROM fold_jumps AS earlier
                WHERE earlier.run_id = target.run_id AND earlier.log_offset > target.log_offset
                    AND earlier.log_offset < jump.log_offset AND earlier.to_sequence < target.sequence
            )
    ) AND NOT EXISTS (  -- nor does a fork find it among the facts of its ancestors
        FROM fold_shared AS shared WHERE shared.run_id = jump.run_id AND shared.jump_offset = jump.log_offset
    )
    UNION ALL
    SELECT run_id, log_offset, sequence, 4, 'illegal_transition'
    FROM fold_changes AS change
    WHERE from_stage IS NOT NULL AND (
        from_stage <> coalesce(prior, CASE from_stage WHEN 0 THEN 0 ELSE 1 END)
        OR NOT EXISTS (FROM fold_seeds AS seed WHERE seed.run_id = change.run_id AND seed.seed_id = change.seed_id)
        OR NOT EXISTS (
            FROM legal_moves AS move WHERE move.from_stage = change.from_stage AND move.to_stage = change.stage
        )
    )
)
SELECT
    run_id, first(problem ORDER BY log_offset, rank) AS problem,
    first(sequence ORDER BY log_offset, rank) AS sequence, min(log_offset) AS log_offset
FROM found
GROUP BY run_id;
