-- What did the last field report say of each seed?
SELECT run_id, seed_id, max_by(outcome_name(outcome), recorded_at_ns) AS outcome
FROM log.field_report AS report
WHERE report.seed_id <> '' AND stands(report.run_id, report.causation_id, report.correlation_id)
GROUP BY ALL
ORDER BY run_id, seed_id;
