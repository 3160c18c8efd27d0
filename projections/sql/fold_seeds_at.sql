-- One row per seed of every run when `at_step` optimiser steps were taken, on the surviving timeline: each figure as the
-- last fact that says something of it has it. The twin of `SeedState` in `esper.history`.
WITH mark AS (
    SELECT run_id, max(sequence) AS sequence FROM fold_facts WHERE on_path AND step <= at_step GROUP BY run_id
), path AS MATERIALIZED (
    SELECT fact.* FROM fold_facts AS fact JOIN mark ON mark.run_id = fact.run_id AND fact.sequence <= mark.sequence
    WHERE on_path
), said AS (
    SELECT path.run_id, seed.seed_id, path.sequence, seed.site, coalesce(seed.inherited.stage, 1) AS stage,
        coalesce(seed.inherited.blueprint_id, '') AS blueprint_id, coalesce(seed.inherited.alpha, 0)::FLOAT AS alpha,
        coalesce(seed.inherited.life, 0) AS life, coalesce(seed.inherited.parameters, 0)::UBIGINT AS parameters,
        '' AS form, coalesce(seed.inherited.stage_age_epochs, 0) AS stage_age_epochs, 0::UBIGINT AS since_sequence,
        0::UBIGINT AS since_step, 0 AS since_epoch
    FROM path
    JOIN fold_seeds AS seed ON seed.run_id = path.run_id
    WHERE path.body = 'run_started'
    UNION ALL BY NAME
    SELECT path.run_id, move.seed_id, path.sequence, nullif(move.site, '') AS site, move.to_stage AS stage,
        CASE WHEN attached.stage IS NULL THEN '' ELSE move.blueprint_id END AS blueprint_id, move.alpha, move.life,
        move.parameters, CASE WHEN attached.stage IS NULL THEN '' END AS form, 0 AS stage_age_epochs,
        path.sequence AS since_sequence, path.step AS since_step, path.epoch AS since_epoch
    FROM path
    JOIN log.seed_transitioned AS move ON move.run_id = path.run_id AND move.log_offset = path.log_offset
    LEFT JOIN attached_stages AS attached ON attached.stage = move.to_stage
    UNION ALL BY NAME
    SELECT path.run_id, kernel.seed_id, path.sequence, kernel.blueprint_id, kernel.module_parameters AS parameters,
        kernel.form
    FROM path
    JOIN log.kernel_attached AS kernel ON kernel.run_id = path.run_id AND kernel.log_offset = path.log_offset
    UNION ALL BY NAME
    SELECT path.run_id, swap.seed_id, path.sequence, swap.to_form AS form
    FROM path
    JOIN log.kernel_swapped AS swap ON swap.run_id = path.run_id AND swap.log_offset = path.log_offset
    UNION ALL BY NAME
    SELECT run_id, seed.seed_id, sequence, seed.alpha, seed.parameters, seed.stage_age_epochs
    FROM (
        SELECT path.run_id, path.sequence, unnest(packet.seeds) AS seed
        FROM path
        JOIN log.epoch_completed AS packet ON packet.run_id = path.run_id AND packet.log_offset = path.log_offset
    )
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
