"""Tamiyo's network: its stages are torch_geometric's, its outputs are in range, it decides the same every time."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from torch_geometric.data import Batch
from torch_geometric.nn import GATConv, SAGEConv

from esper.errors import InvalidInput
from esper.leyline.objects import ObjectStore
from esper.tamiyo import registries, weights
from esper.tamiyo.actions import legal_actions
from esper.tamiyo.decide import decide
from esper.tamiyo.graph import build
from esper.tamiyo.network import GAT, PRESETS, GraphSAGE, make, to_inputs
from esper.tamiyo.policies import learned
from esper.tamiyo.policies.learned import policy
from esper.tamiyo.served import Served
from tests.unit.tamiyo.test_tamiyo_graph import corpus


@pytest.fixture(scope="module", name="states")
def _states(make_state):
    return corpus(make_state)


def graphs_of(states, preset="small"):
    return [build(state, legal_actions(state)[0], PRESETS[preset].sizes) for state in states]


def trained(seed=0, preset="small"):
    """A network whose logits depend on what it sees: a fresh one's do not."""
    network = make(preset, seed)
    with torch.no_grad():
        network.logit.weight.normal_(generator=torch.Generator().manual_seed(seed))
    return network.eval()


@pytest.mark.requirement("R-TAM-8")
def test_there_are_two_sage_and_two_gat_stages_of_the_published_widths():
    full, small = make("full"), make("small")

    assert [type(stage) for stage in (*full.sage, *full.gat)] == [GraphSAGE, GraphSAGE, GAT, GAT]
    assert [stage.own.out_features for stage in full.sage] == [256, 256]
    assert [(stage.width, stage.heads) for stage in full.gat] == [(128, 4), (128, 4)]
    assert sum(each.numel() for each in small.parameters()) <= 100_000
    with pytest.raises(InvalidInput, match=r"no preset 'huge'.*choose small, full"):
        make("huge")


@pytest.mark.requirement("R-TAM-8")
def test_the_stages_are_those_of_torch_geometric(states):
    inputs = to_inputs(graphs_of(states)[1])
    count, edges = int(inputs.target.max()) + 1, torch.stack([inputs.source, inputs.target])
    h = torch.randn(count, 64, generator=torch.Generator().manual_seed(1))
    sage, gat = GraphSAGE(64, 32), GAT(64, 32, 4)
    mean, largest = SAGEConv(64, 32, "mean"), SAGEConv(64, 32, "max", root_weight=False, bias=False)
    attention = GATConv(64, 32, heads=4, concat=False, add_self_loops=False)
    with torch.no_grad():
        mean.lin_l.weight.copy_(sage.mean.weight)
        mean.lin_l.bias.copy_(sage.own.bias)
        mean.lin_r.weight.copy_(sage.own.weight)
        largest.lin_l.weight.copy_(sage.largest.weight)
        attention.lin.weight.copy_(gat.values.weight)
        attention.att_src.copy_(gat.of_source.unsqueeze(0))
        attention.att_dst.copy_(gat.of_target.unsqueeze(0))
        gat.of_relation.weight.zero_()  # the edges' own score is ours: without it the two are the same
        gat.of_attributes.weight.zero_()
        of_sage = mean(h, edges[:, inputs.of_mean]) + largest(h, edges[:, inputs.of_max])

    torch.testing.assert_close(sage(h, inputs), of_sage)
    torch.testing.assert_close(gat(h, inputs), attention(h, edges))


@pytest.mark.requirement("R-TAM-9")
@pytest.mark.parametrize("preset", ["small", "full"])
def test_outputs_are_in_range_for_every_graph(states, preset):
    network = make(preset).eval()
    for graph in graphs_of(states, preset):
        out = network(graph)
        slots = len(graph.x["seed"])

        assert out.logits.shape == (len(graph.actions.kind),)
        assert (out.value.shape, out.risk.shape, out.breaker.shape) == ((1,), (1, 5), (1, 2))
        assert (out.params.shape, out.blending.shape, out.schedule.shape) == ((slots, 4), (slots, 3), (slots, 2))
        assert torch.softmax(out.risk, 1).sum().item() == pytest.approx(1.0)
        assert ((out.params >= -1) & (out.params <= 1)).all()
        assert ((out.schedule >= 0) & (out.schedule <= 1)).all()
        assert (out.schedule[:, 0] <= out.schedule[:, 1]).all()
        assert all(torch.isfinite(each).all() for each in (out.logits, out.value, out.risk, out.blending))


