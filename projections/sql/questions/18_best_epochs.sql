-- What was the best probe loss of each run, and at which epoch?
SELECT run_id, min(state.validation_loss) AS probe_loss, arg_min(epoch, state.validation_loss) AS epoch
FROM log.epoch_completed AS fact
WHERE fact.log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence)
GROUP BY run_id
ORDER BY run_id;
