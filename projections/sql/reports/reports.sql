-- One row per field report: what came of an applied command. `loss_delta` is the probe loss, new minus old.
SELECT
    run_id,
    epoch,
    step,
    seed_id,
    blueprint_id,
    CASE outcome WHEN 0 THEN 'UNSPECIFIED' WHEN 1 THEN 'SUCCESS' WHEN 2 THEN 'NEUTRAL' WHEN 3 THEN 'REGRESSION' WHEN 4 THEN 'ABORTED'
        ELSE outcome::VARCHAR END AS outcome,
    loss_delta,
    metrics,
    window_epochs,
    nullif(policy_version, '') AS policy_version,
    follow_up_actions,
    nullif(notes, '') AS ended_as,
    report_id,
    command_id,
    make_timestamp_ns(recorded_at_ns::BIGINT) AS recorded_at
FROM reported;
