-- Where a run's history goes on from an earlier fact: rollbacks, and resumes by another process, that count. The facts
-- between `to_sequence` and `sequence` that came before are cut from the surviving timeline, for ever; what a resume cuts
-- is as if it had not happened (`is_claim`).
SELECT run_id, log_offset, sequence, to_sequence, incarnation, false AS is_claim
FROM log.rolled_back
WHERE log_verdict = 1
UNION ALL
SELECT run_id, log_offset, sequence, accepted_sequence, incarnation, true
FROM log.run_resumed
WHERE log_verdict = 1;
