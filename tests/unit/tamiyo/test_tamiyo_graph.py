"""Tamiyo's eyes: one graph of a packet and its actions, whose columns all say something, for any host."""

from __future__ import annotations

import math

import numpy as np
import pytest

from contracts.leyline.v1.event_pb2 import BlueprintOption, BlueprintOutcomes, EpochCompleted, WidthPlace
from contracts.leyline.v1.leyline_pb2 import SystemStatePacket
from esper.errors import ContractViolation
from esper.kasmina.lifecycle import (
    BLENDING,
    CULLED,
    EMBARGOED,
    FOSSILIZED,
    GERMINATED,
    PROBATIONARY,
    SHADOWING,
    TRAINING,
)
from esper.tamiyo import features, normalizer, registries
from esper.tamiyo.actions import legal_actions
from esper.tamiyo.graph import DESIGN, FORWARD, RELATIONS, REVERSE, Sizes, build
from esper.tamiyo.pareto import WEIGHTS, dominated, standings

SEEN = {"activation_norm": 8.0, "activation_rank": 5.0, "dead_fraction": 0.1, "descent": 0.3, "candidate_descent": 0.2}


def graph_of(state, **named):
    return build(state, legal_actions(state)[0], **named)


def corpus(make_state):
    """Packets that differ in everything that a run can differ in."""
    past = BlueprintOutcomes(germinated=9, fossilized=5, culled=3, reports=7, loss_delta_mean=-0.1)
    option = BlueprintOption(
        blueprint_id="BP013",
        parameters=900,
        flops_per_sample=9,
        risk=0.6,
        tier=3,
        stage=4,
        hazard_band=2,
        handling_class=2,
        outcomes=past,
    )
    tiers = [BlueprintOption(blueprint_id=f"BP02{tier}", tier=tier, parameters=50) for tier in (1, 2)]
    found = []
    for number, kind in enumerate(("image", "vector", "token")):
        state = make_state(
            kind=kind,
            epoch=3 + 9 * number,
            accuracy=math.nan if number == 1 else 0.3 + 0.2 * number,
            evidence={"s1": SEEN, "s2": {**SEEN, "gradient_norm": 0.1 * number}},
            seeds={
                "s2": {
                    "stage": (GERMINATED, TRAINING, PROBATIONARY)[number],
                    "stage_age_epochs": number,
                    "alpha": 0.4 * number,
                    "life": number,
                    "culls": number,
                    "parameters": 100 * number,
                    "gradient_norm": 0.1,
                    "activation_norm_ratio": 0.3,
                    "loss_before": 1.5,
                    "gate_ready": number == 2,
                    "isolation_violations": number,
                    **({"contribution": 0.1, "contribution_stderr": 0.02} if number else {}),
                    **({"change": -0.1, "change_stderr": 0.02} if number == 2 else {}),
                },
                "s3": {
                    "stage": (EMBARGOED, BLENDING, SHADOWING)[number],
                    "epochs_until_free": number,
                    "closed": number == 1,
                },
            },
            lifecycle=("full", "swift", "direct")[number],
            rate_policy=("cosine", "wsd", "constant")[number],
            decay_from_epoch=5 * (number < 2),
            conservative=number == 1,
            flops=1e9 * (1 + number),
            flops_training=5e8 * (1 + number),
            flops_measuring=1e8,
            params=700 + 90 * number,
            params_host=690 + 9 * number,
            probe_loss_stderr=0.02 * (1 + number),
        )
        state.state.training_loss = 0.9 + 0.3 * number
        if number:
            state.state.training_metrics["gradient_norm"] = 1.0 + number
            state.state.training_metrics["optimizer_lr"] = 0.01 / number
            state.sites[0].options.extend([option, *tiers])
            state.sites[1].width.CopyFrom(WidthPlace(units=8 * number, parameters_per_unit=30))
            state.evidence.pop()
        if number == 2:
            state.sites[0].width.CopyFrom(WidthPlace(units=16, parameters_per_unit=100))
            state.sites[0].options.append(BlueprintOption(blueprint_id="BP051", parameters=1600))  # as half fits
        found.append(state)
    empty = make_state(seeds={"s1": {"stage": CULLED}, "s2": {"stage": FOSSILIZED, "parameters": 10}}, evidence={})
    del empty.evidence[:]
    del empty.sites[2]
    empty.sites[0].shape[:] = (6, 1, 8)
    empty.state.training_loss = math.nan
    empty.probe_loss_history[:] = [1.0]
    return [*found, empty, make_state(epoch=39, loss=3.0)]


