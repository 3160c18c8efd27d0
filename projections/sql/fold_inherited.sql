-- The seeds as a fork had them of its ancestors: at its first fact, which says so itself, and where it went back behind that.
-- `log_offset` is the fork's fact by which it came into this; `stage` is null where the seed had never moved.
WITH found AS MATERIALIZED (
    SELECT run_id, log_offset, unnest(inherited) AS seen FROM log.run_started WHERE len(inherited) > 0
), began AS (
    SELECT found.run_id, log_offset, seed.sequence, seen.seed_id, seen.stage, seen.blueprint_id, seen.alpha, seen.life,
        seen.parameters, seen.stage_age_epochs
    FROM found
    JOIN fold_seeds AS seed
        ON seed.run_id = found.run_id AND seed.seed_id = seen.seed_id AND seed.from_offset = found.log_offset
), said AS (
    SELECT DISTINCT shared.run_id, jump_offset, jump_sequence, seed.seed_id, 0::UBIGINT AS sequence, seed.site
    FROM fold_shared AS shared
    JOIN fold_seeds AS seed ON seed.run_id = shared.run_id
    UNION ALL BY NAME
    SELECT shared.run_id, jump_offset, jump_sequence, shared.sequence,
        began.* EXCLUDE (run_id, log_offset, sequence)
    FROM fold_shared AS shared
    JOIN began ON began.run_id = shared.of_run AND began.log_offset = shared.log_offset
    WHERE begins
    UNION ALL BY NAME
    SELECT shared.run_id, jump_offset, jump_sequence, shared.sequence, said.* EXCLUDE (run_id, log_offset)
    FROM fold_shared AS shared
    JOIN fold_said AS said ON said.run_id = shared.of_run AND said.log_offset = shared.log_offset
)
SELECT run_id, log_offset, sequence, seed_id, NULL::VARCHAR AS site, stage, blueprint_id, alpha, life,
    parameters, '' AS form, stage_age_epochs, 0::UBIGINT AS since_sequence, 0::UBIGINT AS since_step, 0 AS since_epoch
FROM began
UNION ALL BY NAME
SELECT run_id, jump_offset AS log_offset, jump_sequence AS sequence, seed_id,
    arg_max(site, said.sequence) AS site,
    arg_max(stage, said.sequence) AS stage,
    coalesce(arg_max(blueprint_id, said.sequence), '') AS blueprint_id,
    coalesce(arg_max(alpha, said.sequence), 0) AS alpha,
    coalesce(arg_max(life, said.sequence), 0) AS life,
    coalesce(arg_max(parameters, said.sequence), 0) AS parameters,
    coalesce(arg_max(form, said.sequence), '') AS form,
    coalesce(arg_max(stage_age_epochs, said.sequence), 0) AS stage_age_epochs,
    coalesce(arg_max(since_sequence, said.sequence), 0) AS since_sequence,
    coalesce(arg_max(since_step, said.sequence), 0) AS since_step,
    coalesce(arg_max(since_epoch, said.sequence), 0) AS since_epoch
FROM said
GROUP BY ALL;
