-- What do the policies choose?
SELECT policy, split_part(actions[action + 1], ' ', 1) AS action, count(*) AS decisions
FROM log.decision_made AS decision
WHERE stands(decision.run_id, decision.causation_id, decision.correlation_id)
GROUP BY ALL
ORDER BY decisions DESC, policy, action;
