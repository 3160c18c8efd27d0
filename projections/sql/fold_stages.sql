-- The stage of every seed now, by the fold; `cause_offset` is the transition that put it there, or the fact by which a fork has
-- it of its ancestors; null before the first.
WITH ends AS (
    SELECT change.run_id, seed_id, arg_max_null(stage, change.log_offset) AS stage,
        arg_max_null(cause_offset, change.log_offset) AS cause_offset
    FROM fold_changes AS change
    LEFT JOIN fold_problems AS problem ON problem.run_id = change.run_id
    WHERE change.log_offset < coalesce(problem.log_offset, 9223372036854775807)
    GROUP BY ALL
)
SELECT declared.run_id, declared.seed_id, declared.site, coalesce(ends.stage, 1) AS stage, ends.cause_offset
FROM fold_seeds AS declared
LEFT JOIN ends USING (run_id, seed_id);
