-- One row per decision, under its id: what the policy saw, drew and chose, and everything a reward can be made of.
-- `next_*` is the packet after, null at a run's end and where a rollback undid the decision (`undone`, and why). What does
-- not count, and what a resume cut, is left out. `test_*` and `control_*` are the whole run's, and its
-- control run's: evidence of benefit, which no single step has.
WITH jump AS (
    -- Those that count; 5 is a fork that went back behind its beginning, which only its parent's facts could refuse.
    FROM jumps WHERE verdict IN (1, 5)
), claims AS (
    FROM jump WHERE is_claim
), lived AS (
    SELECT packet.*
    FROM packets AS packet
    WHERE packet.verdict IN (1, 5) AND NOT EXISTS (
        FROM claims
        WHERE claims.run_id = packet.run_id AND claims.place > packet.place AND claims.to_sequence < packet.sequence
    )
), ordered AS (
    SELECT
        *,
        lead(event_id) OVER following AS next_id, lead(sequence) OVER following AS next_sequence,
        lead(probe_loss) OVER following AS next_loss, lead(probe_accuracy) OVER following AS next_accuracy,
        lead(params) OVER following AS next_params, lead(flops) OVER following AS next_flops,
        lead(hook_ms) OVER following AS next_hook
    FROM lived
    WINDOW following AS (PARTITION BY run_id ORDER BY sequence)
), judged AS (
    SELECT ordered.*, back.reason AS undone_reason, back.sequence AS undone_at
    FROM ordered
    -- The first rollback after the packet that went behind it.
    LEFT JOIN (
        SELECT packet.event_id AS packet_id, arg_min(jump.reason, jump.sequence) AS reason,
            min(jump.sequence) AS sequence
        FROM lived AS packet
        JOIN jump
            ON jump.run_id = packet.run_id AND NOT jump.is_claim AND jump.place > packet.place
            AND jump.to_sequence < packet.sequence
        WHERE NOT EXISTS (
            FROM claims
            WHERE claims.run_id = jump.run_id AND claims.place > jump.place AND claims.to_sequence < jump.sequence
        )
        GROUP BY ALL
    ) AS back ON back.packet_id = ordered.event_id
), made AS (
    SELECT * FROM decided QUALIFY row_number() OVER (PARTITION BY packet_id ORDER BY place) = 1
), begun AS (
    SELECT * FROM started QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY place) = 1
), owner AS (
    SELECT run_id, max(incarnation) AS incarnation
    FROM (SELECT run_id, incarnation FROM begun UNION ALL SELECT run_id, incarnation FROM claims)
    GROUP BY run_id
), ended AS (
    SELECT fact.*
    FROM finished AS fact
    JOIN owner ON owner.run_id = fact.run_id AND owner.incarnation = fact.incarnation
    WHERE fact.verdict IN (1, 5)
    QUALIFY row_number() OVER (PARTITION BY fact.run_id ORDER BY place DESC) = 1
), became AS (
    SELECT fact.*
    FROM outcomes AS fact
    WHERE fact.verdict IN (1, 5) AND NOT EXISTS (
        FROM claims
        WHERE claims.run_id = fact.run_id AND claims.place > fact.place AND claims.to_sequence < fact.sequence
    )
    QUALIFY row_number() OVER (PARTITION BY run_id, command_id ORDER BY place) = 1
), report AS (
    -- A decision that no window watches is reported under its own id, with its command's where it had one.
    SELECT *, coalesce(command_id, decision_id) AS about
    FROM reported
    QUALIFY row_number() OVER (PARTITION BY run_id, coalesce(command_id, decision_id) ORDER BY place) = 1
), control AS (
    SELECT begun.control_of AS run_id, arg_max(ended.test_accuracy, begun.recorded_at_ns) AS test_accuracy,
        arg_max(ended.test_loss, begun.recorded_at_ns) AS test_loss, arg_max(ended.flops, begun.recorded_at_ns) AS flops
    FROM begun
    JOIN ended USING (run_id)
    WHERE begun.control_of <> ''
    GROUP BY ALL
)
SELECT
    made.event_id AS decision_id,
    made.run_id,
    begun.task,
    packet.event_id AS packet_id,
    packet.sequence,
    packet.timeline,
    packet.epoch,
    packet.step,
    made.policy,
    made.policy_version,
    made.policy_hash,
    made.observation,
    nullif(made.observation_ref, '') AS observation_ref,
    made.observation_hash,
    made.action_mask,
    made.logits,
    made.draw,
    made.action,
    made.actions,
    made.value_estimate,
    made.risk,
    CASE WHEN octet_length(made.command_id) > 0 THEN made.command_id END AS command_id,
    became.outcome,
    nullif(became.reason, '') AS rejected_reason,
    nullif(report.seed_id, '') AS seed_id,
    nullif(report.blueprint_id, '') AS blueprint_id,
    report.outcome AS report_outcome,
    report.window_epochs,
    report.loss_delta,
    report.loss_delta_min,
    report.loss_delta_max,
    nullif(report.ended_as, '') AS ended_as,
    report.hook_ms AS report_hook_ms,
    packet.probe_loss,
    packet.probe_loss_stderr,
    CASE WHEN NOT isnan(packet.probe_accuracy) THEN packet.probe_accuracy END AS probe_accuracy,
    packet.params,
    begun.params_host,
    packet.params_budget,
    packet.flops,
    CASE WHEN packet.undone_at IS NULL OR packet.next_sequence < packet.undone_at THEN packet.next_id END AS next_packet_id,
    CASE WHEN next_packet_id IS NOT NULL THEN packet.next_loss END AS next_probe_loss,
    CASE WHEN next_packet_id IS NOT NULL AND NOT isnan(packet.next_accuracy) THEN packet.next_accuracy END
        AS next_probe_accuracy,
    CASE WHEN next_packet_id IS NOT NULL THEN packet.next_params END AS next_params,
    CASE WHEN next_packet_id IS NOT NULL THEN packet.next_flops END AS next_flops,
    CASE WHEN next_packet_id IS NOT NULL THEN packet.next_hook END AS hook_ms,
    packet.undone_at IS NOT NULL AS undone,
    nullif(packet.undone_reason, '') AS undone_reason,
    next_packet_id IS NULL AND (ended.run_id IS NOT NULL OR undone) AS is_last,
    ended.status AS run_status,
    CASE WHEN NOT isnan(ended.test_accuracy) THEN ended.test_accuracy END AS test_accuracy,
    CASE WHEN NOT isnan(ended.test_loss) THEN ended.test_loss END AS test_loss,
    CASE WHEN NOT isnan(control.test_accuracy) THEN control.test_accuracy END AS control_accuracy,
    CASE WHEN NOT isnan(control.test_loss) THEN control.test_loss END AS control_loss,
    control.flops AS control_flops
FROM made
JOIN judged AS packet ON packet.event_id = made.packet_id
LEFT JOIN begun ON begun.run_id = packet.run_id
LEFT JOIN ended ON ended.run_id = packet.run_id
LEFT JOIN became ON became.run_id = made.run_id AND became.command_id = made.command_id
LEFT JOIN report
    ON report.run_id = made.run_id
    AND report.about = CASE WHEN octet_length(made.command_id) > 0 THEN made.command_id ELSE made.event_id END
LEFT JOIN control ON control.run_id = packet.run_id
