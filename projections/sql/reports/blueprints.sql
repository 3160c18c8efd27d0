-- One row per blueprint: how its reports came out, and the mean change of the probe loss with its standard error.
SELECT
    blueprint_id,
    count(*) AS reports,
    count(*) FILTER (outcome = 'SUCCESS') AS successes,
    count(*) FILTER (outcome = 'REGRESSION') AS regressions,
    count(DISTINCT run_id) AS runs,
    avg(loss_delta) AS loss_delta_mean,
    stddev_samp(loss_delta) / sqrt(count(loss_delta)) AS loss_delta_stderr
FROM reports
GROUP BY blueprint_id;
