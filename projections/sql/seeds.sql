-- One row per seed slot of every run, as it stands now by the fold: its stage, and what put it there.
SELECT
    state.run_id,
    state.seed_id,
    state.site,
    stage_name(state.stage) AS stage,
    nullif(coalesce(cause.blueprint_id, slot.inherited.blueprint_id), '') AS blueprint_id,
    coalesce(cause.life, slot.inherited.life, 0) AS life,
    coalesce(cause.alpha, slot.inherited.alpha) AS alpha,
    coalesce(cause.parameters, slot.inherited.parameters) AS parameters,
    cause.reason,
    cause.epoch AS since_epoch,
    cause.global_step AS since_step,
    moment(cause.recorded_at_ns) AS since,
    cause.sequence
FROM fold_stages AS state
JOIN fold_seeds AS slot ON slot.run_id = state.run_id AND slot.seed_id = state.seed_id
LEFT JOIN log.seed_transitioned AS cause
    ON cause.run_id = state.run_id AND cause.seed_id = state.seed_id AND cause.log_offset = state.cause_offset;
