-- Every stored version with what is known of it: the catalogue. The fold keeps it as the table `library`.
--
-- Versions of one blueprint for one site shape and one set of parameters follow each other; the last is active. An older
-- one is validated once a run has attached it, else deprecated. A withdrawn approval rejects all of a blueprint's.
WITH registration AS (
    SELECT * FROM registered QUALIFY row_number() OVER (PARTITION BY blueprint_id ORDER BY place DESC) = 1
),
verdict AS (
    SELECT * FROM approvals QUALIFY row_number() OVER (PARTITION BY blueprint_id ORDER BY place DESC) = 1
),
sheet AS (
    SELECT * FROM sheets QUALIFY row_number() OVER (PARTITION BY blueprint_id ORDER BY place DESC) = 1
),
job AS (
    SELECT * FROM requested QUALIFY row_number() OVER (PARTITION BY blueprint_id, job_id ORDER BY place) = 1
),
built AS (
    SELECT * FROM finished QUALIFY row_number() OVER (PARTITION BY blueprint_id, artifact_ref ORDER BY place) = 1
),
kept AS (
    SELECT * FROM stored QUALIFY row_number() OVER (PARTITION BY blueprint_id, artifact_ref ORDER BY place) = 1
),
used AS (
    SELECT blueprint_id, artifact_ref, count(*) AS attachments FROM attached GROUP BY ALL
),
joined AS (
    SELECT
        kept.*,
        coalesce(built.job_id, '') AS job_id,
        coalesce(job.shape_kind, '') AS shape_kind,
        coalesce(job.shape, []) AS shape,
        coalesce(job.parameters, '{}') AS parameters,
        coalesce(built.compile_ms, 0) AS compile_ms,
        coalesce(built.eager_us, 0) AS eager_us,
        coalesce(built.compiled_us, 0) AS compiled_us,
        coalesce(built.prewarm_p50_ms, 0) AS prewarm_p50_ms,
        coalesce(built.prewarm_p95_ms, 0) AS prewarm_p95_ms,
        coalesce(used.attachments, 0) AS attachments,
        registration.event_id IS NOT NULL AS is_registered,
        coalesce(registration.name, '') AS name,
        coalesce(registration.tier, 0) AS tier,
        coalesce(registration.stage, 0) AS stage,
        coalesce(sheet.risk_score, registration.risk, 1) AS risk,
        coalesce(sheet.hazard_band, 0) AS hazard_band,
        coalesce(sheet.handling_class, 0) AS handling_class,
        coalesce(registration.quarantine_only, true) AS quarantine_only,
        coalesce(registration.approval_required, true) AS approval_required,
        coalesce(registration.tags, []) AS tags,
        verdict.approved,
        verdict.said_at_ms
    FROM kept
    LEFT JOIN built USING (blueprint_id, artifact_ref)
    LEFT JOIN job ON job.blueprint_id = built.blueprint_id AND job.job_id = built.job_id
    LEFT JOIN used ON used.blueprint_id = kept.blueprint_id AND used.artifact_ref = kept.artifact_ref
    LEFT JOIN registration ON registration.blueprint_id = kept.blueprint_id
    LEFT JOIN verdict ON verdict.blueprint_id = kept.blueprint_id
    LEFT JOIN sheet ON sheet.blueprint_id = kept.blueprint_id
),
followed AS (
    SELECT
        *,
        lead(stored_at_ms) OVER (PARTITION BY blueprint_id, shape_kind, shape, parameters ORDER BY place) AS followed_at_ms
    FROM joined
)
SELECT
    artifact_ref, blueprint_id, version, checksum, guard_digest, bytes, form, place, stored_at_ms, job_id, shape_kind,
    shape, parameters, compile_ms, eager_us, compiled_us, prewarm_p50_ms, prewarm_p95_ms, attachments, name, tier, stage,
    risk, hazard_band, handling_class, tags,
    is_registered AND coalesce(approved, NOT approval_required) AS is_approved,
    quarantine_only,
    CASE
        WHEN NOT approved THEN 'rejected'
        WHEN followed_at_ms IS NULL THEN 'active'
        WHEN attachments > 0 THEN 'validated'
        ELSE 'deprecated'
    END AS state,
    CASE WHEN NOT approved THEN said_at_ms ELSE coalesce(followed_at_ms, stored_at_ms) END AS since_ms
FROM followed
