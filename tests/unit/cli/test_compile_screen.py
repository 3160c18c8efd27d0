"""Kernels on their way: what the topic says of a job is what is shown of it, in lines and in bars."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from contracts.leyline.v1.event_pb2 import CompileFinished, CompileStarted
from esper.cli.blueprints.catalogue import task_sites
from esper.cli.blueprints.compile import CompileRequest, permitted
from esper.cli.blueprints.kernels import Bars, Kernel, Lines, make_jobs_screen, say_kernels
from esper.errors import InvalidInput
from esper.karn.approval import Approval
from esper.karn.blueprint import SiteShape
from esper.karn.table import CATALOGUE
from esper.tezzeret import events
from esper.tezzeret.jobs import Ledger, Place, request

PLACE = Place(1, 0, 0)


class Talk:
    """The forge's side of the topic, folded by the forge's own ledger."""

    def __init__(self, *names):
        self.ledger, self.told = Ledger(), {}
        self.bodies = [request(name, "vector", [8], {}, "fast") for name in names]

    def job(self, job_id):
        return self.ledger.jobs.get(job_id)

    def last(self, job_id, name):
        return self.told.get((job_id, name))

    def ask(self, which, *, attempts_made=0):
        event = events.requested(self.bodies[which], 1, producer="person", attempts_made=attempts_made)
        self.ledger.apply(event, PLACE)

    def start(self, which, attempt, pipeline="fast"):
        job = self.ledger.jobs[self.bodies[which].job_id]
        self.ledger.apply(events.started(job, attempt, pipeline, 2), PLACE)
        body = CompileStarted(job_id=job.job_id, attempt=attempt, pipeline=pipeline)
        self.told[job.job_id, "compile_started"] = body

    def fail(self, which, attempt, *, will_retry):
        job = self.ledger.jobs[self.bodies[which].job_id]
        self.ledger.apply(events.failed(job, attempt, "it took too long", 3, will_retry=will_retry), PLACE)
        if not will_retry:
            self.ledger.apply(events.parked(job, attempt, "it took too long", 4), PLACE)

    def store(self, which, attempt=1):
        """Everything that the forge tells of an artifact."""
        job_id = self.bodies[which].job_id
        body = CompileFinished(
            job_id=job_id,
            blueprint_id=self.bodies[which].blueprint_id,
            attempt=attempt,
            artifact_ref=f"sha256:{which}",
            form="compiled",
            eager_us=300.0,
            compiled_us=200.0,
            compile_ms=9_000.0,
        )
        self.told[job_id, "compile_finished"] = body
        job = self.ledger.jobs[job_id]
        for said in (body, *stored(body)):
            event = events._event(job, said, said.DESCRIPTOR.name, attempt, 5)
            self.ledger.apply(event, PLACE)


def stored(body):
    from contracts.leyline.v1.event_pb2 import ArtifactStored
    from contracts.leyline.v1.leyline_pb2 import KernelCatalogUpdate

    about = {"blueprint_id": body.blueprint_id, "artifact_ref": body.artifact_ref}
    return ArtifactStored(**about, artifact_version=1), KernelCatalogUpdate(**about)


def kernels_of(talk):
    return [Kernel.of(body, talk) for body in talk.bodies]


def follow(kernels, talk):
    for kernel in kernels:
        kernel.follow(talk)
    return [kernel.outcome for kernel in kernels]


def test_a_kernel_is_waited_for_until_it_is_stored():
    talk = Talk("BP009")
    kernels = kernels_of(talk)
    talk.ask(0)
    assert follow(kernels, talk) == ["waiting"]
    talk.start(0, 1)
    assert follow(kernels, talk) == ["compiling"]
    assert (kernels[0].limit_s, kernels[0].attempt) == (65.0, 1)
    talk.store(0)
    assert follow(kernels, talk) == ["stored"]
    assert kernels[0].to_json()["compiled_us"] == 200.0


def test_what_is_stored_already_is_skipped_with_its_figures():
    talk = Talk("BP009")
    talk.ask(0)
    talk.start(0, 1)
    talk.store(0)
    (kernel,) = kernels_of(talk)

    assert (kernel.outcome, kernel.settled, kernel.to_json()["eager_us"]) == ("skipped", True, 300.0)


def test_what_was_given_up_before_is_waited_for_anew():
    talk = Talk("BP009")
    talk.ask(0)
    for attempt in (1, 2):
        talk.start(0, attempt)
        talk.fail(0, attempt, will_retry=attempt == 1)
    (kernel,) = kernels = kernels_of(talk)
    assert (kernel.outcome, kernel.attempts_made) == ("waiting", 2)
    assert follow(kernels, talk) == ["waiting"]
    talk.ask(0, attempts_made=2)
    talk.start(0, 3)
    assert follow(kernels, talk) == ["compiling"]
    talk.fail(0, 3, will_retry=False)
    assert follow(kernels, talk) == ["parked"]
    assert kernel.to_json()["reason"] == "it took too long"


@pytest.fixture
def told():
    """One stored, one given up after two attempts, one in work; each change shown to the screen."""

    def tell(screen):
        talk = Talk("BP009", "BP016", "BP021")
        kernels = kernels_of(talk)
        for which in range(3):
            talk.ask(which)
        screen.begin(kernels)
        steps = [
            lambda: talk.start(0, 1),
            lambda: talk.start(1, 1),
            lambda: talk.store(0),
            lambda: talk.fail(1, 1, will_retry=True),
            lambda: talk.start(1, 2, "emergency"),
            lambda: talk.fail(1, 2, will_retry=False),
            lambda: talk.start(2, 1),
        ]
        for step in steps:
            step()
            follow(kernels, talk)
            screen.show(kernels)
            screen.show(kernels)
        return kernels

    return tell


def test_lines_say_every_change_once(told, capsys):
    told(Lines(quiet=False))

    assert capsys.readouterr().out.splitlines() == [
        "[0/3] residual_block (BP009) 8: compiling (fast)",
        "[0/3] squeeze_excitation (BP016) 8: compiling (fast)",
        "[1/3] residual_block (BP009) 8: stored, compiled serves (300 against 200 µs)",
        "[1/3] squeeze_excitation (BP016) 8: compiling (emergency, attempt 2 after: it took too long)",
        "[2/3] squeeze_excitation (BP016) 8: given up, it took too long",
        "[2/3] feedforward_gated (BP021) 8: compiling (fast)",
    ]


def test_lines_go_to_stderr_where_stdout_is_for_json(told, capsys):
    screen = make_jobs_screen(quiet=True)
    screen.note("starting")
    told(screen)

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("starting\n[0/3] residual_block (BP009)")


def test_bars_show_what_is_in_work_and_how_many_are_done(told):
    bars = Bars()
    console = bars._progress.live.console = Console(
        file=io.StringIO(), width=150, force_terminal=True, color_system=None
    )
    told(bars)

    console.print(bars._progress.get_renderable())
    text = console.file.getvalue()
    assert "squeeze_excitation (BP016) 8: given up, it took too long" in text
    shown = text[text.rindex("kernels") :]
    assert "2 of 3" in shown
    assert "feedforward_gated (BP021) 8" in shown
    assert "fast, attempt 1" in shown
    assert "BP009" not in shown


def test_the_table_says_what_serves_and_why_not(told, capsys):
    kernels = told(Lines(quiet=True))
    capsys.readouterr()
    say_kernels(kernels, as_json=False)

    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1] == [
        "residual_block",
        "BP009",
        "vector",
        "8",
        "stored",
        "9.0",
        "s",
        "300",
        "µs",
        "200",
        "µs",
        "1.50",
        "compiled",
    ]
    assert rows[2][:5] == ["squeeze_excitation", "BP016", "vector", "8", "given"]
    assert rows[2][-4:] == ["it", "took", "too", "long"]
    assert " ".join(rows[-1]) == "1 stored, 0 stored already, 1 given up"


def asked(*words, tier="safe", shapes=("8",), tmp_path=None):
    return CompileRequest(tmp_path, words, tier, tuple(shapes), "digits", "fast", as_json=False)


def test_without_names_it_is_the_tier_and_each_once_with_names():
    safe = [name for name, each in CATALOGUE.items() if each.tier == "safe" and not each.widens]
    assert [each.blueprint_id for each in asked().blueprints()] == safe
    assert [each.blueprint_id for each in asked("BP016", "BP009", "squeeze_excitation").blueprints()] == [
        "BP016",
        "BP009",
    ]
    assert asked(shapes=("8", "16x32", "8")).sites() == [SiteShape("vector", (8,)), SiteShape("token", (16, 32))]


def test_only_what_is_approved_is_asked_for(capsys):
    experimental = asked(tier="experimental").blueprints()
    approvals = {"BP039": Approval("ada", "spirals")}

    assert [each.blueprint_id for each in permitted(experimental, approvals, named=False)] == ["BP039"]
    assert capsys.readouterr().err.count("is left out: not approved") == 6
    with pytest.raises(InvalidInput, match=r"mixture_of_experts_4 \(BP036\) is experimental and not approved"):
        permitted(experimental, {}, named=False)
    with pytest.raises(InvalidInput, match="approve it first: esper blueprints approve BP036"):
        permitted([CATALOGUE["BP039"], CATALOGUE["BP036"]], approvals, named=True)


def test_a_tasks_sites_are_the_shapes_of_its_host():
    assert task_sites("spirals") == [SiteShape("vector", (4,))]
    assert {site.kind for site in task_sites("digits")} == {"image"}
