"""`esper diff` and the content of facts: what is compared, where two histories part, and what it came to."""

from __future__ import annotations

import json

import pytest

from contracts.leyline.v1 import event_pb2 as pb
from contracts.leyline.v1 import leyline_pb2
from contracts.topics import RUNS
from esper.cli.app import dispatch
from esper.leyline.envelope import Event, new_event
from esper.leyline.objects import ObjectStore
from esper.record import replay
from esper.record.content import HOUSEKEEPING, content, differences, first_difference
from projections.archive_writer import Archive
from projections.columns import BODIES
from projections.testing import RECORDED_AT_NS, LogOfRecords, Trainers

PART = "host/head.weight"
SAID = {"command_applied.apply_ms", "run_finished.wall_s", "checkpoint_saved.duration_ms", "epoch_completed.duration_s"}


def life(run_id: str, *, cull_at: int = 0, interrupted: bool = False) -> Trainers:
    """A run of five epochs in which s1 grows; at one of them it may be culled, and it may be killed and resumed."""
    run = Trainers(run_id)
    for epoch in range(1, 6):
        who = len(run.trainers) - 1
        if epoch < 5 and epoch != cull_at:
            run.move(who, 0, 0)
        if epoch == cull_at:
            run.move(who, 0, -1)
        run.complete_epoch(who)
        if interrupted and epoch == 3:
            run.resume(who, 0)
    who = len(run.trainers) - 1
    finished = pb.RunFinished(
        status="completed", test_accuracy=0.9 - 0.1 * bool(cull_at), params_final=1_005, wall_s=len(run_id)
    )
    run.publish(run.trainers[who], finished)
    return run


def decisions(run: Trainers, chosen: dict[int, str] | None = None) -> list[Event]:
    return [
        new_event(
            pb.DecisionMade(
                packet_id=event.event_id, actions=[(chosen or {}).get(event.epoch, "nothing")], latency_ms=epoch
            ),
            event_id=event.event_id[::-1],
            run_id=run.run_id,
            producer="tamiyo",
            recorded_at_ns=RECORDED_AT_NS,
            epoch=event.epoch,
            global_step=event.global_step,
        )
        for epoch, event in enumerate(event for event in run.events if event.HasField("epoch_completed"))
    ]


@pytest.fixture
def diff(tmp_path, capsys):
    """Archives runs and compares two; the exit code and what `--json` says."""

    def ask(*runs: Trainers, extra: list[Event] | None = None) -> tuple[int, dict]:
        with Archive(tmp_path / "archive") as archive:
            archive.append(LogOfRecords().place([*(event for run in runs for event in run.events), *(extra or [])]))
        code = dispatch(["diff", runs[0].run_id, runs[1].run_id, "--json", "--data-dir", str(tmp_path)])
        return code, json.loads(capsys.readouterr().out)

    return ask


def test_runs_that_did_the_same_are_the_same(diff):
    """Other ids, times, durations and offsets; one of the two was killed and resumed."""
    code, told = diff(life("aaaa"), life("bbbbbb", interrupted=True))

    assert (code, told["same"], told["parted"]) == (0, True, None)
    assert told["shared_events"] == 10
    assert told["end"]["test_accuracy"] == {"a": 0.9, "b": 0.9, "difference": 0.0}
    assert all(seed["same"] for seed in told["seeds"])


def test_the_first_difference_is_named_and_what_came_of_it(diff):
    code, told = diff(life("aaaa"), life("bbbb", cull_at=3))
    parted = told["parted"]

    assert (code, told["same"], told["shared_events"]) == (1, False, 4)
    assert (parted["a"][0]["step"], parted["a"][0]["type"]) == (20, "seed_transitioned")
    assert "s1 TRAINING -> BLENDING" in parted["a"][0]["what"]
    assert "s1 TRAINING -> CULLED" in parted["b"][0]["what"]
    assert {each["field"] for each in parted["fields"]} >= {"to_stage", "parameters"}
    assert told["end"]["test_accuracy"]["difference"] == pytest.approx(-0.1)
    assert [seed["same"] for seed in told["seeds"]] == [False, True, True]


