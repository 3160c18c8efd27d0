-- One row per seed of every run when `at_step` optimiser steps were taken, on the surviving timeline: each figure as the
-- last fact that says something of it has it. The same in Python is `SeedState` of `esper.record`.
WITH mark AS (
    SELECT run_id, max(sequence) AS sequence FROM accepted_facts WHERE on_path AND step <= at_step GROUP BY run_id
), said AS (
    SELECT mark.run_id, slot.seed_id, 0::UBIGINT AS sequence, slot.site
    FROM mark
    JOIN seed_slots AS slot ON slot.run_id = mark.run_id
    UNION ALL BY NAME
    SELECT figure.* EXCLUDE (log_offset)
    FROM seed_figures AS figure
    JOIN mark ON mark.run_id = figure.run_id AND figure.sequence <= mark.sequence
    WHERE survives(figure.run_id, figure.log_offset, figure.sequence)
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
