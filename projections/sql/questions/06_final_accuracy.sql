-- How accurate was each run at its end?
SELECT run_id, test_accuracy, params_final FROM log.run_finished AS fact
WHERE fact.log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence)
ORDER BY test_accuracy DESC, run_id;