def test_a_decision_that_differs_is_where_they_part(diff):
    """Before its consequence is a fact."""
    a, b = life("aaaa"), life("bbbb", cull_at=3)
    code, told = diff(a, b, extra=[*decisions(a), *decisions(b, {2: "cull s1"})])

    assert (code, told["shared_events"]) == (1, 5)
    assert told["parted"]["fields"] == [{"field": "chosen", "a": "nothing", "b": "cull s1"}]


def test_a_run_that_ends_early_differs(diff):
    a, b = life("aaaa"), life("bbbb")
    del b.events[-3:]
    code, told = diff(a, b)

    assert (code, told["parted"]["b"], told["b"]["status"]) == (1, [], "running")
    assert told["end"]["test_accuracy"] == {"a": 0.9, "b": None, "difference": None}


def test_a_state_may_differ_where_no_fact_does(diff, tmp_path):
    """The recorded digests are compared too, and the parts that differ are named where they are kept."""
    objects, runs = ObjectStore(tmp_path / "objects"), [life("aaaa"), life("bbbb")]
    for run, bit in zip(runs, "01", strict=True):
        kept = objects.put(json.dumps({PART: bit, "random/torch": "0"}).encode())
        run.publish(run.trainers[0], pb.StateDigested(root=bit.encode() * 32, tensors_ref=kept, occasion="final"))
    code, told = diff(*runs)

    assert (code, told["parted"]) == (1, None)
    assert (told["first_state_that_differs"]["step"], told["first_state_that_differs"]["parts"]) == (
        50,
        ["host/head.weight"],
    )


def test_digests_that_are_damaged_leave_the_parts_unnamed(diff, tmp_path):
    objects, runs = ObjectStore(tmp_path / "objects"), [life("aaaa"), life("bbbb")]
    for run, bit in zip(runs, "01", strict=True):
        kept = objects.put(json.dumps({PART: bit}).encode())
        run.publish(run.trainers[0], pb.StateDigested(root=bit.encode() * 32, tensors_ref=kept, occasion="final"))
    for file in (tmp_path / "objects").rglob("*"):
        if file.is_file():
            file.write_bytes(b"{}")
    code, told = diff(*runs)

    assert (code, told["first_state_that_differs"]["step"], told["first_state_that_differs"]["parts"]) == (1, 50, [])


def forked(parent: Trainers, at: int, run_id: str = "cccc") -> Trainers:
    """A fork that shares the parent's first `at` facts."""
    shared, child = parent.events[at - 1], Trainers(run_id)
    before, trainer = replay(parent.events[:at]), child.trainers[0]
    trainer.sequence, trainer.step, trainer.epoch = shared.sequence, shared.global_step, shared.epoch
    trainer.timeline, trainer.stages = before.timeline, {name: seed.stage for name, seed in before.seeds.items()}
    trainer.lives = {name: seed.life for name, seed in before.seeds.items()}
    start = child.events.pop().run_started
    start.parent_run_id, start.parent_sequence, start.fork_change = parent.run_id, shared.sequence, "nothing"
    child.publish(trainer, start).causation_id = shared.event_id
    return child


def test_a_fork_that_does_nothing_else_is_the_same(diff):
    parent = life("aaaa")
    child = forked(parent, 5)
    for _ in range(2):
        child.move(0, 0, 0)
        child.complete_epoch(0)
    child.complete_epoch(0)
    child.publish(child.trainers[0], parent.events[-1].run_finished)
    code, told = diff(parent, child)

    assert (code, told["parted"], told["shared_events"]) == (0, None, 10)
    assert told["fork"] == {"child": "cccc", "parent": "aaaa", "sequence": 5, "step": 20}
    assert all(seed["same"] for seed in told["seeds"])


def test_a_fork_parts_from_its_parent_where_it_does_otherwise(diff):
    parent = life("aaaa")
    child = forked(parent, 5)
    child.move(0, 0, -1)
    code, told = diff(child, parent)

    assert (code, told["shared_events"]) == (1, 4)
    assert "s1 TRAINING -> CULLED" in told["parted"]["a"][0]["what"]
    assert "s1 TRAINING -> BLENDING" in told["parted"]["b"][0]["what"]
    assert told["fork"]["step"] == 20


