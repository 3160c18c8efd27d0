-- What each fact says of a seed; null where it says nothing of that figure. A fork's first fact says how it found the seeds;
-- where a fork went back behind its beginning, `decided.seeds` has them as they were there.
SELECT move.run_id, move.log_offset, move.sequence, move.seed_id, nullif(move.site, '') AS site, move.to_stage AS stage,
    CASE WHEN attached.stage IS NULL THEN '' ELSE move.blueprint_id END AS blueprint_id, move.alpha, move.life,
    move.parameters, CASE WHEN attached.stage IS NULL THEN '' END AS form, 0 AS stage_age_epochs,
    move.sequence AS since_sequence, move.global_step AS since_step, move.epoch AS since_epoch
FROM log.seed_transitioned AS move
LEFT JOIN attached_stages AS attached ON attached.stage = move.to_stage
WHERE log_verdict = 1
UNION ALL BY NAME
SELECT run_id, log_offset, sequence, seed_id, blueprint_id, module_parameters AS parameters, form
FROM log.kernel_attached
WHERE log_verdict = 1
UNION ALL BY NAME
SELECT run_id, log_offset, sequence, seed_id, to_form AS form
FROM log.kernel_swapped
WHERE log_verdict = 1
UNION ALL BY NAME
SELECT run_id, log_offset, sequence, seed.seed_id, seed.alpha, seed.parameters, seed.stage_age_epochs
FROM (SELECT run_id, log_offset, sequence, unnest(seeds) AS seed FROM log.epoch_completed WHERE log_verdict = 1)
UNION ALL BY NAME
SELECT run_id, log_offset, sequence, seen.seed_id, seen.stage, seen.blueprint_id, seen.alpha, seen.life, seen.parameters,
    '' AS form, seen.stage_age_epochs, 0 AS since_sequence, 0 AS since_step, 0 AS since_epoch
FROM (SELECT run_id, log_offset, sequence, unnest(inherited) AS seen FROM log.run_started WHERE log_verdict = 1)
UNION ALL BY NAME
FROM decided.seeds;