@pytest.mark.parametrize("preset", ["small", "full"])
def test_what_serves_is_the_network(states, preset):
    """Also where scores of attention are so far apart that they cannot be exponentiated beside each other."""
    for network, far in ((trained(0, preset), False), (trained(1, preset), True)):
        if far:
            for stage in network.gat:
                stage.of_relation.weight.data.mul_(4_000.0)
        served = Served(network)
        for graph in graphs_of(states, preset):
            rows = np.flatnonzero(graph.actions.choosable)[::2]
            with torch.inference_mode():
                logits, value = served.act(graph, rows)
                out = network(graph)
            torch.testing.assert_close(logits, out.logits[rows], atol=2e-5, rtol=1e-5)
            assert value == pytest.approx(float(out.value), abs=2e-5)


def test_a_batch_of_graphs_gives_what_each_gives_alone(states):
    network, graphs = trained(), graphs_of(states)
    batch = Batch.from_data_list([graph.to_hetero() for graph in graphs])
    together, alone = network(batch), [network(graph) for graph in graphs]

    for name in ("logits", "value", "risk", "params", "blending", "schedule", "breaker"):
        torch.testing.assert_close(getattr(together, name), torch.cat([getattr(each, name) for each in alone]))
    assert together.graph_of_action.bincount().tolist() == [len(each.logits) for each in alone]
    assert together.choosable.tolist() == [ok for graph in graphs for ok in graph.actions.choosable]
    one = graphs[1]
    assert sum(len(rows) for rows in one.x.values()) + len(one.actions.kind) == one.to_hetero().num_nodes


def test_every_part_of_the_network_has_a_gradient(states):
    """The living reference could not learn 95 % of its samples."""
    network = trained().train()
    network.dropout.p = 0.0
    for graph in graphs_of(states):
        out = network(graph)
        heads = (out.value, out.risk[:, 0], out.params, out.blending, out.schedule, out.breaker[:, 0])
        (out.logits.var(correction=0) + sum(part.square().sum() for part in heads)).backward()

    still = [name for name, each in network.named_parameters() if each.grad is None or not each.grad.any()]
    assert still == []


@pytest.mark.requirement("R-TAM-10")
def test_serving_is_deterministic_without_autograd_in_one_thread_and_leaves_the_callers_threads(make_state):
    observation = make_state().SerializeToString(deterministic=True)
    content = weights.save(trained(), "1.0.0")
    torch.set_num_threads(2)
    try:
        made = [decide(observation, policy(content), 0.3) for _ in range(3)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)

    assert made[0].logits == made[1].logits == made[2].logits
    assert len(set(made[0].logits)) > 3
    assert made[0].reason.startswith("the learned policy 1.0.0 gives ")
    assert not torch.is_inference_mode_enabled()


def test_its_digest_is_of_its_weights_and_an_action_that_is_dominated_is_never_taken(make_state, tmp_path):
    one, other = (weights.save(trained(seed), "1.0.0") for seed in (1, 2))
    assert weights.save(trained(1), "1.0.0") == one
    assert policy(one).weights == hashlib.sha256(one).hexdigest()
    assert policy(one).digest == policy(one).digest != policy(other).digest
    (tmp_path / "p.safetensors").write_bytes(one)
    objects = ObjectStore(tmp_path)
    assert policy(tmp_path / "p.safetensors").digest == policy(objects.put(one), objects).digest == policy(one).digest
    state = make_state()
    state.sites[0].options[2].risk, state.sites[0].options[2].parameters = 0.9, 300
    logits = decide(state.SerializeToString(deterministic=True), policy(one), 0.0).logits
    assert logits[3] == learned.NOT_CHOSEN
    with pytest.raises(InvalidInput, match=r"cannot be read.*nowhere"):
        policy(tmp_path / "nowhere")


