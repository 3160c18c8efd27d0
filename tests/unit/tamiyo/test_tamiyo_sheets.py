"""Risk data sheets obeyed (R-KARN-20): a pause, an optimiser command, a note or nothing, and never anything bolder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.leyline import ids
from esper.leyline.envelope import body_name, topic_of
from esper.tamiyo.answer import answer
from esper.tamiyo.decide import decide, pick
from esper.tamiyo.policies import POLICIES
from esper.tamiyo.policies.heuristic import HEURISTIC
from esper.testing import FakeClock

STOPPED = FakeClock().clock.monotonic

BANDS = st.sampled_from(leyline.HazardBand.values())
CLASSES = st.sampled_from(leyline.HandlingClass.values())
CRITICAL = {"hazard_band": leyline.HAZARD_BAND_CRITICAL}
QUARANTINE = {"hazard_band": leyline.HAZARD_BAND_LOW, "handling_class": leyline.HANDLING_CLASS_QUARANTINE}
HIGH = {"hazard_band": leyline.HAZARD_BAND_HIGH}


def with_sheet(state, blueprint_id="BP009", **sheet):
    for site in state.sites:
        for option in site.options:
            if option.blueprint_id == blueprint_id:
                for name, value in sheet.items():
                    setattr(option, name, value)
    return state


def decision_of(state, policy=HEURISTIC, draw=0.5):
    return decide(state.SerializeToString(), policy, draw)


@pytest.mark.requirement("R-TAM-30", "R-KARN-20")
@pytest.mark.parametrize("sheet", [CRITICAL, QUARANTINE])
def test_a_critical_sheet_pauses_and_says_so_aloud(make_state, make_packet, sheet):
    packet = make_packet(with_sheet(make_state(), **sheet))
    made, command, signal = answer(packet, now_ns=77, monotonic=STOPPED).events

    assert [body_name(e) for e in (made, command, signal)] == [
        "decision_made",
        "adaptation_command",
        "emergency_signal",
    ]
    assert made.decision_made.actions[made.decision_made.action] == "pause s1 BP009"
    assert "but the risk data sheet of BP009 says: do not grow it" in made.decision_made.reason
    assert command.adaptation_command.command_type == leyline.COMMAND_TYPE_PAUSE
    assert command.event_id == made.decision_made.command_id
    assert (signal.priority, topic_of(signal).name) == (leyline.MESSAGE_PRIORITY_CRITICAL, "esper.emergency")
    assert signal.emergency_signal.level == leyline.EMERGENCY_LEVEL_CONSERVATIVE
    assert dict(signal.emergency_signal.attributes) == {"seed_id": "s1", "blueprint_id": "BP009"}
    assert signal.causation_id == made.event_id


@pytest.mark.requirement("R-TAM-17", "R-TAM-30", "R-KARN-20")
def test_a_high_sheet_makes_it_an_optimiser_command_and_a_warning(make_state, make_packet):
    made, command, told = answer(make_packet(with_sheet(make_state(), **HIGH)), now_ns=77, monotonic=STOPPED).events
    body = command.adaptation_command

    assert made.decision_made.actions[made.decision_made.action] == "adjust s1 BP009"
    assert body.command_type == leyline.COMMAND_TYPE_OPTIMIZER
    assert body.optimizer_adjustment.optimizer_id == "host"
    assert dict(body.optimizer_adjustment.hyperparameters) == {"lr_factor": 0.5}
    assert body.ByteSize() < 280
    assert told.telemetry_packet.level == leyline.TELEMETRY_LEVEL_WARNING
    assert told.telemetry_packet.packet_id == ids.text(told.event_id)
    assert told.priority == leyline.MESSAGE_PRIORITY_HIGH


def test_an_alarm_is_the_same_event_when_the_packet_comes_again(make_state, make_packet):
    for sheet in (CRITICAL, HIGH):
        packet = make_packet(with_sheet(make_state(), **sheet))
        first, again = (answer(packet, now_ns=now, monotonic=STOPPED).events[1:] for now in (1, 2))
        assert [e.SerializeToString(deterministic=True) for e in first] == [
            e.SerializeToString(deterministic=True) for e in again
        ]


@pytest.mark.parametrize("band", [leyline.HAZARD_BAND_LOW, leyline.HAZARD_BAND_MEDIUM])
def test_a_mild_sheet_is_a_note(make_state, band):
    decision = decision_of(with_sheet(make_state(), hazard_band=band))

    assert str(decision.chosen) == "germinate s1 BP009"
    assert decision.risk_reasons == ["the risk data sheet of BP009 says: may grow"]


@pytest.mark.requirement("R-KARN-20")
def test_without_a_sheet_and_for_another_blueprints_sheet_nothing_changes(make_state):
    plain = decision_of(make_state())

    assert plain.risk_reasons == []
    assert decision_of(with_sheet(make_state(), "BP015", **CRITICAL)).chosen == plain.chosen


@pytest.mark.requirement("R-TAM-37")
def test_in_conservative_mode_nothing_grows_and_nothing_pauses_again(make_state):
    assert str(decision_of(with_sheet(make_state(conservative=True), **CRITICAL)).chosen) == "nothing"


STRICTNESS = {"germinate": 0, "fossilize": 0, "adjust": 1, "nothing": 2, "cull": 2, "pause": 2}


BOUND_BY_SHEETS = sorted(name for name, policy in POLICIES.items() if policy.risk_engine == 1)


@pytest.mark.requirement("R-TAM-35")
@given(st.data(), st.floats(0, 1, exclude_max=True), st.sampled_from(BOUND_BY_SHEETS), st.booleans())
def test_a_sheet_only_makes_a_decision_stricter(make_state, data, draw, policy, conservative):
    """R-TAM-35, for every policy and any sheets: what grows grows without them too, and is taken away from no one."""
    plain = make_state(conservative=conservative)
    sheets = make_state(conservative=conservative)
    for site in sheets.sites:
        for option in site.options:
            option.hazard_band, option.handling_class = data.draw(BANDS), data.draw(CLASSES)
    before, after = (decision_of(state, POLICIES[policy], draw) for state in (plain, sheets))

    assert STRICTNESS[after.chosen.kind] >= STRICTNESS[before.chosen.kind]
    if after.chosen.kind in ("germinate", "fossilize"):
        assert str(after.chosen) == str(before.chosen)
    assert all(open_ or not left for open_, left in zip(before.mask, after.mask, strict=False))
    assert after.mask[0]
    assert pick(after.logits, after.mask, draw, greedy=POLICIES[policy].greedy) == after.action
    assert len(after.actions) == len(after.mask) == len(after.logits)
