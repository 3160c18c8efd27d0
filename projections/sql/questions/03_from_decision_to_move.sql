-- What came of the decisions of each policy: commands, applied, moves of seeds?
SELECT decision.policy, count(*) AS decisions, count(command.event_id) AS commands, count(applied.event_id) AS applied,
    coalesce(sum(moved.moves), 0)::BIGINT AS moves
FROM log.decision_made AS decision
LEFT JOIN log.adaptation_command AS command ON command.causation_id = decision.event_id
LEFT JOIN (
    SELECT event_id, causation_id FROM log.command_applied AS fact
    WHERE fact.log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence)
) AS applied ON applied.causation_id = command.event_id
LEFT JOIN (
    SELECT causation_id, count(*) AS moves FROM log.seed_transitioned AS fact
    WHERE fact.log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence)
    GROUP BY causation_id
) AS moved ON moved.causation_id = applied.event_id
WHERE stands(decision.run_id, decision.causation_id, decision.correlation_id)
GROUP BY ALL
ORDER BY decision.policy;
