-- One row per run: what its facts add up to when `at_step` optimiser steps were taken, on the surviving timeline. The same in
-- Python is `esper.record`: params, probe figures, learning rates, open windows and the last checkpoint are those of the path;
-- status, breakers, mode, kept checkpoints and the last command are what no rollback takes back.
WITH mark AS (
    SELECT run_id, max(sequence) AS sequence, arg_max(step, sequence) AS step, arg_max(epoch, sequence) AS epoch
    FROM accepted_facts
    WHERE on_path AND step <= at_step
    GROUP BY run_id
), counted AS MATERIALIZED (
    SELECT fact.* FROM accepted_facts AS fact JOIN mark ON mark.run_id = fact.run_id AND fact.sequence <= mark.sequence
), begun AS (
    SELECT run_id, arg_max(timeline, sequence) AS timeline
    FROM counted
    WHERE body IN ('run_started', 'run_resumed', 'rolled_back')
    GROUP BY run_id
), ended AS (
    SELECT fact.run_id, arg_max(coalesce(finish.status, 'running'), fact.sequence) AS status,
        arg_max(coalesce(finish.reason, ''), fact.sequence) AS reason
    FROM counted AS fact
    LEFT JOIN log.run_finished AS finish ON finish.run_id = fact.run_id AND finish.log_offset = fact.log_offset
    WHERE body IN ('run_started', 'run_resumed', 'run_finished')
    GROUP BY fact.run_id
), seen AS (
    SELECT fact.run_id, arg_max(packet.event_id, fact.sequence) AS packet_id, arg_max(packet.params, fact.sequence) AS params,
        arg_max(packet.state.validation_loss, fact.sequence) AS probe_loss,
        arg_max(packet.state.validation_accuracy, fact.sequence) AS probe_accuracy,
        arg_max(packet.windows, fact.sequence) AS windows, arg_max(packet.metrics, fact.sequence) AS metrics
    FROM counted AS fact
    JOIN log.epoch_completed AS packet ON packet.run_id = fact.run_id AND packet.log_offset = fact.log_offset
    WHERE on_path
    GROUP BY fact.run_id
), rates AS (
    SELECT run_id,
        map(list("group" ORDER BY "group"), list({'lr': lr, 'step': step, 'born': born} ORDER BY "group")) AS learning_rates
    FROM (
        -- A group that was removed last has none. `born` is when its parameters were new.
        SELECT fact.run_id, coalesce(change."group", lost."group") AS "group",
            arg_max_null(change.new_lr, fact.sequence) AS lr, max_by(fact.step, fact.sequence) AS step,
            arg_max_null(CASE WHEN lost."group" IS NULL THEN fact.step END, fact.sequence)
                FILTER (change.reason = 'new parameters' OR lost."group" IS NOT NULL) AS born
        FROM counted AS fact
        LEFT JOIN log.learning_rate_changed AS change
            ON change.run_id = fact.run_id AND change.log_offset = fact.log_offset
        LEFT JOIN log.optimizer_changed AS lost
            ON lost.run_id = fact.run_id AND lost.log_offset = fact.log_offset AND lost.change = 'group_removed'
        WHERE on_path AND (change."group" IS NOT NULL OR lost."group" IS NOT NULL)
        GROUP BY ALL
    )
    WHERE lr IS NOT NULL
    GROUP BY run_id
), broken AS (
    SELECT run_id, map(list(breaker ORDER BY breaker), list(state ORDER BY breaker)) AS breakers
    FROM (
        SELECT fact.run_id, change.breaker, arg_max(change.to_state, fact.sequence) AS state
        FROM counted AS fact
        JOIN log.breaker_changed AS change ON change.run_id = fact.run_id AND change.log_offset = fact.log_offset
        GROUP BY ALL
    )
    GROUP BY run_id
), mode AS (
    SELECT fact.run_id, arg_max(coalesce(change.entered, packet.conservative), fact.sequence) AS conservative
    FROM counted AS fact
    LEFT JOIN log.conservative_mode_changed AS change
        ON change.run_id = fact.run_id AND change.log_offset = fact.log_offset
    LEFT JOIN log.epoch_completed AS packet ON packet.run_id = fact.run_id AND packet.log_offset = fact.log_offset
    WHERE body IN ('conservative_mode_changed', 'epoch_completed')
    GROUP BY fact.run_id
), saved AS (
    SELECT fact.run_id,
        arg_max({'ref': save.ref, 'step': save.step, 'sequence': save.upto_sequence}, fact.sequence) AS checkpoint
    FROM counted AS fact
    JOIN log.checkpoint_saved AS save ON save.run_id = fact.run_id AND save.log_offset = fact.log_offset
    WHERE on_path
    GROUP BY fact.run_id
), kept AS (
    SELECT run_id, map(list(ref ORDER BY ref), list(saved_step ORDER BY ref)) AS checkpoints
    FROM (
        SELECT fact.run_id, coalesce(save.ref, prune.ref) AS ref,
            arg_max_null(save.step, fact.sequence) AS saved_step  -- null where the last that was said is that it was pruned
        FROM counted AS fact
        LEFT JOIN log.checkpoint_saved AS save ON save.run_id = fact.run_id AND save.log_offset = fact.log_offset
        LEFT JOIN log.checkpoint_pruned AS prune ON prune.run_id = fact.run_id AND prune.log_offset = fact.log_offset
        WHERE body IN ('checkpoint_saved', 'checkpoint_pruned')
        GROUP BY ALL
    )
    WHERE saved_step IS NOT NULL
    GROUP BY run_id
), applied AS (
    SELECT fact.run_id, arg_max(command.command_id, fact.sequence) AS last_command_id,
        arg_max(command.decision_id, fact.sequence) FILTER (octet_length(command.decision_id) > 0) AS last_decision_id
    FROM counted AS fact
    JOIN log.command_applied AS command ON command.run_id = fact.run_id AND command.log_offset = fact.log_offset
    GROUP BY fact.run_id
)
SELECT
    mark.run_id, mark.sequence, begun.timeline, mark.step, mark.epoch, ended.status, ended.reason,
    coalesce(seen.params, started.params_host) AS params,
    seen.probe_loss, seen.probe_accuracy, seen.metrics, seen.packet_id,
    coalesce(rates.learning_rates, MAP {}) AS learning_rates,
    list_filter(coalesce(seen.windows, []), lambda seen_window: NOT seen_window.closed) AS windows,
    coalesce(broken.breakers, MAP {}) AS breakers,
    coalesce(mode.conservative, false) AS conservative,
    coalesce(kept.checkpoints, MAP {}) AS checkpoints,
    saved.checkpoint,
    applied.last_command_id, applied.last_decision_id
FROM mark
JOIN begun USING (run_id)
JOIN ended USING (run_id)
JOIN log.run_started AS started ON started.run_id = mark.run_id AND started.log_verdict = 1
LEFT JOIN seen ON seen.run_id = mark.run_id
LEFT JOIN rates ON rates.run_id = mark.run_id
LEFT JOIN broken ON broken.run_id = mark.run_id
LEFT JOIN mode ON mode.run_id = mark.run_id
LEFT JOIN saved ON saved.run_id = mark.run_id
LEFT JOIN kept ON kept.run_id = mark.run_id
LEFT JOIN applied ON applied.run_id = mark.run_id;
