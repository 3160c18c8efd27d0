-- The same for one run, decision by decision.
SELECT decision.epoch, decision.chosen, command.operation, command.seed_id, command.outcome, moved.to_stage
FROM decisions AS decision
LEFT JOIN (FROM commands WHERE surviving) AS command ON command.run_id = decision.run_id AND command.causation_id = decision.event_id
LEFT JOIN (
    FROM log.command_applied AS fact WHERE fact.log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence)
) AS applied
    ON applied.run_id = command.run_id AND uuid_text(applied.causation_id) = command.event_id
LEFT JOIN (FROM transitions WHERE surviving) AS moved ON moved.run_id = applied.run_id AND moved.causation_id = uuid_text(applied.event_id)
WHERE decision.run_id = $run AND decision.surviving
ORDER BY decision.epoch, decision.event_id, moved.sequence;
