-- One row per seed slot of every run, as it stands now on the surviving timeline: its stage, and what put it there.
WITH slot AS (
    SELECT run_id, seed_id, site, NULL::VARCHAR AS opened_by, NULL::UINTEGER AS opened_epoch FROM seed_slots
    UNION ALL BY NAME
    -- Where a seed became part of the host's own layers, another slot opened in its place.
    SELECT run_id, opened AS seed_id, site, seed_id AS opened_by, epoch AS opened_epoch
    FROM log.seed_absorbed AS fact
    WHERE log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence)
), change AS (
    SELECT run_id, seed_id, log_offset, sequence, to_stage AS stage, blueprint_id, life, alpha, parameters, reason,
        epoch AS since_epoch, global_step AS since_step, moment(recorded_at_ns) AS since, sequence AS moved_at
    FROM log.seed_transitioned
    WHERE log_verdict = 1
    UNION ALL BY NAME
    -- As a fork found it at its beginning, and where it went back behind that.
    SELECT run_id, log_offset, sequence, seen.seed_id, seen.stage, seen.blueprint_id, seen.life, seen.alpha, seen.parameters
    FROM (SELECT run_id, log_offset, sequence, unnest(inherited) AS seen FROM log.run_started WHERE log_verdict = 1)
    UNION ALL BY NAME
    SELECT run_id, log_offset, sequence, seed_id, stage, blueprint_id, life, alpha, parameters
    FROM decided.seeds
), last AS (
    SELECT *
    FROM change
    WHERE survives(change.run_id, change.log_offset, change.sequence)
    QUALIFY row_number() OVER (PARTITION BY run_id, seed_id ORDER BY sequence DESC) = 1
)
SELECT
    slot.run_id,
    slot.seed_id,
    slot.site,
    stage_name(coalesce(last.stage, 1)) AS stage,
    nullif(last.blueprint_id, '') AS blueprint_id,
    coalesce(last.life, 0) AS life,
    last.alpha,
    last.parameters,
    last.reason,
    last.since_epoch,
    last.since_step,
    last.since,
    last.moved_at AS sequence,
    slot.opened_by,
    slot.opened_epoch
FROM slot
LEFT JOIN last ON last.run_id = slot.run_id AND last.seed_id = slot.seed_id;
