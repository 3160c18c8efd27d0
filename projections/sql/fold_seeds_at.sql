-- One row per seed of every run when `at_step` optimiser steps were taken, on the surviving timeline: each figure as the
-- last fact that says something of it has it. The twin of `SeedState` in `esper.record`.
WITH mark AS (
    SELECT run_id, max(sequence) AS sequence FROM fold_facts WHERE on_path AND step <= at_step GROUP BY run_id
), path AS MATERIALIZED (
    SELECT fact.* FROM fold_facts AS fact JOIN mark ON mark.run_id = fact.run_id AND fact.sequence <= mark.sequence
    WHERE on_path
), said AS (
    SELECT mark.run_id, seed.seed_id, 0::UBIGINT AS sequence, seed.site
    FROM mark
    JOIN fold_seeds AS seed ON seed.run_id = mark.run_id
    UNION ALL BY NAME
    SELECT path.sequence, found.* EXCLUDE (log_offset, sequence)
    FROM path
    JOIN fold_inherited AS found ON found.run_id = path.run_id AND found.log_offset = path.log_offset
    UNION ALL BY NAME
    SELECT path.sequence, said.* EXCLUDE (log_offset)
    FROM path
    JOIN fold_said AS said ON said.run_id = path.run_id AND said.log_offset = path.log_offset
)
SELECT
    run_id, seed_id,
    coalesce(arg_max(site, sequence), '') AS site,
    coalesce(arg_max(stage, sequence), 1) AS stage,
    coalesce(arg_max(blueprint_id, sequence), '') AS blueprint_id,
    coalesce(arg_max(alpha, sequence), 0) AS alpha,
    coalesce(arg_max(life, sequence), 0) AS life,
    coalesce(arg_max(parameters, sequence), 0) AS parameters,
    coalesce(arg_max(form, sequence), '') AS form,
    coalesce(arg_max(stage_age_epochs, sequence), 0) AS stage_age_epochs,
    coalesce(arg_max(since_sequence, sequence), 0) AS since_sequence,
    coalesce(arg_max(since_step, sequence), 0) AS since_step,
    coalesce(arg_max(since_epoch, sequence), 0) AS since_epoch
FROM said
GROUP BY run_id, seed_id;
