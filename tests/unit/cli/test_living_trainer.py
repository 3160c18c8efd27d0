"""A run whose trainer lives is not taken over without a word."""

from __future__ import annotations

from contracts.leyline.v1 import event_pb2 as pb
from esper.cli.resume import living_trainer
from esper.leyline.envelope import new_event
from esper.weatherlight.alive import this_process


def claim(kind: type, process: pb.TrainerProcess):
    body = kind()
    body.machine.process.CopyFrom(process)
    return new_event(body, event_id=bytes(16), run_id="run", producer="trainer", recorded_at_ns=1)


def test_the_last_claims_process_counts():
    here, gone = this_process(), this_process()
    gone.started_ticks += 1

    assert living_trainer([claim(pb.RunStarted, gone), claim(pb.RunResumed, here)]) == here.pid
    assert living_trainer([claim(pb.RunStarted, here), claim(pb.RunResumed, gone)]) == 0
    assert living_trainer([]) == living_trainer([claim(pb.RunStarted, pb.TrainerProcess())]) == 0
