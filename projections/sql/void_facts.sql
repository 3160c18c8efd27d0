-- The facts that do not survive, by run: they do not count, or a rollback or a resume cut them since. What another process
-- answered to one of them (a decision, its command, a report, an alert) does not survive either: `stands(run_id, causation_id, correlation_id)` asks.
SELECT run_id, event_id
FROM log.facts
WHERE log_verdict > 2
UNION
SELECT fact.run_id, fact.event_id
FROM log.facts AS fact
JOIN cuts AS cut
    ON cut.run_id = fact.run_id AND cut.log_offset > fact.log_offset AND cut.to_sequence < fact.sequence
WHERE fact.log_verdict = 1
UNION
-- The fact of its parent after which a fork begins, where the fork went back behind it: the fork answered that one, too.
SELECT fork.run_id, fork.causation_id
FROM log.run_started AS fork
WHERE fork.log_verdict = 1 AND fork.parent_run_id <> ''
    AND NOT survives(fork.run_id, fork.log_offset, fork.parent_sequence);
