"""Shares of memory: a germination beyond one is refused, a share that is nearly full is told of and makes room."""

from __future__ import annotations

import pytest

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.testing import seed_command, signed
from esper.tolaria.commands import apply_arrived
from esper.tolaria.config import RunConfig
from esper.tolaria.kept import keep
from esper.tolaria.memory import MIB, relieve, used
from esper.tolaria.new_run import make_run
from esper.tolaria.run_state import capture
from esper.tolaria.session import publish_start
from esper.tolaria.state import digest


@pytest.fixture
def started(bench, tiny_task):
    def run(memory_mib, **config):
        settings = {"rate_policy": "constant", "growth_data_share": 0.0, "growth_budget_factor": 9.0} | config
        found = make_run(
            RunConfig(task="tiny", policy="none", memory_mib=memory_mib, **settings),
            tiny_task(),
            bench.world(bench.verifier),
            run_id="run",
        )
        publish_start(found)
        return found

    return run


def grow(bench, run):
    event = seed_command("run", leyline.SEED_OPERATION_GERMINATE, "s1", "BP009", clock=bench.clock.clock)
    bench.log.send(signed(event))
    apply_arrived(run)


def told(bench):
    return [
        (event.event_id, event.attributes["share"])
        for packet in bench.log.bodies("telemetry_packet")
        for event in packet.events
    ]


@pytest.mark.requirement("R-KAS-41", "R-TOL-39")
@pytest.mark.parametrize(("mib", "share"), [(0.02, "morphogenetic"), (0.0001, "model"), (1.0, "")])
def test_a_germination_beyond_a_share_is_refused_by_the_first_in_order(bench, started, mib, share):
    run = started(mib)
    grow(bench, run)
    rejected = bench.log.bodies("command_rejected")
    if share:
        assert rejected[0].reason == "memory_share"
        assert rejected[0].detail.startswith(f"{share} would take ")
        assert run.kasmina.modules() == {}
    else:
        assert rejected == []
        assert 0 < used(run)["morphogenetic"] <= 0.05 * MIB


@pytest.mark.requirement("R-KAS-41")
def test_kept_states_are_told_of_at_85_percent_and_make_room_at_90(bench, started):
    run = started(1e6, checkpoint_every_epochs=1)
    one = run.snapshots.nbytes
    for _ in range(3):
        flat = capture(run)
        keep(run, flat, digest(flat))
    assert len(run.snapshots) == 4

    def has_room_for(states):
        object.__setattr__(run.config, "memory_mib", states * one / MIB / 0.08)
        relieve(run)

    has_room_for(4.8)
    assert told(bench) == []
    has_room_for(4.6)
    has_room_for(4.6)
    assert told(bench) == [("memory_high", "checkpoints")]
    assert len(run.snapshots) == 4
    newest = run.snapshots.newest()
    has_room_for(4.0)
    assert told(bench)[-1] == ("emergency_cleanup", "checkpoints")
    assert len(run.snapshots) == 3
    has_room_for(0.5)
    assert len(run.snapshots) == 1
    assert run.snapshots.newest() is newest


def test_without_a_limit_nothing_is_counted(bench, started):
    run = started(None)
    grow(bench, run)
    relieve(run)
    assert told(bench) == []
    assert bench.log.bodies("command_rejected") == []
