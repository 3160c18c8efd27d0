-- Where a fork went back behind its own beginning: the facts of its whole history that were the way to the fact that it went
-- back to, its ancestors' among them; none where that fact is not there. `jump_offset` is its jump, `of_run` whose fact it is.
WITH RECURSIVE behind AS MATERIALIZED (
    SELECT jump.run_id, jump.log_offset, jump.sequence, jump.to_sequence
    FROM fold_jumps AS jump
    JOIN fold_claims AS claim
        ON claim.run_id = jump.run_id AND claim.first AND claim.starts AND claim.accepted > 0
        AND jump.to_sequence <= claim.accepted
), started AS NOT MATERIALIZED (
    SELECT claim.run_id, start.parent_run_id, start.parent_sequence, start.causation_id
    FROM fold_claims AS claim
    JOIN log.run_started AS start ON start.run_id = claim.run_id AND start.log_offset = claim.from_offset
    WHERE claim.first AND start.parent_run_id <> ''
), line AS (
    SELECT DISTINCT run_id, run_id AS of_run, 0 AS depth, NULL::UBIGINT AS last, NULL::BLOB AS event_id, [run_id] AS seen
    FROM behind
    UNION ALL
    SELECT line.run_id, parent_run_id, depth + 1, parent_sequence, causation_id, list_append(seen, parent_run_id)
    FROM line
    JOIN started ON started.run_id = line.of_run
    WHERE NOT list_contains(seen, parent_run_id)
), ancestor AS (
    SELECT line.run_id, of_run, depth, first(fact.log_offset ORDER BY fact.event_id = line.event_id DESC, fact.log_offset) AS upto
    FROM line
    JOIN log.facts AS fact ON fact.run_id = line.of_run AND fact.sequence = line.last
    GROUP BY ALL
), stretch AS MATERIALIZED (
    -- An ancestor that the archive does not have ends the line.
    SELECT run_id, of_run, depth, 9223372036854775807 AS upto FROM line WHERE depth = 0
    UNION ALL
    SELECT * FROM ancestor QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY depth) = depth
), jump AS MATERIALIZED (
    SELECT stretch.run_id, depth, log_offset, to_sequence
    FROM stretch
    JOIN fold_jumps AS own ON own.run_id = stretch.of_run AND own.log_offset <= stretch.upto
    UNION ALL
    SELECT child.run_id, child.depth, claim.from_offset, claim.accepted
    FROM stretch AS child
    JOIN stretch AS parent ON parent.run_id = child.run_id AND parent.depth = child.depth + 1
    JOIN fold_claims AS claim ON claim.run_id = child.of_run AND claim.first
), fact AS MATERIALIZED (
    SELECT stretch.run_id, of_run, depth, fact.log_offset, fact.sequence,
        fact.log_body = 'run_started' AND depth = max(depth) OVER (PARTITION BY stretch.run_id) AS begins
    FROM stretch
    JOIN log.facts AS fact ON fact.run_id = stretch.of_run AND fact.log_offset <= stretch.upto
    JOIN fold_claims AS claim
        ON claim.run_id = fact.run_id AND claim.incarnation = fact.incarnation
        AND fact.log_offset BETWEEN claim.from_offset AND claim.until_offset
    WHERE fact.log_offset = claim.from_offset OR fact.log_body NOT IN ('run_started', 'run_resumed')
    QUALIFY row_number() OVER (
        PARTITION BY stretch.run_id, depth, fact.incarnation, fact.sequence ORDER BY fact.log_offset
    ) = 1
)
SELECT
    behind.run_id, behind.log_offset AS jump_offset, behind.sequence AS jump_sequence, behind.to_sequence,
    fact.of_run, fact.log_offset, fact.sequence, fact.begins
FROM behind
JOIN fact ON fact.run_id = behind.run_id AND fact.sequence <= behind.to_sequence
    AND (fact.depth > 0 OR fact.log_offset < behind.log_offset)
WHERE NOT EXISTS (
    FROM jump
    WHERE jump.run_id = behind.run_id AND jump.to_sequence < fact.sequence
        AND (jump.depth < fact.depth OR (jump.depth = fact.depth AND jump.log_offset > fact.log_offset))
        AND (jump.depth > 0 OR jump.log_offset < behind.log_offset)
)
QUALIFY max(fact.sequence) OVER (PARTITION BY behind.run_id, behind.log_offset) = behind.to_sequence;
