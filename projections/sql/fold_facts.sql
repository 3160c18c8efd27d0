-- Every fact of every run as the log holds it, repetitions and void ones included. A run's facts lie in one partition of
-- one topic, so `log_offset` orders them.
SELECT run_id, log_offset, sequence, incarnation, event_id, body
FROM log.every
WHERE body IN (
    'run_started', 'run_resumed', 'run_finished', 'epoch_completed', 'decision_timed_out', 'command_applied',
    'command_rejected', 'seed_transitioned', 'gate_evaluated', 'optimizer_changed', 'learning_rate_changed',
    'kernel_attached', 'kernel_swapped', 'checkpoint_saved', 'checkpoint_pruned', 'rolled_back', 'state_digested',
    'breaker_changed', 'conservative_mode_changed'
);
