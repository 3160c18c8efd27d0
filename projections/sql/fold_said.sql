-- What each fact says of a seed; null where it says nothing of that figure.
SELECT move.run_id, move.log_offset, move.seed_id, nullif(move.site, '') AS site, move.to_stage AS stage,
    CASE WHEN attached.stage IS NULL THEN '' ELSE move.blueprint_id END AS blueprint_id, move.alpha, move.life,
    move.parameters, CASE WHEN attached.stage IS NULL THEN '' END AS form, 0 AS stage_age_epochs,
    move.sequence AS since_sequence, move.global_step AS since_step, move.epoch AS since_epoch
FROM log.seed_transitioned AS move
LEFT JOIN attached_stages AS attached ON attached.stage = move.to_stage
UNION ALL BY NAME
SELECT run_id, log_offset, seed_id, blueprint_id, module_parameters AS parameters, form
FROM log.kernel_attached
UNION ALL BY NAME
SELECT run_id, log_offset, seed_id, to_form AS form
FROM log.kernel_swapped
UNION ALL BY NAME
SELECT run_id, log_offset, seed.seed_id, seed.alpha, seed.parameters, seed.stage_age_epochs
FROM (SELECT run_id, log_offset, unnest(seeds) AS seed FROM log.epoch_completed);