@pytest.mark.requirement("R-TAM-1")
def test_every_feature_of_every_node_varies_over_a_corpus(make_state):
    """The living reference had an observation that was dead in every run."""
    graphs = [graph_of(state) for state in corpus(make_state)]

    for node_type, names in features.NODES.items():
        rows = np.concatenate([graph.x[node_type] for graph in graphs])
        still = [name for name, column in zip(names, rows.T, strict=True) if np.ptp(column) == 0.0]
        assert still == [], (node_type, still)
    rows = np.concatenate([graph.actions.x for graph in graphs])
    assert [name for name, column in zip(features.ACTION, rows.T, strict=True) if np.ptp(column) == 0.0] == []
    for relation in RELATIONS:
        assert sum(graph.edges[relation].index.shape[1] for graph in graphs) > 0, relation


@pytest.mark.requirement("R-TAM-1", "R-TAM-2")
def test_widths_are_those_asked_for_and_every_relation_has_its_reverse(make_state):
    state = make_state()
    named, published = graph_of(state), graph_of(state, sizes=DESIGN)

    assert {name: rows.shape[1] for name, rows in named.x.items()} == {
        name: len(names) for name, names in features.NODES.items()
    }
    widths = {name: rows.shape[1] for name, rows in published.x.items()}
    assert (widths["layer"], widths["seed"], widths["activation"], widths["parameter"]) == (128, 64, 32, 16)
    for forward, reverse in zip(FORWARD, REVERSE, strict=True):
        there, back = named.edges[forward].index, named.edges[reverse].index
        assert sorted(map(tuple, there.T)) == sorted((b, a) for a, b in back.T)
        assert list(back[1]) == sorted(back[1])  # by target: sums over equal edges have equal bits


@pytest.mark.requirement("R-TAM-1")
@pytest.mark.parametrize("node", [{"global": 64}, {**DESIGN.node, "seed": 8}])
def test_sizes_without_a_node_type_or_with_too_few_columns_are_refused(make_state, node):
    with pytest.raises(ContractViolation, match=r"no node type 'seed'|features and 8 columns"):
        graph_of(make_state(), sizes=Sizes(node=node))


@pytest.mark.requirement("R-TAM-3")
def test_nothing_that_a_packet_lacks_is_an_error_and_no_column_is_ever_no_number(make_state):
    nothing = EpochCompleted(state=SystemStatePacket(validation_loss=math.nan, training_loss=math.inf))
    odd = make_state(loss=math.inf, accuracy=math.nan, evidence={"s1": {"gradient_norm": math.inf}})
    for state in (nothing, EpochCompleted(), odd, *corpus(make_state)):
        graph = graph_of(state)
        for rows in (*graph.x.values(), graph.actions.x, *(edges.attributes for edges in graph.edges.values())):
            assert np.isfinite(rows).all()
        for node_type, names in features.NODES.items():
            for name, column in zip(names, graph.x[node_type].T, strict=True):
                if name.endswith("?"):
                    assert set(column) <= {0.0, 1.0}, name
                    of = [at for at, each in enumerate(names) if each in (name[:-1], f"{name[:-1]}_z")]
                    assert not graph.x[node_type].T[of][:, column == 0.0].any(), name


def test_an_action_knows_its_slot_and_blueprint_wherever_it_stands_in_the_list(make_state):
    state = corpus(make_state)[1]
    actions, _ = legal_actions(state)
    seeds = [site.seed_id for site in state.sites]
    in_order, backwards = build(state, actions).actions, build(state, actions[::-1]).actions

    assert [None if at < 0 else seeds[at] for at in in_order.seed] == [action.seed_id or None for action in actions]
    assert np.array_equal(in_order.x, backwards.x[::-1])
    assert np.array_equal(in_order.blueprint, backwards.blueprint[::-1])
    assert np.array_equal(in_order.choosable, backwards.choosable[::-1])


