-- How accurate was each run at its end?
SELECT run_id, test_accuracy, params_final FROM log.run_finished ORDER BY test_accuracy DESC, run_id;
