"""`esper blueprints list`, `show` and `history` over a history that is told by hand, with nothing running."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

from contracts.leyline.v1 import event_pb2 as pb
from esper.cli.app import dispatch
from esper.cli.blueprints.app import app
from esper.cli.blueprints.drawing import draw
from esper.cli.blueprints.shapes import USUAL, parse_shape
from esper.errors import InvalidInput
from esper.karn.approval import approve
from esper.karn.catalogue import CATALOGUE, measure
from esper.karn.descriptor import registered
from esper.karn.facts import SiteShape
from esper.karn.table import facts
from esper.kasmina.lifecycle import DORMANT, FOSSILIZED, GERMINATED, PROBATIONARY
from esper.leyline import ids
from esper.leyline.envelope import new_event
from esper.tezzeret.jobs import request
from projections.archive import Archive
from projections.records import StoredRecord
from streams.records import outgoing, partition_of

COMMANDS = ("list", "show", "compile", "approve", "history")
SECOND_NS = 10**9
BEGIN_NS = 1_760_000_000 * SECOND_NS
REF = f"sha256:{'ab' * 32}"


class Story:
    """What the log says, one second after another."""

    def __init__(self):
        self.records, self._ends = [], {}

    def say(self, body, *, run_id="", epoch=0, sequence=0):
        number = len(self.records)
        event = new_event(
            body,
            event_id=ids.derived_id(b"story", "say", number),
            run_id=run_id,
            producer="somebody",
            recorded_at_ns=BEGIN_NS + number * SECOND_NS,
            epoch=epoch,
            sequence=sequence,
            incarnation=1 if run_id else 0,
            timeline=1 if run_id else 0,
        )
        sent = outgoing(event)
        place = (sent.topic, partition_of(sent.key))
        offset = self._ends.get(place, 0)
        self._ends[place] = offset + 1
        at_ms = event.recorded_at_ns // 1_000_000
        self.records.append(StoredRecord(*place, offset, at_ms, sent.key, sent.payload, ()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """BP009 failed once, was stored, attached and fossilised; BP039 is approved, BP040 not any more."""
    story = Story()
    for name in ("BP009", "BP039", "BP040"):
        story.say(registered(facts()[name]))
    story.say(approve(facts()["BP039"], by="ada", why="ODEs on spirals"))
    story.say(approve(facts()["BP040"], by="ada", why="to see"))
    story.say(approve(facts()["BP040"], by="bob", why="too slow", approved=False))
    job = request("BP009", "image", [4, 8, 8], {"depth": 1.0}, "fast")
    about = {"job_id": job.job_id, "blueprint_id": "BP009"}
    story.say(job)
    story.say(pb.CompileStarted(**about, attempt=1, pipeline="fast"))
    story.say(pb.CompileFailed(**about, attempt=1, reason="killed after 65 s", will_retry=True))
    story.say(pb.CompileStarted(**about, attempt=2, pipeline="emergency"))
    times = {
        "compile_ms": 9_000.0,
        "eager_us": 300.0,
        "compiled_us": 250.0,
        "prewarm_p50_ms": 0.25,
        "prewarm_p95_ms": 0.3,
    }
    story.say(pb.CompileFinished(**about, attempt=2, artifact_ref=REF, form="compiled", **times))
    story.say(
        pb.ArtifactStored(blueprint_id="BP009", artifact_ref=REF, artifact_version=1, bytes=12_345, form="compiled")
    )
    site = pb.SiteDescription(site="stem", seed_id="s1", shape_kind="image", shape=[4, 8, 8])
    facts_of_a_run = [
        pb.RunStarted(task="digits", sites=[site]),
        moved(DORMANT, GERMINATED, "germinate command"),
        pb.KernelAttached(
            seed_id="s1",
            blueprint_id="BP009",
            artifact_ref=REF,
            form="compiled",
            module_parameters=852,
            flops_per_sample=9,
        ),
        moved(PROBATIONARY, FOSSILIZED, "it helps"),
        pb.KernelAttached(seed_id="s2", blueprint_id="BP009", form="identity", trouble="checksum_mismatch"),
    ]
    for number, body in enumerate(facts_of_a_run, start=1):
        story.say(body, run_id="k3f9x2qa", epoch=number, sequence=number)
    made = tmp_path_factory.mktemp("blueprints")
    with Archive(made / "archive") as archive:
        archive.append(story.records)
    return made


def moved(source, target, reason):
    return pb.SeedTransitioned(
        seed_id="s1", site="stem", from_stage=source, to_stage=target, blueprint_id="BP009", life=1, reason=reason
    )


@pytest.fixture
def said(folder, capsys):
    """What a command prints; as JSON where that is asked for."""

    def run(*arguments):
        assert dispatch(["blueprints", *arguments, "--data-dir", str(folder)]) == 0
        out = capsys.readouterr().out
        return json.loads(out) if "--json" in arguments else out

    return run


def test_every_command_is_tested_here():
    assert sorted(command.name or command.callback.__name__ for command in app.registered_commands) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_the_shared_options(capsys, command):
    assert dispatch(["blueprints", command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Example: esper blueprints {command}" in " ".join(text.split())
    assert "--data-dir" in text
    assert "--json" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lst"], "No such command 'lst'. Did you mean 'list'?"),
        (["list", "--tier", "danger"], "'danger' is not one of 'safe', 'experimental', 'high-risk'"),
        (["list", "--stage", "9"], "less than or equal to 6"),
        (["list", "--tag", "norms"], "no blueprint has the tag 'norms'; did you mean norm?"),
        (["list", "--measure", "0x8"], "shape '0x8' is none of a site"),
        (["show"], "Missing argument 'ID'"),
        (["show", "BP999"], "there is no blueprint 'BP999'; did you mean"),
        (["show", "residul_block"], "did you mean BP009 residual_block"),
        (["show", "BP007", "--shape", "8"], "BP007 pooling_max does not serve a vector site; it serves image, token"),
        (["show", "BP009", "--shape", "1x2x3x4"], "write 32 for a vector"),
        (["history", "BP51"], "there is no blueprint 'BP51'"),
        (["approve", "BP009", "--by", "ada", "--why", "x"], "BP009 residual_block is safe and needs no approval"),
        (["approve", "BP39", "--by", "ada", "--why", "x"], "did you mean BP039 neural_ode_block"),
        (["approve", "BP039", "--by", " ", "--why", "x"], "must say by whom ('') and why"),
        (["approve", "BP039", "--by", "ada", "--why", ""], "must say by whom ('ada') and why ('')"),
        (["approve", "BP039", "--why", "x"], "Missing option '--by'"),
        (["compile", "BP043"], "BP043 exploding_gradient is for quarantine drills only and is never compiled"),
        (["compile", "--tier", "high-risk"], "is for quarantine drills only and is never compiled"),
        (["compile", "BP031", "--shape", "8"], "BP031 temporal_conv serves token sites, and asked for are vector only"),
        (["compile", "--pipeline", "slow"], "'slow' is not one of 'standard', 'fast', 'emergency'"),
        (["compile", "--task", "nonsense"], "task 'nonsense' is unknown"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2_and_starts_nothing(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert dispatch(["blueprints", *arguments]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_the_catalogue_is_listed_where_nothing_has_happened_yet(tmp_path, capsys):
    assert dispatch(["blueprints", "list", "--data-dir", str(tmp_path / "nowhere")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:51]] == list(CATALOGUE)
    assert not (tmp_path / "nowhere").exists()


def test_a_list_says_what_is_approved_and_what_is_stored(said):
    rows = {line.split()[0]: line for line in said("list").splitlines() if line.startswith("BP")}

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
    assert header.split()[:3] == ["id", "name", "site"]
    assert row.split()[:9] == ["BP009", "residual_block", "image", "4x8x8", "1", "1", "0", "852", "9"]


def test_show_says_facts_drawing_measurements_and_fate(said):
    text = said("show", "residual_block")

    assert "data sheet 0.30 medium, standard: may grow" in text
    assert "residual_block at image 4x8x8" in text  # the site where it is stored, where no other is named
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


@pytest.mark.parametrize("text", ["", "x", "8x", "-8", "1x2x3x4", "0", "8.5", "axb"])
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(InvalidInput, match="is none of a site"):
        parse_shape(text)


@pytest.mark.parametrize("arguments", [["list"], ["history", "BP009"], ["approve", "BP001", "--by", "a", "--why", "b"]])
def test_starts_within_half_a_second_without_torch(folder, arguments):
    """Counted in processor time, which does not depend on what else the machine does."""
    program = (
        "import sys\nfrom esper.cli.app import dispatch\n"
        "dispatch(['blueprints', *sys.argv[1:]])\nassert 'torch' not in sys.modules"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", program, *arguments, "--data-dir", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime) < 1.0
