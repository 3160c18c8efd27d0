"""`esper blueprints list`, `show` and `history` over a history that is told by hand, with nothing running."""

from __future__ import annotations

import pytest

from esper.cli.app import dispatch
from esper.cli.blueprints.catalogue import USUAL
from esper.cli.blueprints.show import USUAL_HEADS, USUAL_PLACE, draw
from esper.karn.blueprint import SiteShape
from esper.karn.catalogue import CATALOGUE, measure
from esper.tezzeret.jobs import request

REF = f"sha256:{'ab' * 32}"


def test_the_catalogue_is_listed_where_nothing_has_happened_yet(tmp_path, capsys):
    assert dispatch(["blueprints", "list", "--data-dir", str(tmp_path / "nowhere")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[1 : 1 + len(CATALOGUE)]] == list(CATALOGUE)
    assert not (tmp_path / "nowhere").exists()


def test_a_list_says_what_is_approved_and_what_is_stored(said):
    rows = {line.split()[1]: line for line in said("list").splitlines() if " BP" in line}

    assert rows["BP009"].split()[-1] == "compiled)"
    assert "depth 1..4 (1)" in rows["BP009"]
    assert rows["BP039"].endswith("by ada      -")
    assert [rows[name].split()[-2] for name in ("BP040", "BP041")] == ["needed", "needed"]
    assert "drill only" in rows["BP043"]


def test_what_is_wanted_is_what_is_listed(said):
    def names(*arguments):
        return [row["blueprint_id"] for row in said("list", *arguments, "--json")]

    assert names("--tier", "experimental") == [f"BP{number:03}" for number in range(36, 43)]
    assert names("--stage", "6", "--tag", "NAN") == ["BP045"]
    assert names("--shape", "vector", "--tag", "conv") == ["BP013", "BP025", "BP028"]
    assert names("--stored") == ["BP009"]


def test_a_row_in_json_has_everything(said):
    (row,) = said("list", "--stored", "--measure", "4x8x8", "--outcomes", "--json")

    assert (row["tier"], row["stage"], row["risk"], row["shapes"]) == ("safe", 1, 0.3, ["vector", "image", "token"])
    assert row["parameters"] == {"depth": {"min": 1.0, "max": 4.0, "default": 1.0, "integer": True}}
    cost = measure("BP009", SiteShape("image", (4, 8, 8)))
    assert row["cost"] == {"parameters": cost.parameters, "flops_per_sample": cost.flops_per_sample}
    (stored,) = row["stored"]
    assert (stored["form"], stored["eager_us"], stored["compiled_us"], stored["attachments"]) == (
        "compiled",
        300,
        250,
        1,
    )
    (outcome,) = row["outcomes"]
    assert (outcome["shape"], outcome["germinated"], outcome["fossilized"], outcome["parameters"]) == (
        [4, 8, 8],
        1,
        1,
        852,
    )


def test_outcomes_are_listed_by_what_they_gained(said):
    header, row, *_ = said("list", "--outcomes").splitlines()
    assert header.split()[:3] == ["name", "id", "site"]
    assert row.split()[:9] == ["residual_block", "BP009", "image", "4x8x8", "1", "1", "0", "852", "9"]


def test_show_says_facts_drawing_measurements_and_fate(said):
    text = said("show", "residual_block")

    assert "data sheet 0.30 medium, standard: may grow" in text
    assert "residual_block (BP009) at image 4x8x8" in text  # the site where it is stored, where no other is named
    assert "└── Stack  " in text
    assert "begins as the identity" in text
    (stored,) = [line for line in text.splitlines() if "depth:1.0" in line]
    assert stored.split() == [
        *("1", "image", "4x8x8", "depth:1.0", "compiled", "300", "µs", "250", "µs"),
        *("0.250", "ms", "0.300", "ms", "9.0", "s", "1", "active"),
    ]


def test_show_says_who_approved_and_how_to(said):
    assert "approval    by ada on 2025-10-09: ODEs on spirals" in said("show", "BP039")
    withdrawn = said("show", "BP040")
    assert "withdrawn by bob on 2025-10-09: too slow; needed: esper blueprints approve BP040 --by YOU" in withdrawn
    assert "a quarantine drill" in said("show", "BP043")


def test_show_in_json_has_the_module_as_a_tree(said):
    shown = said("show", "BP009", "--shape", "4x8x8", "--json")

    assert shown["module"]["type"] == "Stack"
    assert shown["module"]["output"] == [4, 8, 8]
    assert shown["cost"]["parameters"] == shown["module"]["parameters"] == CATALOGUE_PARAMETERS
    assert shown["risk_sheet"]["hazard_band"] == "MEDIUM"
    assert shown["formula"].startswith("BP009 residual_block: ")


CATALOGUE_PARAMETERS = measure("BP009", SiteShape("image", (4, 8, 8))).parameters


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_blueprint_can_be_drawn_on_every_shape_that_it_serves(name):
    """The tree's weights are all of the module's, whatever part holds them."""
    if CATALOGUE[name].widens:
        place, parameters = (USUAL_HEADS, 1072) if CATALOGUE[name].sections > 1 else (USUAL_PLACE, 528)
        drawing = draw(name, place)
        assert drawing.root.parameters == drawing.parameters == parameters
    for kind in CATALOGUE[name].kinds:
        drawing = draw(name, SiteShape(kind, USUAL[kind]))

        assert drawing.root.parameters == drawing.parameters
        assert drawing.root.output == USUAL[kind]


def test_history_tells_a_life_in_order(said):
    lines = said("history", "BP009").splitlines()[2:]
    told = [line[21:43].strip() for line in lines]

    assert told == [
        "registered",
        "compile requested",
        "compile started",
        "compile failed",
        "compile started",
        "compile finished",
        "stored",
        "attached",
        "FOSSILIZED",
        "attached",
    ]
    assert "image 4x8x8, depth 1: attempt 1, will be tried again: killed after 65 s" in lines[3]
    assert "compiled serves, 300 µs eager against 250 µs compiled" in lines[5]
    assert f"run k3f9x2qa, seed s1, epoch 3: compiled, the kernel {REF[:19]}, 852 weights" in lines[7]
    assert lines[8].endswith("run k3f9x2qa, seed s1, epoch 4: it helps")
    assert "the kernel could not be used, checksum_mismatch; the identity stands in its place" in lines[9]


def test_history_tells_of_approvals_and_in_json_of_ids(said):
    assert [moment["what"] for moment in said("history", "BP040", "--json")] == [
        "registered",
        "approved",
        "approval withdrawn",
    ]
    moments = said("history", "BP009", "--json")
    assert {moment["job_id"] for moment in moments if "job_id" in moment} == {
        request("BP009", "image", [4, 8, 8], {"depth": 1.0}, "fast").job_id
    }
    assert [moment["run_id"] for moment in moments if "run_id" in moment] == ["k3f9x2qa"] * 3


def test_a_life_that_has_not_begun_says_so(said):
    assert "nothing of it is in this data folder yet" in said("history", "BP001")
