-- What was the best probe loss of each run, and at which epoch?
SELECT run_id, min(state.validation_loss) AS probe_loss, arg_min(epoch, state.validation_loss) AS epoch
FROM log.epoch_completed
GROUP BY run_id
ORDER BY run_id;
