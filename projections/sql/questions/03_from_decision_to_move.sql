-- What came of the decisions of each policy: commands, applied, moves of seeds?
SELECT decision.policy, count(*) AS decisions, count(command.event_id) AS commands, count(applied.event_id) AS applied,
    count(moved.event_id) AS moves
FROM log.decision_made AS decision
LEFT JOIN log.adaptation_command AS command ON command.causation_id = decision.event_id
LEFT JOIN log.command_applied AS applied ON applied.causation_id = command.event_id
LEFT JOIN log.seed_transitioned AS moved ON moved.causation_id = command.event_id
GROUP BY ALL;