@pytest.mark.requirement("R-TAM-20")
def test_where_nothing_but_waiting_is_legal_the_network_is_not_asked(make_state, monkeypatch):
    loaded = weights.load(weights.save(trained(), "1.0.0"))
    monkeypatch.setattr(Served, "act", lambda *_: pytest.fail("the network ran"))
    full = make_state(params=1_700)

    made = decide(full.SerializeToString(deterministic=True), policy(loaded), 0.0)

    assert str(made.chosen) == "nothing"
    assert made.reason == "no_seed_candidates: nothing can germinate now, and no seed can be fossilized or culled"
    with pytest.raises(pytest.fail.Exception):
        decide(make_state().SerializeToString(deterministic=True), policy(loaded), 0.0)


@pytest.mark.requirement("R-TAM-17")
def test_it_chooses_among_all_that_the_trainer_carries_out_and_its_weights_say_so(make_state):
    """The risk engine of that version binds it; a file from before weights said so has the first of both."""
    network = trained()
    with torch.no_grad():
        network.prior.weight[registries.KINDS.index("adjust")] = 100.0
    content = weights.save(network, "1.0.0")
    now, before = policy(content), policy(changed(content, action_set=None, risk_engine=None))
    able, unable = (make_state(action_set=each).SerializeToString(deterministic=True) for each in (1, 0))

    assert ((now.action_set, now.risk_engine), (before.action_set, before.risk_engine)) == ((1, 2), (0, 1))
    made = decide(able, now, 0.0)
    assert made.chosen.kind == "adjust"
    assert {"pause", "breaker_open", "adjust x0.5"} <= {str(each) for each in made.actions}
    assert made.judged.verdicts == decide(able, now, 0.0).judged.verdicts
    assert decide(unable, now, 0.0).actions == decide(able, before, 0.0).actions
    assert now.digest != before.digest


def changed(content, **fields):
    """The same tensors, told otherwise."""
    told = {name: each for name, each in {**weights.metadata(content), **fields}.items() if each is not None}
    return safetensors.torch.save(safetensors.torch.load(content), metadata={"policy": json.dumps(told)})


def without(content, name, put=None):
    tensors = safetensors.torch.load(content)
    tensors |= {name: put} if put is not None else {}
    tensors = {each: tensor for each, tensor in tensors.items() if put is not None or each != name}
    return safetensors.torch.save(tensors, metadata={"policy": json.dumps(weights.metadata(content))})


@pytest.mark.requirement("R-TAM-53", "R-TAM-54", "R-SIM-33")
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda content: content[:-7], "invalid_payload"),
        (lambda _: b"\x80\x04\x95pickled", "invalid_payload"),
        (lambda content: changed(content, architecture="tamiyo_gnn_v9"), "version_mismatch"),
        (lambda content: changed(content, settings={"sage": -3}), "invalid_payload"),
        (lambda content: changed(content, registries={"blueprint": "0"}), "registry_mismatch"),
        (lambda content: changed(content, features={}), "incompatible_update"),
        (lambda content: changed(content, action_set=7), "incompatible_update"),
        (lambda content: without(content, "logit.bias"), "incompatible_update"),
        (lambda content: without(content, "logit.bias", torch.zeros(3)), "shape_mismatch"),
        (lambda content: without(content, "logit.bias", torch.tensor([float("nan")])), "invalid_payload"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(spoil, reason):
    good = weights.save(make(), "1.0.0", {"trained_on": "nothing"})
    loaded = weights.load(good)
    assert (loaded.version, loaded.provenance) == ("1.0.0", {"trained_on": "nothing"})

    with pytest.raises(weights.Refused) as refused:
        weights.load(spoil(good))

    assert refused.value.reason == reason


def test_serving_a_learned_policy_needs_no_torch_geometric():
    program = "import sys, esper.tamiyo.policies.learned; sys.exit('torch_geometric' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0
