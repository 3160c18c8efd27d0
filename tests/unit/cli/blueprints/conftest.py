"""A history of blueprints that is told by hand, and what the commands say of it."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from contracts.leyline.v1 import event_pb2 as pb
from contracts.topics import PARTITIONS
from esper.cli.app import dispatch
from esper.karn.approval import approve
from esper.karn.registration import registered
from esper.karn.table import CATALOGUE
from esper.kasmina.lifecycle import BLENDING, DORMANT, FOSSILIZED, GERMINATED, PROBATIONARY, SHADOWING, TRAINING
from esper.leyline import ids
from esper.leyline.envelope import new_event
from esper.tezzeret.jobs import request
from projections.archive_writer import Archive
from projections.records import StoredRecord
from streams.records import outgoing, partition_of

SECOND_NS = 10**9
BEGIN_NS = 1_760_000_000 * SECOND_NS
REF = f"sha256:{'ab' * 32}"
LIFE = (GERMINATED, TRAINING, BLENDING, SHADOWING, PROBATIONARY)


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
        place = (sent.topic, partition_of(sent.key, PARTITIONS))
        offset = self._ends.get(place, 0)
        self._ends[place] = offset + 1
        at_ms = event.recorded_at_ns // 1_000_000
        self.records.append(StoredRecord(*place, offset, at_ms, sent.key, sent.payload, ()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """BP009 failed once, was stored, attached and fossilised; BP039 is approved, BP040 not any more."""
    story = Story()
    for name in ("BP009", "BP039", "BP040"):
        story.say(registered(CATALOGUE[name]))
    story.say(approve(CATALOGUE["BP039"], by="ada", why="ODEs on spirals"))
    story.say(approve(CATALOGUE["BP040"], by="ada", why="to see"))
    story.say(approve(CATALOGUE["BP040"], by="bob", why="too slow", approved=False))
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
        *(moved(*stages, "its gate passed") for stages in pairwise(LIFE)),
        moved(PROBATIONARY, FOSSILIZED, "it helps"),
        pb.KernelAttached(seed_id="s2", blueprint_id="BP009", form="identity", trouble="checksum_mismatch"),
    ]
    epochs = (1, 2, 3, 3, 3, 3, 3, 4, 5)
    for number, (epoch, body) in enumerate(zip(epochs, facts_of_a_run, strict=True), start=1):
        story.say(body, run_id="k3f9x2qa", epoch=epoch, sequence=number)
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
