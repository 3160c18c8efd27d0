"""Values that an enum lacks are found at any depth (R-LEY-20)."""

from __future__ import annotations

from contracts.leyline.v1 import event_pb2, leyline_pb2
from esper.leyline.envelope import new_event, unknown_values


def test_values_of_a_newer_contract_are_found_wherever_they_stand():
    seeds = [
        leyline_pb2.SeedState(seed_id="s1", stage=leyline_pb2.SEED_LIFECYCLE_STAGE_TRAINING),
        leyline_pb2.SeedState(seed_id="s2", stage=77),
    ]
    body = event_pb2.EpochCompleted(state=leyline_pb2.SystemStatePacket(seed_states=seeds))
    event = new_event(body, event_id=bytes(16), run_id="run", producer="test", recorded_at_ns=0, priority=9)

    assert sorted(unknown_values(event)) == [("MessagePriority", 9), ("SeedLifecycleStage", 77)]


def test_known_values_and_the_default_are_no_finding():
    command = leyline_pb2.AdaptationCommand(
        command_type=leyline_pb2.COMMAND_TYPE_SEED,
        seed_operation=leyline_pb2.CommandSeedOperation(operation=leyline_pb2.SEED_OPERATION_CULL),
    )

    assert unknown_values(command) == []
    assert unknown_values(event_pb2.Event()) == []
