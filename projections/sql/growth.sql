-- One row per change of the network that was for good, or was undone. A seed became part of the network (`fossilized`), its
-- units became part of a layer of the host (`absorbed`), or it was taken back because its proof failed (`rewound`).
-- `surviving` is false where a later rollback, rewind or resume undid it.
WITH change AS (
    SELECT run_id, log_offset, sequence, recorded_at_ns, event_id, 'fossilized' AS change, seed_id, site,
        nullif(blueprint_id, '') AS blueprint_id, parameters, global_step AS step, epoch, life,
        log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence) AS surviving
    FROM log.seed_transitioned AS fact
    WHERE log_verdict <> 2 AND stage_name(to_stage) = 'FOSSILIZED'
    UNION ALL BY NAME
    SELECT run_id, log_offset, sequence, recorded_at_ns, event_id, 'absorbed' AS change, seed_id, site,
        nullif(blueprint_id, '') AS blueprint_id, parameters, global_step AS step, epoch, life, units_before, units,
        opened AS opened_slot,
        log_verdict = 1 AND survives(fact.run_id, fact.log_offset, fact.sequence) AS surviving
    FROM log.seed_absorbed AS fact
    WHERE log_verdict <> 2
    UNION ALL BY NAME
    -- A rewind is what happened, and stays so: it is undone by a resume alone that goes back behind it.
    SELECT run_id, log_offset, sequence, recorded_at_ns, event_id, 'rewound' AS change, seed_id,
        from_step AS step, epoch, to_step AS back_to_step, log_verdict = 1 AND NOT EXISTS (
            FROM cuts
            WHERE cuts.run_id = fact.run_id AND is_claim AND cuts.log_offset > fact.log_offset
                AND cuts.to_sequence < fact.sequence
        ) AS surviving
    FROM log.rolled_back AS fact
    WHERE log_verdict <> 2 AND level = 'rewind'
), slot AS (
    SELECT run_id, seed_id, any_value(site) AS site FROM seeds GROUP BY ALL
)
SELECT
    change.run_id,
    change.change,
    change.seed_id,
    coalesce(nullif(change.site, ''), slot.site) AS site,
    change.blueprint_id,
    change.life,
    change.parameters,
    change.units_before,
    change.units,
    nullif(change.opened_slot, '') AS opened_slot,
    change.epoch,
    change.step,
    change.back_to_step,
    change.surviving,
    moment(change.recorded_at_ns) AS recorded_at,
    uuid_text(change.event_id) AS event_id,
    change.sequence,
    change.log_offset
FROM change
LEFT JOIN slot ON slot.run_id = change.run_id AND slot.seed_id = change.seed_id;