@pytest.mark.requirement("R-TAM-6")
def test_registries_give_the_same_index_everywhere_and_overflow_deterministically():
    assert registries.BLUEPRINTS.index("BP009") == 8
    assert registries.BLUEPRINTS.index("a template of somebody's") == 985
    assert all(
        len(each.keys) <= each.index(f"new {n}") < each.capacity for each in registries.REGISTRIES for n in (1, 2)
    )
    assert len(set(registries.digests().values())) == len(registries.REGISTRIES)
    assert registries.Registry("a", ("x", "y"), 8).digest != registries.Registry("a", ("y", "x"), 8).digest
    with pytest.raises(ContractViolation, match="too many"):
        registries.Registry("a", ("x", "y"), 2)


@pytest.mark.requirement("R-TAM-4", "R-TAM-5")
def test_the_normaliser_moves_by_a_tenth_and_only_by_what_was_seen():
    norms = normalizer.fresh()
    assert {name: (row.mean, math.sqrt(row.variance)) for name, row in norms.items()} == {
        "loss": (0.8, 0.3),
        "gradient_norm": (1.0, 0.5),
        "training_loss": (0.8, 0.3),
    }
    assert normalizer.PRIORS["samples_per_s"] == (4500, 500)
    assert normalizer.PRIORS["hook_latency_ms"] == (12, 6)

    after = normalizer.updated(norms, {"loss": 1.8, "gradient_norm": math.nan})

    assert after["loss"].mean == pytest.approx(0.9)
    assert after["loss"].variance == pytest.approx(0.9 * (0.09 + 0.1))
    assert after["gradient_norm"] == norms["gradient_norm"]
    assert after["training_loss"] == norms["training_loss"]
    for _ in range(500):
        after = normalizer.updated(after, {"loss": 2.0})
    assert after["loss"].variance == normalizer.VARIANCE_FLOOR
    assert normalizer.of_state(normalizer.to_state(after)) == after
    carried = normalizer.of_message(normalizer.to_message(after))["loss"]
    assert (carried.mean, carried.updates) == (pytest.approx(2.0), 501)
    assert normalizer.of_message(EpochCompleted().normalizer) == norms


def test_the_packets_normaliser_moves_what_the_network_sees(make_state):
    plain, carried = make_state(loss=1.4), make_state(loss=1.4)
    carried.normalizer.CopyFrom(normalizer.to_message(normalizer.updated(normalizer.fresh(), {"loss": 1.3})))
    seen = [graph_of(state).x["global"][0, features.GLOBAL.index("loss_z")] for state in (plain, carried)]

    assert seen[0] == pytest.approx((1.4 - 0.8) / 0.3)
    assert seen[1] < seen[0]


@pytest.mark.requirement("R-TAM-63")
def test_a_dominated_blueprint_is_not_choosable_unless_what_dominates_it_does_not_fit(make_state):
    assert WEIGHTS == (0.5, 0.3, 0.2)
    assert dominated([(1, 1, 1), (1, 1, 0.5), (0, 2, 0), (1, 1, 1)]) == [False, True, False, False]
    worse = BlueprintOption(blueprint_id="BP013", parameters=500, flops_per_sample=20480, risk=0.4)
    state = make_state()
    state.sites[0].options.append(worse)
    found = standings(state.sites[0])
    assert found["BP013"].dominated
    assert not found["BP009"].dominated
    assert found["BP009"].score == pytest.approx(
        sum(w * v for w, v in zip(WEIGHTS, found["BP009"].objectives, strict=True))
    )

    def choosable(room):
        state.params_budget = room
        actions = legal_actions(state)[0]
        table = build(state, actions).actions
        return {str(action): bool(ok) for action, ok in zip(actions, table.choosable, strict=True)}

    assert not choosable(1000)["germinate s1 BP013"]
    assert choosable(1000)["germinate s1 BP009"]
    state.sites[0].options[1].parameters = 600
    assert choosable(550)["germinate s1 BP013"]
    assert choosable(550)["nothing"]
