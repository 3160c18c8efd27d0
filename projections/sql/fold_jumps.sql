-- Where a run's history goes on from an earlier fact: after a rollback from `to_sequence`, after a resume from the last
-- accepted sequence. What lies between is cut off for ever, because a later jump lands on what is left.
SELECT run_id, from_offset AS log_offset, sequence, accepted AS to_sequence, incarnation, true AS is_claim
FROM fold_claims
WHERE NOT first
UNION ALL
SELECT back.run_id, min(back.log_offset), back.sequence, first(back.to_sequence ORDER BY back.log_offset),
    back.incarnation, false
FROM log.rolled_back AS back
JOIN fold_claims AS claim
    ON claim.run_id = back.run_id AND claim.incarnation = back.incarnation
    AND back.log_offset BETWEEN claim.from_offset AND claim.until_offset
GROUP BY back.run_id, back.incarnation, back.sequence;
