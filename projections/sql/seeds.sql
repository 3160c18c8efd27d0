-- One row per seed slot of every run, as it stands now by the fold: its stage, and what put it there.
SELECT
    state.run_id,
    state.seed_id,
    state.site,
    stage_name(state.stage) AS stage,
    nullif(coalesce(cause.blueprint_id, found.blueprint_id), '') AS blueprint_id,
    coalesce(cause.life, found.life, 0) AS life,
    coalesce(cause.alpha, found.alpha) AS alpha,
    coalesce(cause.parameters, found.parameters) AS parameters,
    cause.reason,
    cause.epoch AS since_epoch,
    cause.global_step AS since_step,
    moment(cause.recorded_at_ns) AS since,
    cause.sequence
FROM fold_stages AS state
LEFT JOIN log.seed_transitioned AS cause
    ON cause.run_id = state.run_id AND cause.seed_id = state.seed_id AND cause.log_offset = state.cause_offset
LEFT JOIN fold_inherited AS found
    ON found.run_id = state.run_id AND found.seed_id = state.seed_id AND found.log_offset = state.cause_offset;
