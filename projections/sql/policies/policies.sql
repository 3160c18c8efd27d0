-- One row per version of a policy that was trained: how its validation went, whether it was promoted, and where it is
-- loaded. A validation and a rejection name no version: they are about the last one trained before them. `state` is
-- promoted for the version that was promoted last, else replaced, rejected, validated or trained.
WITH version AS (
    SELECT * FROM trained QUALIFY row_number() OVER (PARTITION BY policy_id, policy_version ORDER BY place) = 1
), verdicts AS (
    SELECT policy_id, place, passed, metrics, reason FROM validated
    UNION ALL
    SELECT policy_id, place, false, NULL, reason FROM rejected
), judged AS (
    SELECT version.policy_id, version.policy_version, arg_max(verdict.passed, verdict.place) AS passed,
        arg_max(verdict.metrics, verdict.place) AS metrics, arg_max(verdict.reason, verdict.place) AS reason
    FROM verdicts AS verdict
    ASOF JOIN version ON version.policy_id = verdict.policy_id AND version.place < verdict.place
    GROUP BY ALL
), raised AS (
    SELECT policy_id, policy_version, arg_max(promoted_by, place) AS promoted_by, max(place) AS place,
        max(recorded_at_ns) AS recorded_at_ns
    FROM promoted
    GROUP BY ALL
), newest AS (
    SELECT policy_id, arg_max(policy_version, place) AS policy_version FROM promoted GROUP BY ALL
), held AS (
    SELECT policy_id, policy_version, list(DISTINCT process ORDER BY process) AS loaded_by FROM loaded GROUP BY ALL
)
SELECT
    version.policy_id,
    version.policy_version,
    CASE
        WHEN newest.policy_version IS NOT NULL THEN 'promoted'
        WHEN raised.place IS NOT NULL THEN 'replaced'
        WHEN NOT judged.passed THEN 'rejected'
        WHEN judged.passed THEN 'validated'
        ELSE 'trained'
    END AS state,
    version.experiences,
    version.metrics,
    judged.passed,
    judged.metrics AS validation,
    nullif(judged.reason, '') AS reason,
    raised.promoted_by,
    coalesce(held.loaded_by, []) AS loaded_by,
    version.weights_ref,
    make_timestamp_ns(version.recorded_at_ns::BIGINT) AS trained_at,
    make_timestamp_ns(raised.recorded_at_ns::BIGINT) AS promoted_at
FROM version
LEFT JOIN judged USING (policy_id, policy_version)
LEFT JOIN raised USING (policy_id, policy_version)
LEFT JOIN newest USING (policy_id, policy_version)
LEFT JOIN held USING (policy_id, policy_version);
