-- How did the loss of a run go, epoch by epoch?
SELECT epoch, training_loss, probe_loss, probe_accuracy FROM epochs WHERE run_id = $run AND surviving ORDER BY epoch;
