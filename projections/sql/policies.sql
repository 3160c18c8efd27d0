-- One row per policy version that was trained: what its gates said of it, whether it decides now, how often it was left.
-- Live is the last version promoted for all runs; a staged one decides for a share of new runs until the next promotion.
-- A name is given once: what claims it with other weights is another policy's, and no part of this.
WITH trained AS (
    SELECT DISTINCT ON (policy_id, policy_version) * FROM log.policy_trained ORDER BY log_offset
), validated AS (
    SELECT DISTINCT ON (policy_id, policy_version, weights_ref) *
    FROM log.policy_validated
    ORDER BY log_offset DESC
), rejected AS (
    SELECT DISTINCT ON (policy_id, policy_version) policy_id, policy_version, coalesce(nullif(detail, ''), reason) AS why
    FROM log.policy_rejected
    WHERE coalesce(process, '') = ''
    ORDER BY log_offset DESC
), refused AS (
    SELECT policy_id, policy_version, count(DISTINCT process) AS processes
    FROM log.policy_rejected
    WHERE coalesce(process, '') <> ''
    GROUP BY ALL
), offered AS (
    SELECT DISTINCT policy_id, tamiyo_policy_version AS policy_version, payload_ref AS weights_ref FROM log.policy_update
), promoted AS (
    SELECT DISTINCT ON (fact.event_id)
        fact.policy_id, fact.policy_version, fact.by AS said_by, fact.reason, coalesce(fact.share, 0) AS share,
        coalesce(fact.rolled_back_from, '') AS rolled_back_from, fact.recorded_at_ns, fact.log_offset
    FROM log.policy_promoted AS fact
    JOIN trained USING (policy_id, policy_version, weights_ref)
    ORDER BY fact.log_offset
), last_of_all AS (
    SELECT policy_id, arg_max(policy_version, log_offset) AS policy_version, arg_max(share, log_offset) AS share
    FROM promoted
    GROUP BY ALL
), live AS (
    SELECT policy_id, arg_max(policy_version, log_offset) AS policy_version FROM promoted WHERE share = 0 GROUP BY ALL
), serving AS (
    SELECT policy_id, policy_version, count(*) AS promotions, max(recorded_at_ns) AS at_ns,
        arg_max(said_by, log_offset) AS said_by, arg_max(reason, log_offset) AS reason
    FROM promoted
    GROUP BY ALL
), leaving AS (
    SELECT policy_id, rolled_back_from AS policy_version, count(*) AS rollbacks
    FROM promoted
    WHERE rolled_back_from <> ''
    GROUP BY ALL
), loaded AS (
    SELECT policy_id, policy_version, list(process ORDER BY process) AS processes
    FROM (
        SELECT policy_id, process, arg_max(policy_version, log_offset) AS policy_version FROM log.policy_loaded GROUP BY ALL
    )
    GROUP BY ALL
)
SELECT
    trained.policy_id,
    trained.policy_version,
    CASE
        WHEN live.policy_version IS NOT NULL THEN 'live'
        WHEN last_of_all.share > 0 THEN 'staged'
        WHEN serving.promotions > 0 THEN 'retired'
        WHEN rejected.why IS NOT NULL OR NOT validated.passed THEN 'rejected'
        WHEN offered.policy_version IS NOT NULL THEN 'offered'
        WHEN validated.passed THEN 'passed'
        ELSE 'trained'
    END AS state,
    validated.passed,
    coalesce(rejected.why, nullif(serving.reason, ''), nullif(validated.reason, '')) AS reason,
    trained.experiences,
    validated.metrics AS validation,
    trained.metrics AS training,
    coalesce(serving.promotions, 0) AS promotions,
    coalesce(leaving.rollbacks, 0) AS rollbacks,
    serving.said_by,
    CASE WHEN last_of_all.share > 0 THEN last_of_all.share END AS share,
    coalesce(loaded.processes, []) AS loaded_by,
    coalesce(refused.processes, 0) AS refusals,
    moment(trained.recorded_at_ns) AS trained_at,
    moment(serving.at_ns) AS promoted_at,
    trained.weights_ref,
    uuid_text(trained.event_id) AS event_id,
    trained.log_offset
FROM trained
LEFT JOIN validated USING (policy_id, policy_version, weights_ref)
LEFT JOIN rejected USING (policy_id, policy_version)
LEFT JOIN refused USING (policy_id, policy_version)
LEFT JOIN offered USING (policy_id, policy_version, weights_ref)
LEFT JOIN serving USING (policy_id, policy_version)
LEFT JOIN leaving USING (policy_id, policy_version)
LEFT JOIN loaded USING (policy_id, policy_version)
LEFT JOIN live USING (policy_id, policy_version)
LEFT JOIN last_of_all USING (policy_id, policy_version);
