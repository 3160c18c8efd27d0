-- The same for one run, decision by decision.
SELECT decision.epoch, decision.chosen, command.operation, command.seed_id, command.outcome, moved.to_stage
FROM decisions AS decision
LEFT JOIN commands AS command ON command.run_id = decision.run_id AND command.causation_id = decision.event_id
LEFT JOIN transitions AS moved ON moved.run_id = decision.run_id AND moved.causation_id = command.event_id
WHERE decision.run_id = $run
ORDER BY decision.epoch;
