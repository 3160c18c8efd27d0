"""`esper why` of a seed that never germinated: the decisions that passed it over, and what stood for its place."""

from __future__ import annotations

import json

import pytest

from contracts.leyline.v1 import event_pb2 as e
from contracts.leyline.v1 import leyline_pb2 as l
from esper.cli.app import dispatch
from projections.archive_writer import Archive
from projections.testing import LogOfRecords

ACTIONS = ["nothing", "germinate s1 BP009", "germinate s2 BP001", "germinate s2 BP009"]
DECIDED = (
    (0, [0.0, -1.0, -1.0, -1.0], "epoch 1 of 9 is too early", b"\1\1\1\1"),
    (0, [0.0, -1.0, -1.0, -1.0], "epoch 2 of 9 is too early", b"\1\1\1\1"),
    (1, [0.0, 3.0, 2.0, 2.5], "the loss pulls hardest at layer1", b"\1\1\1\1"),
    (0, [0.0, -1.0, -1.0, -1.0], "epoch 4 of 9 is too late", b"\1\0\0\0"),
)


def evidence(seed_id: str, norm: float) -> e.SiteEvidence:
    return e.SiteEvidence(seed_id=seed_id, gradient_norm=norm, activation_norm=2.0, candidate_descent=norm / 10)


@pytest.fixture
def archived(tmp_path, tell):
    """Four decisions; s1 grew, s2 never did, and s3 opened in the place of one that was absorbed."""
    sites = [e.SiteDescription(site="layer1", seed_id="s1"), e.SiteDescription(site="layer2", seed_id="s2")]
    events = [tell(e.RunStarted(task="digits", policy="heuristic", epochs=9, steps_per_epoch=10, sites=sites))]
    for epoch, (action, logits, reason, mask) in enumerate(DECIDED, start=1):
        seen = [evidence("s1", 0.4), evidence("s2", 0.1)]
        packet = tell(e.EpochCompleted(state=l.SystemStatePacket(version=1), evidence=seen), epoch=epoch)
        made = e.DecisionMade(
            packet_id=packet.event_id,
            actions=ACTIONS,
            action=action,
            logits=logits,
            action_mask=mask,
            reason=reason,
        )
        events += [packet, tell(made, causation_id=packet.event_id, epoch=epoch)]
        if epoch == 3:
            events.append(tell(e.SeedAbsorbed(seed_id="s1", site="layer1", opened="s3"), epoch=epoch))
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place(events))
    return tmp_path


def test_decisions_alike_are_told_as_one_with_what_stood_for_the_place(archived, capsys):
    assert dispatch(["why", "last", "s2", "--data-dir", str(archived)]) == 0

    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    stood = (
        "2 of 2 blueprints were allowed; the loss pulled there 25% as hard as where it pulled hardest; "
        "the first step of a fresh candidate would have gained 0.01"
    )
    assert lines == [
        "seed s2 of run k3f9x2qa at layer2 never germinated",
        "4 decisions passed it over",
        "",
        "epoch 1 to 2 nothing: epoch 2 of 9 is too early",
        stood,
        "epoch 3 germinate s1 residual_block (BP009): the loss pulls hardest at layer1",
        f"{stood}; `germinate s2 residual_block (BP009)` scored 2.50 against 3.00",
        "epoch 4 nothing: epoch 4 of 9 is too late",
        "none of the 2 blueprints for it was allowed",
    ]


def test_a_slot_that_an_absorption_opened_is_told_as_such(archived, capsys):
    assert dispatch(["why", "last", "s3", "--data-dir", str(archived)]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "seed s3 of run k3f9x2qa at layer1 never germinated",
        "its place opened in epoch 3, when s1 became part of the host",
        "1 decisions passed it over",
    ]


def test_json_has_every_decision(archived, capsys):
    assert dispatch(["why", "last", "s2", "--json", "--data-dir", str(archived)]) == 0

    told = json.loads(capsys.readouterr().out)
    assert [(each["epoch"], each["allowed"], each["best"]) for each in told] == [
        (1, 2, "germinate s2 BP001"),
        (2, 2, "germinate s2 BP001"),
        (3, 2, "germinate s2 BP009"),
        (4, 0, "germinate s2 BP001"),
    ]


def test_a_seed_that_the_run_does_not_have_is_refused(archived, capsys):
    assert dispatch(["why", "last", "s7", "--data-dir", str(archived)]) == 2
    assert "has no seed 's7' that did anything; those that did are s1" in capsys.readouterr().err


def test_the_changes_for_good_are_a_view(archived, capsys):
    query = "select change, seed_id, site, opened_slot, epoch, surviving from growth"
    assert dispatch(["sql", query, "--json", "--data-dir", str(archived)]) == 0

    (row,) = json.loads(capsys.readouterr().out)
    assert (row["change"], row["seed_id"], row["site"], row["opened_slot"]) == ("absorbed", "s1", "layer1", "s3")
