"""`esper why`: every life of a seed with its times, up to the policy that was learnt from it."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from contracts.leyline.v1 import event_pb2 as e
from contracts.leyline.v1 import leyline_pb2 as l
from esper.cli.app import dispatch
from esper.leyline.envelope import body_name
from esper.leyline.ids import derived_id
from projections.archive_writer import Archive
from projections.testing import LogOfRecords
from tests.unit.void_stretch import void_stretch


@pytest.fixture
def lives(story, tell):
    """The story, s1's second germination after it, and a policy that was trained on the first life's report."""
    report = next(event for event in story if body_name(event) == "field_report")
    ways = (l.SEED_LIFECYCLE_STAGE_EMBARGOED, l.SEED_LIFECYCLE_STAGE_RESETTING, l.SEED_LIFECYCLE_STAGE_DORMANT)
    over = [
        tell(e.SeedTransitioned(seed_id="s1", from_stage=source, to_stage=target, life=1), epoch=3)
        for source, target in pairwise(ways)
    ]
    command = tell(
        l.AdaptationCommand(command_type=l.COMMAND_TYPE_SEED, target_seed_id="s1", issued_by="operator:ada"), epoch=3
    )
    again = tell(
        e.SeedTransitioned(
            seed_id="s1",
            from_stage=l.SEED_LIFECYCLE_STAGE_DORMANT,
            to_stage=l.SEED_LIFECYCLE_STAGE_GERMINATED,
            blueprint_id="BP013",
            life=2,
        ),
        causation_id=command.event_id,
        epoch=3,
    )
    learnt = e.PolicyTrained(policy_id="p", policy_version="2")
    trained = tell(learnt, causation_id=report.event_id, event_id=derived_id(b"t", "x", 0))
    promoted = tell(e.PolicyPromoted(policy_id="p", policy_version="2"), causation_id=trained.event_id)
    for policy in (trained, promoted):
        policy.run_id = ""
    return [*story, *over, command, again, trained, promoted]


@pytest.fixture
def archived(tmp_path, lives):
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place(lives))
    return tmp_path


def test_every_life_has_its_chain_and_its_times(archived, capsys):
    assert dispatch(["why", "k3f", "s1", "--json", "--data-dir", str(archived)]) == 0
    chain = json.loads(capsys.readouterr().out)

    assert [(link["life"], link["depth"], link["type"]) for link in chain][:4] == [
        (1, 0, "epoch_completed"),
        (1, 1, "decision_made"),
        (1, 2, "adaptation_command"),
        (1, 3, "command_applied"),
    ]
    assert [(link["life"], link["depth"], link["type"]) for link in chain][-7:] == [
        (1, 3, "field_report"),
        (1, 4, "policy_trained"),
        (1, 5, "policy_promoted"),
        (1, 0, "seed_transitioned"),
        (1, 0, "seed_transitioned"),
        (2, 0, "adaptation_command"),
        (2, 1, "seed_transitioned"),
    ]
    assert (chain[0]["since_start_s"], chain[0]["after_cause_s"]) == (1.0, None)
    assert [link["after_cause_s"] for link in chain[1:4]] == [1.0, 1.0, 1.0]


def test_no_event_happens_before_its_cause(archived, lives, capsys):
    """A command is recorded with its packet's time: it counts as decided, and what follows counts from there."""
    for event in lives:
        if event.HasField("adaptation_command") and event.causation_id:
            event.recorded_at_ns -= 60 * 10**9
    with Archive(archived / "other" / "archive") as archive:
        archive.append(LogOfRecords().place(lives))
    assert dispatch(["why", "last", "s1", "--json", "--data-dir", str(archived / "other")]) == 0
    first = [link for link in json.loads(capsys.readouterr().out) if link["life"] == 1]

    assert [link["after_cause_s"] for link in first[1:4]] == [1.0, 0.0, 2.0]


def test_a_person_reads_titles_and_durations(archived, capsys):
    assert dispatch(["why", "last", "s1", "--data-dir", str(archived)]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert lines[0] == "seed s1 of run k3f9x2qa"
    assert "life 1: residual_block (BP009), epochs 1 to 3 in 9.0 s, DORMANT" in lines
    assert "life 2: grouped_conv (BP013), epochs 3 to 3 in 0.0 s, GERMINATED" in lines
    assert any("+1.000 s  epoch   1  └─ decision_made" in line for line in lines)


@pytest.fixture
def cut(tmp_path):
    """A run of which most was cut: by a resume beside a process that wrote on, and by a rollback."""
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place(void_stretch()))
    return tmp_path


def links(folder, capsys, *options):
    assert dispatch(["why", "last", "s1", "--json", *options, "--data-dir", str(folder)]) == 0
    return [(link["depth"], link["type"], link["surviving"]) for link in json.loads(capsys.readouterr().out)]


def test_what_was_cut_is_no_part_of_a_life(cut, capsys):
    """The command was carried out twice; the first time was cut, and so was the other process's command to cull."""
    kept = [
        (0, "epoch_completed", True),
        (1, "decision_made", True),
        (2, "adaptation_command", True),
        (3, "command_applied", True),
        (4, "seed_transitioned", True),
        (3, "field_report", True),
    ]

    assert links(cut, capsys) == kept


def test_what_was_cut_can_be_asked_for(cut, capsys):
    told = links(cut, capsys, "--void")

    assert [link for link in told if link[2]] == links(cut, capsys)
    assert [link[1] for link in told if not link[2]] == [
        *("command_applied", "seed_transitioned"),
        *("epoch_completed", "decision_made", "adaptation_command", "command_applied"),
    ]
    assert dispatch(["why", "last", "s1", "--void", "--data-dir", str(cut)]) == 0
    assert capsys.readouterr().out.count("(cut)") == 6
