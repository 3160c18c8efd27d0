-- The facts that do not survive, by run: they do not count, or a rollback or a resume cut them since. What another process
-- answered to one of them (a decision, its command, a report, an alert) does not survive either: `stands` asks for it.
SELECT fact.run_id, fact.event_id
FROM log.facts AS fact
WHERE fact.log_verdict > 2 OR (
    fact.log_verdict = 1 AND fact.run_id IN (SELECT run_id FROM cuts)
    AND NOT survives(fact.run_id, fact.log_offset, fact.sequence)
)
UNION
-- The fact of its parent after which a fork begins, where the fork went back behind it: the fork answered that one, too.
SELECT fork.run_id, fork.causation_id
FROM log.run_started AS fork
WHERE fork.log_verdict = 1 AND fork.parent_run_id <> ''
    AND NOT survives(fork.run_id, fork.log_offset, fork.parent_sequence);
