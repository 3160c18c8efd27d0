"""Hot reload: what is promoted serves from its moment on, what is wrong changes nothing, all of it is derived again."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import safetensors.torch
import torch

from contracts.leyline.v1.event_pb2 import PolicyPromoted
from contracts.leyline.v1.leyline_pb2 import (
    MESSAGE_PRIORITY_CRITICAL,
    TELEMETRY_LEVEL_CRITICAL,
    TELEMETRY_LEVEL_INFO,
)
from esper.errors import InvalidInput
from esper.leyline import ids
from esper.leyline.envelope import body_name, new_event
from esper.leyline.objects import ObjectStore
from esper.tamiyo import coverage, serving, weights
from esper.tamiyo.actions import legal_actions
from esper.tamiyo.answer import answer
from esper.tamiyo.decide import decide, rederived
from esper.tamiyo.graph import build
from esper.tamiyo.network import make
from esper.tamiyo.policies import learned
from esper.tamiyo.serving import IN_FORCE_NS, Serving
from esper.tamiyo.staging import serves
from esper.testing import FakeClock
from tests.unit.tamiyo.conftest import PACKET_TIME_NS

STOPPED = FakeClock().clock.monotonic


@pytest.fixture(name="objects")
def _objects(tmp_path):
    return ObjectStore(tmp_path)


def trained(seed, version):
    network = make("small", seed)
    with torch.no_grad():
        network.logit.weight.normal_(generator=torch.Generator().manual_seed(seed))
    return weights.save(network, version)


def promotion(ref, version, *, at_ns, **fields):
    body = PolicyPromoted(policy_id="p", policy_version=version, weights_ref=ref, issued_at_ns=at_ns, **fields)
    return new_event(
        body, event_id=ids.derived_id(ref.encode(), "test", 0), run_id="", producer="simic", recorded_at_ns=at_ns
    )


def decided(packet, served):
    return answer(packet, now_ns=1, monotonic=STOPPED, serving=served).events[0].decision_made


@pytest.mark.requirement("R-TAM-56", "R-SIM-39")
def test_a_promoted_policy_decides_from_its_moment_on_and_an_older_packet_is_answered_as_before(
    objects, make_state, make_packet
):
    served = Serving(objects, process="decider")
    first, second = (objects.put(trained(seed, f"{seed}.0.0")) for seed in (1, 2))
    began = PACKET_TIME_NS - IN_FORCE_NS
    loaded = served.promote(promotion(first, "1.0.0", at_ns=began))
    assert (loaded.policy_version, loaded.process, loaded.weights_ref) == ("1.0.0", "decider", first)
    packet = make_packet(make_state(policy="learned"))
    before = decided(packet, served)

    swapped = served.promote(promotion(second, "2.0.0", at_ns=began + 1))

    assert swapped.previous_ref == first
    again, later = decided(packet, served), make_packet(make_state(policy="learned"))
    later.recorded_at_ns += 1
    after = decided(later, served)
    assert again == before  # it came before the swap, so it is answered as it was: no second decision under its id
    assert (before.policy_version, before.policy_ref) == ("1.0.0", first)
    assert (after.policy_version, after.policy_ref) == ("2.0.0", second)
    assert after.policy_hash != before.policy_hash
    assert after.logits != before.logits
    assert [rederived(made, at, objects) for made, at in ((before, packet), (after, later))] == ["", ""]

    served.promote(promotion(first, "1.0.0", at_ns=began + 2))  # back to what was there
    later.recorded_at_ns += 1
    assert decided(later, served).policy_version == "1.0.0"


@pytest.mark.requirement("R-SIM-40")
def test_a_policy_for_a_share_of_the_runs_decides_for_those_and_the_one_before_for_the_others(objects):
    served = Serving(objects)
    served.promote(promotion(objects.put(trained(1, "1.0.0")), "1.0.0", at_ns=0))
    served.promote(promotion(objects.put(trained(2, "2.0.0")), "2.0.0", at_ns=1, share=0.25))
    runs = [f"run{number}" for number in range(200)]
    versions = [served.find("learned", 2 * IN_FORCE_NS, run_id).version for run_id in runs]

    assert versions == ["2.0.0" if serves(run_id, "2.0.0", 0.25) else "1.0.0" for run_id in runs]
    assert 25 < versions.count("2.0.0") < 75


def test_the_last_bits_of_another_processor_are_forgiven_and_another_choice_is_not(objects, make_state, make_packet):
    served = Serving(objects)
    served.promote(promotion(objects.put(trained(1, "1.0.0")), "1.0.0", at_ns=0))
    packet = make_packet(make_state(policy="learned"))
    made = decided(packet, served)
    made.logits[1] += 1e-6
    assert rederived(made, packet, objects) == ""
    made.logits[1] += 0.01
    assert rederived(made, packet, objects).startswith("logits ")


def test_a_recorded_decision_whose_weights_are_gone_says_so(objects, make_state, make_packet):
    served = Serving(objects)
    ref = objects.put(trained(1, "1.0.0"))
    served.promote(promotion(ref, "1.0.0", at_ns=0))
    packet = make_packet(make_state(policy="learned"))
    made = decided(packet, served)
    objects.delete(ref)

    with pytest.raises(InvalidInput, match="is not in"):
        rederived(made, packet, objects)


def told_otherwise(content, **fields):
    told = {**weights.metadata(content), **fields}
    return safetensors.torch.save(safetensors.torch.load(content), metadata={"policy": json.dumps(told)})


@pytest.mark.requirement("R-TAM-53", "R-TAM-54", "R-TAM-55", "R-SEC-16")
@pytest.mark.parametrize(
    ("content", "fields", "reason"),
    [
        (b"\x80\x04\x95pickled", {}, "invalid_payload"),
        (None, {}, "invalid_payload"),
        (trained(2, "3.0.0"), {}, "version_mismatch"),
        (told_otherwise(trained(2, "2.0.0"), architecture="tamiyo_gnn_v9"), {}, "version_mismatch"),
        (told_otherwise(trained(2, "2.0.0"), registries={}), {}, "registry_mismatch"),
        (told_otherwise(trained(2, "2.0.0"), relations=[]), {}, "incompatible_update"),
        (trained(2, "2.0.0"), {"issued_at_ns": 1}, "stale_update"),
    ],
)
def test_what_is_wrong_with_a_promotion_is_told_and_changes_no_bit(
    objects, make_state, make_packet, content, fields, reason
):
    served = Serving(objects, process="decider", freshness_s=60)
    good, packet = objects.put(trained(1, "1.0.0")), make_packet(make_state(policy="learned"))
    served.promote(promotion(good, "1.0.0", at_ns=PACKET_TIME_NS - 2 * IN_FORCE_NS))
    before = decided(packet, served)
    ref = objects.put(content) if content is not None else f"sha256:{'0' * 64}"
    bad = promotion(ref, "2.0.0", at_ns=PACKET_TIME_NS - IN_FORCE_NS)
    bad.policy_promoted.issued_at_ns = fields.get("issued_at_ns", bad.policy_promoted.issued_at_ns)

    refused = served.promote(bad)

    assert (refused.reason, refused.process, refused.policy_version) == (reason, "decider", "2.0.0")
    assert refused.detail
    assert "\n" not in refused.detail
    assert decided(packet, served) == before
    assert rederived(before, packet, objects) == ""


def test_weights_that_changed_in_the_store_are_not_loaded(objects):
    ref = objects.put(trained(1, "1.0.0"))
    file = next(objects.root.rglob(ref[9:]))
    file.chmod(0o600)
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")

    refused = Serving(objects).promote(promotion(ref, "1.0.0", at_ns=0))

    assert refused.reason == "invalid_payload"
    assert "does not match its digest" in refused.detail


def test_without_a_learned_policy_the_error_says_how_to_get_one(make_state, make_packet, monkeypatch):
    monkeypatch.setattr(serving, "SHIPPED", "nothing.safetensors")
    with pytest.raises(InvalidInput, match=r"train one with `esper learn`.*esper policy promote"):
        decided(make_packet(make_state(policy="learned")), Serving())


def test_the_policy_that_comes_with_esper_decides_where_none_is_promoted(objects, make_state, make_packet, monkeypatch):
    content = trained(5, "1.0.0")
    monkeypatch.setattr(serving, "shipped", lambda: content)
    served, packet = Serving(objects), make_packet(make_state(policy="learned"))
    served.prepare(packet.recorded_at_ns, packet.run_id)
    made = decided(packet, served)

    assert made.policy_ref == serving.reference(content) not in objects
    assert rederived(made, packet, objects) == ""
    other = objects.put(trained(6, "2.0.0"))
    served.promote(promotion(other, "2.0.0", at_ns=PACKET_TIME_NS))
    assert decided(packet, served) == made  # it is in force for later packets
    packet.recorded_at_ns += IN_FORCE_NS
    assert decided(packet, served).policy_ref == other


@pytest.mark.requirement("R-TAM-7")
def test_a_decision_made_half_blind_says_so(objects, make_state, make_packet):
    served = Serving(objects)
    served.promote(promotion(objects.put(trained(1, "1.0.0")), "1.0.0", at_ns=0))

    def answered(state):
        return answer(make_packet(state), now_ns=1, monotonic=STOPPED, serving=served).events

    seeing, blind = make_state(policy="learned"), make_state(policy="learned", accuracy=float("nan"))
    seeing.state.training_metrics["gradient_norm"] = 1.0
    seeing.state.training_metrics["optimizer_lr"] = 0.1
    del blind.evidence[:]
    del blind.probe_loss_history[:]
    blind.state.training_loss = float("nan")
    assert "telemetry_packet" not in [body_name(event) for event in answered(seeing)]

    (event,) = [each for each in answered(blind) if body_name(each) == "telemetry_packet"]

    (told,) = event.telemetry_packet.events
    assert (told.event_id, told.level) == ("degraded_inputs", TELEMETRY_LEVEL_CRITICAL)
    assert event.priority == MESSAGE_PRIORITY_CRITICAL
    assert told.attributes["activation.evidence"] == "0.000"
    levels = [coverage.degraded({"a.b": share}, 1) for share in (0.05, 0.2, 0.5)]
    assert [found and found.level for found in levels] == [TELEMETRY_LEVEL_CRITICAL, TELEMETRY_LEVEL_INFO, None]
    assert coverage.mean({"node.x": 0.0, "a.b": 0.5}) == 0.5


@pytest.mark.requirement("R-TAM-11", "R-TAM-15")
@pytest.mark.serial
def test_a_decision_and_its_graph_take_few_milliseconds_of_a_processor(make_state):
    policy, state = learned.policy(trained(1, "1.0.0")), make_state(policy="learned")
    observation = state.SerializeToString(deterministic=True)
    actions, _ = legal_actions(state)

    def p95_ms(each):
        times = []
        for _ in range(100):
            began = time.process_time()
            each()
            times.append(1e3 * (time.process_time() - began))
        return sorted(times)[95]

    assert p95_ms(lambda: build(state, actions)) <= 5.0
    assert p95_ms(lambda: decide(observation, policy, 0.0)) <= 45.0


def test_the_deciders_process_imports_no_torch_until_a_learned_policy_is_asked_for():
    program = "import sys, streams.decider; sys.exit('torch' in sys.modules or 'torch_geometric' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0
