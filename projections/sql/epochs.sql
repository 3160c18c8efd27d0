-- One row per epoch that a run completed.
-- `surviving` is false where its fact does not count or a rollback or a resume cut it since.
SELECT
    fact.run_id,
    fact.epoch,
    fact.global_step AS step,
    fact.timeline,
    fact.incarnation,
    fact.sequence,
    fact.state.training_loss AS training_loss,
    fact.state.validation_loss AS probe_loss,
    fact.probe_loss_stderr,
    number_of(fact.state.validation_accuracy) AS probe_accuracy,
    coalesce(fact.metrics[1].name, 'accuracy') AS metric,
    number_of(coalesce(fact.metrics[1].value, 100 * fact.state.validation_accuracy::DOUBLE)) AS probe_metric,
    fact.params,
    fact.params_host,
    fact.flops,
    fact.duration_s,
    fact.hook_ms_before,
    fact.hook_contended_ms_before,
    fact.conservative,
    fact.epochs_since_structural_change,
    fact.seeds,
    fact.evidence,
    fact.windows,
    fact.log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence) AS surviving,
    moment(fact.recorded_at_ns) AS recorded_at,
    uuid_text(fact.event_id) AS event_id,
    uuid_text(fact.causation_id) AS causation_id,
    uuid_text(fact.correlation_id) AS correlation_id,
    fact.log_offset
FROM log.epoch_completed AS fact
WHERE fact.log_verdict <> 2;
