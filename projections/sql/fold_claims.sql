-- Which incarnation owned a run between which offsets. Of two claims to one incarnation the lower offset wins, and a
-- claim counts only above every earlier one. `accepted` is the last sequence of the incarnation before that still counts;
-- for a fork's first fact the last one that it shares with its parent.
WITH claimed AS (
    SELECT run_id, incarnation, log_offset, sequence, coalesce(parent_sequence, 0)::UBIGINT AS accepted,
        true AS starts
    FROM log.run_started
    UNION ALL
    SELECT run_id, incarnation, log_offset, sequence, accepted_sequence, false FROM log.run_resumed
), ordered AS (
    SELECT *, coalesce(max(incarnation) OVER (
        PARTITION BY run_id ORDER BY log_offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ), 0) AS highest_before
    FROM claimed
)
SELECT
    row_number() OVER (ORDER BY run_id, log_offset)::INTEGER AS claim,
    run_id, incarnation, sequence, accepted, starts,
    log_offset AS from_offset,
    lead(log_offset, 1, 9223372036854775807) OVER (PARTITION BY run_id ORDER BY log_offset) AS until_offset,
    highest_before = 0 AS first
FROM ordered
WHERE incarnation > highest_before;
