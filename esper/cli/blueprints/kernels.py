"""The kernels that one command asked for: how far each is, and the table of what they cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from contracts.leyline.v1.event_pb2 import CompileRequested
from esper.cli.blueprints.shapes import shape_text
from esper.cli.blueprints.show import microseconds
from esper.cli.output import DIM, GREEN, RED, say, say_json, styled, table
from esper.karn.table import CATALOGUE
from esper.tezzeret.pipelines import pipeline

if TYPE_CHECKING:
    from esper.cli.blueprints.conversation import Conversation

Outcome = Literal["waiting", "compiling", "stored", "skipped", "parked"]

HEADERS: Final = ("id", "name", "site", "outcome", "compiling", "eager", "compiled", "speed-up", "serves")
_STYLES: Final = {"stored": GREEN, "skipped": DIM, "parked": RED}
_WORDS: Final = {"skipped": "stored already", "parked": "given up"}


@dataclass(slots=True)
class Kernel:
    """One kernel on its way. `skipped` means that it was stored before anybody asked.

    `attempts_made` is how often it was tried in vain before it was given up, which a new request must name.
    """

    request: CompileRequested
    outcome: Outcome = "waiting"
    attempts_made: int = 0
    attempt: int = 0
    pipeline: str = ""
    reason: str = ""
    since_s: float = 0.0
    finished: Any = None

    @classmethod
    def of(cls, body: CompileRequested, talk: Conversation) -> Self:
        """The kernel that `body` asks for, as the topic has it before that."""
        kernel = cls(body)
        job = talk.job(body.job_id)
        if job is not None and job.stage == "catalogued":
            kernel.outcome, kernel.finished = "skipped", talk.last(body.job_id, "compile_finished")
        elif job is not None and job.stage == "parked":
            kernel.attempts_made = job.attempt
        return kernel

    @property
    def name(self) -> str:
        """For people: the blueprint and its site."""
        blueprint_id = self.request.blueprint_id
        return f"{blueprint_id} {CATALOGUE[blueprint_id].name} {shape_text(self.request.shape)}"

    @property
    def settled(self) -> bool:
        """Whether nothing more will come."""
        return self.outcome in ("stored", "skipped", "parked")

    @property
    def limit_s(self) -> float:
        """How long the attempt that goes on may take."""
        return pipeline(self.pipeline).timeout_s if self.pipeline else 0.0

    def follow(self, talk: Conversation) -> None:
        """Take in how far the topic has its job."""
        job = talk.job(self.request.job_id)
        if self.settled or job is None or (job.stage == "parked" and job.attempt == self.attempts_made):
            return
        self.reason = job.reason
        if job.stage == "parked":
            self.outcome = "parked"
        elif job.stage == "catalogued":
            self.outcome, self.finished = "stored", talk.last(self.request.job_id, "compile_finished")
        elif job.stage == "started" and job.attempt != self.attempt:
            started = talk.last(self.request.job_id, "compile_started")
            self.outcome, self.attempt, self.pipeline = "compiling", job.attempt, started.pipeline
            self.since_s = time.monotonic()

    def to_json(self) -> dict[str, Any]:
        """Everything that is known in the end."""
        told = self.finished
        return {
            "blueprint_id": self.request.blueprint_id,
            "shape_kind": self.request.shape_kind,
            "shape": list(self.request.shape),
            "parameters": dict(self.request.parameters),
            "pipeline": self.request.pipeline,
            "job_id": self.request.job_id,
            "outcome": self.outcome,
            "reason": self.reason if self.outcome == "parked" else "",
            "form": told.form if told is not None else None,
            "compile_ms": round(told.compile_ms, 3) if told is not None and told.compile_ms else None,
            "eager_us": round(told.eager_us, 3) if told is not None else None,
            "compiled_us": round(told.compiled_us, 3) if told is not None and told.compiled_us else None,
            "artifact_ref": told.artifact_ref if told is not None else None,
        }

    def row(self) -> tuple[Any, ...]:
        """The same for a table."""
        blueprint_id, told = self.request.blueprint_id, self.finished
        start = (
            blueprint_id,
            CATALOGUE[blueprint_id].name,
            f"{self.request.shape_kind} {shape_text(self.request.shape)}",
            styled(_WORDS.get(self.outcome, self.outcome), *([_STYLES[self.outcome]] if self.settled else [])),
        )
        if told is None:
            return (*start, "-", "-", "-", "-", self.reason or "-")
        compiled = bool(told.compiled_us)
        return (
            *start,
            f"{told.compile_ms / 1e3:.1f} s" if compiled else "-",
            microseconds(told.eager_us),
            microseconds(told.compiled_us),
            f"{told.eager_us / told.compiled_us:.2f}" if compiled else "-",
            told.form if compiled else f"{told.form} (not compiled)",
        )


def say_kernels(kernels: Sequence[Kernel], *, as_json: bool) -> None:
    """The table, or one JSON object, of what was asked for."""
    counts = {name: sum(kernel.outcome == name for kernel in kernels) for name in ("stored", "skipped", "parked")}
    if as_json:
        say_json({**counts, "kernels": [kernel.to_json() for kernel in kernels]})
        return
    say(table(HEADERS, [kernel.row() for kernel in kernels], right=(4, 5, 6, 7)))
    say(styled("\nprocessor time of a training pass (forward and backward) at batch 64; the faster form serves", DIM))
    say(f"{counts['stored']} stored, {counts['skipped']} stored already, {counts['parked']} given up")