def test_a_fork_that_cannot_go_on_from_its_parent_is_said_to_be_one(tmp_path, capsys):
    """Its own facts do not count then; those of its parent are not its."""
    parent = life("aaaa")
    child = forked(parent, 5)
    child.events[0].sequence += 1
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place([*parent.events, *child.events]))

    assert dispatch(["diff", "aaaa", "cccc", "--data-dir", str(tmp_path)]) == 2
    assert "run cccc cannot be folded: bad_claim at sequence 7" in capsys.readouterr().err


def test_settings_that_differ_are_listed(tmp_path, diff):
    runs = [life("aaaa"), life("bbbb")]
    for run, rate in zip(runs, (0.1, 0.2), strict=True):
        started = run.events[0].run_started
        started.config_json = json.dumps(
            {"learning_rate": rate, "seeds": {"blend_epochs": 3}, "control_of": run.run_id}
        )
        started.threads = int(rate * 10)
    # The older of the two has no such settings: it is told what they meant then, and that only where it matters.
    newer = json.loads(runs[1].events[0].run_started.config_json) | {"axes": ["depth"], "measuring_share": 0.1}
    runs[1].events[0].run_started.config_json = json.dumps(newer)
    _, told = diff(*runs)

    assert told["started_differently"] == [
        {"field": "learning_rate", "a": 0.1, "b": 0.2},
        {"field": "measuring_share", "a": None, "b": 0.1},
    ]
    assert told["machine"] == [{"field": "threads", "a": 1, "b": 2}]


def test_a_person_reads_it_side_by_side(tmp_path, capsys):
    a, b = life("aaaa"), life("bbbb", cull_at=3)
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place([*a.events, *b.events]))
    assert dispatch(["diff", "a", "b", "--data-dir", str(tmp_path)]) == 1
    text = capsys.readouterr().out

    assert "they share 4 events and part at step 20, epoch 2:" in text
    assert text.index("s1 TRAINING -> BLENDING") < text.index("s1 TRAINING -> CULLED") < text.index("in the end:")
    assert text.endswith("the histories differ\n")


def test_every_duration_and_id_is_left_out():
    """A field of a fact that is new and named like one needs a decision: this finds it."""
    timed = {
        f"{body}.{field.name}"
        for body in RUNS.bodies
        if body not in HOUSEKEEPING
        for field in BODIES[body].fields
        if field.name.endswith(("_ms", "_s", "_id", "_ns", "_ref")) and field.name not in {"seed_id", "blueprint_id"}
    }
    event = Event()
    for path in sorted(timed):
        body, name = path.split(".")
        message, field = getattr(event, body), BODIES[body].fields_by_name[name]
        setattr(
            message,
            name,
            b"x" * 16 if field.type == field.TYPE_BYTES else "x" if field.type == field.TYPE_STRING else 1,
        )
        assert name not in content(event), path

    assert timed >= SAID - {"checkpoint_saved.duration_ms"}


def test_not_a_number_equals_itself_and_a_lacking_field_does_not():
    nan, none = pb.RunFinished(test_loss=float("nan")), pb.RunFinished()
    a, b, c = (Event(event_id=bytes([n]), run_finished=body) for n, body in enumerate((nan, nan, none)))

    assert first_difference([a], [b]) is None
    assert [each.field for each in differences(a, c)] == ["test_loss"]
    assert first_difference([a, a], [a]) == 1


def test_a_latency_among_the_measurements_is_no_difference():
    def gate(latency_ms: float, loss: float) -> Event:
        figures = [pb.Measurement(name="kernel_latency_ms", value=latency_ms), pb.Measurement(name="loss", value=loss)]
        return Event(
            gate_evaluated=pb.GateEvaluated(
                seed_id="s1", gate=leyline_pb2.SEED_LIFECYCLE_GATE_G2_STABILITY, measurements=figures
            )
        )

    assert differences(gate(1.0, 0.5), gate(2.0, 0.5)) == []
    assert len(differences(gate(1.0, 0.5), gate(1.0, 0.6))) == 1
