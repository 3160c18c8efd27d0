-- One row per stored version of a kernel, as Urza's catalogue has it: the fold of `sql/library/` over the archive.
-- `state` is active for the last of its line (blueprint, shape and settings), else validated, deprecated or rejected.
-- `eager_us` and `compiled_us` are medians of one training pass, null where not measured; `form` is what serves.
WITH registered AS (
    SELECT DISTINCT ON (event_id) event_id, log_offset AS place, descriptor.blueprint_id AS blueprint_id,
        descriptor.name AS name, descriptor.tier AS tier, descriptor.stage AS stage, descriptor.risk AS risk,
        descriptor.quarantine_only AS quarantine_only, descriptor.approval_required AS approval_required, tags
    FROM log.blueprint_registered
    ORDER BY log_offset
), approvals AS (
    SELECT DISTINCT ON (event_id) event_id, log_offset AS place, blueprint_id, log_timestamp_ms AS said_at_ms, approved
    FROM log.blueprint_approved
    ORDER BY log_offset
), requested AS (
    SELECT log_offset AS place, blueprint_id, job_id, shape_kind, shape, to_json(parameters)::VARCHAR AS parameters
    FROM log.compile_requested
), finished AS (
    SELECT log_offset AS place, blueprint_id, job_id, artifact_ref, compile_ms, eager_us, compiled_us, prewarm_p50_ms,
        prewarm_p95_ms
    FROM log.compile_finished
), stored AS (
    SELECT log_offset AS place, log_timestamp_ms AS stored_at_ms, blueprint_id, artifact_ref, artifact_version AS version,
        checksum, guard_digest, bytes, form
    FROM log.artifact_stored
), sheets AS (
    SELECT log_offset AS place, bsds.blueprint_id AS blueprint_id, bsds.risk_score AS risk_score,
        bsds.hazard_band AS hazard_band, bsds.handling_class AS handling_class
    FROM log.bsds_issued
), attached AS (
    SELECT DISTINCT blueprint_id, artifact_ref, event_id FROM log.kernel_attached
), versions AS (
    {versions}
)
SELECT
    blueprint_id,
    version,
    state,
    form,
    shape_kind,
    shape,
    parameters,
    nullif(eager_us, 0) AS eager_us,
    nullif(compiled_us, 0) AS compiled_us,
    compile_ms,
    prewarm_p50_ms,
    prewarm_p95_ms,
    bytes,
    attachments,
    moment(stored_at_ms::HUGEINT * 1000000) AS stored_at,
    moment(since_ms::HUGEINT * 1000000) AS since,
    job_id,
    artifact_ref,
    checksum,
    guard_digest
FROM versions;
