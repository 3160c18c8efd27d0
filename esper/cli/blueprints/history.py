"""`esper blueprints history`: a blueprint's life from the log, from its registration to what became of its seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.cli.blueprints.catalogue import Row, known_of, shape_text
from esper.cli.blueprints.show import approval_text, microseconds
from esper.cli.output import BOLD, CYAN, DIM, GREEN, RED, YELLOW, say, say_hanging, say_json, styled
from esper.karn.blueprint import Blueprint
from esper.karn.table import find_by_name
from esper.leyline import envelope
from esper.leyline.envelope import Event, body_name
from esper.leyline.ids import text
from projections.blueprint_queries import approvals, in_runs, topic_events

if TYPE_CHECKING:
    from projections.history import History

NAME_WIDTH: Final = 22
Sites = dict[str, str]
"""What each job is for, by its id, as its request says."""
_STYLES: Final = {
    "approved": GREEN,
    "approval withdrawn": RED,
    "compile failed": RED,
    "compile given up": RED,
    "stored": GREEN,
    "attached": CYAN,
    "swapped": CYAN,
    "FOSSILIZED": GREEN,
    "CULLED": YELLOW,
}


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that happened: when, what, in one line, and its figures for programs."""

    at: datetime
    what: str
    line: str
    details: Row = field(default_factory=dict)

    def to_json(self) -> Row:
        """The same as JSON types."""
        return {"at": self.at, "what": self.what, "text": self.line, **self.details}


def history_command(data_dir: Path, word: str, *, as_json: bool) -> None:
    """Tell a blueprint's life in order."""
    blueprint = find_by_name(word)
    with known_of(data_dir) as history:
        moments = life_of(blueprint, history)
        approval = approvals(history).get(blueprint.blueprint_id)
    if as_json:
        say_json([moment.to_json() for moment in moments])
        return
    say(styled(f"{blueprint.blueprint_id} {blueprint.name}", BOLD))
    if blueprint.approval_required:
        say(f"approval {approval_text(blueprint, approval)}")
    say()
    for moment in moments:
        start = styled(f"{moment.at:%Y-%m-%d %H:%M:%S}", DIM)
        what = styled(moment.what, _STYLES[moment.what]) if moment.what in _STYLES else moment.what
        say_hanging(f"{start}  {what}{' ' * max(1, NAME_WIDTH - len(moment.what))}", moment.line)
    if not moments:
        say("nothing of it is in this data folder yet; `esper blueprints compile` or `esper run` begins its life")


def life_of(blueprint: Blueprint, history: History) -> list[Moment]:
    """Everything that happened to a blueprint, in order of time."""
    told = [*_on_the_topic(blueprint.blueprint_id, history), *_in_runs(blueprint.blueprint_id, history)]
    return sorted(told, key=lambda moment: moment.at)


def _on_the_topic(blueprint_id: str, history: History) -> Iterator[Moment]:
    """What its topic says of it; an event that was delivered twice counts once."""
    sites: dict[str, str] = {}
    for row in topic_events(history, blueprint_id, _MOMENTS):
        event = envelope.parse(row["log_raw"])
        what, line, details = _MOMENTS[body_name(event)](event, sites)
        yield Moment(row["at"], what, line, {"event_id": text(event.event_id), **details})


def _site(body: Any, sites: Sites) -> str:
    """The site that a job is for, where its request was seen."""
    return f"{sites[body.job_id]}: " if body.job_id in sites else ""


def _registered(event: Event, _sites: Sites) -> tuple[str, str, Row]:
    one = event.blueprint_registered.descriptor
    tier = leyline.BlueprintTier.Name(one.tier).removeprefix("BLUEPRINT_TIER_").lower().replace("_", "-")
    line = f"{tier}, stage {one.stage}, risk {one.risk:.1f}, serves {', '.join(event.blueprint_registered.shape_kinds)}"
    return "registered", line, {"tier": tier, "stage": one.stage, "risk": round(one.risk, 4)}


def _approved(event: Event, _sites: Sites) -> tuple[str, str, Row]:
    body = event.blueprint_approved
    what = "approved" if body.approved else "approval withdrawn"
    return what, f"by {body.by}: {body.why}", {"by": body.by, "why": body.why}


def _requested(event: Event, sites: Sites) -> tuple[str, str, Row]:
    body = event.compile_requested
    settings = ", ".join(f"{name} {value:g}" for name, value in sorted(body.parameters.items()))
    sites[body.job_id] = f"{body.shape_kind} {shape_text(body.shape)}{f', {settings}' if settings else ''}"
    line = f"{sites[body.job_id]}: {body.pipeline} pipeline"
    return "compile requested", f"{line}, by {event.producer}", {"job_id": body.job_id, "by": event.producer}


def _started(event: Event, sites: Sites) -> tuple[str, str, Row]:
    body = event.compile_started
    return "compile started", f"{_site(body, sites)}attempt {body.attempt}, {body.pipeline}", {"job_id": body.job_id}


def _failed(event: Event, sites: Sites) -> tuple[str, str, Row]:
    body = event.compile_failed
    again = "will be tried again" if body.will_retry else "for good"
    return (
        "compile failed",
        f"{_site(body, sites)}attempt {body.attempt}, {again}: {body.reason}",
        {"job_id": body.job_id},
    )


def _parked(event: Event, sites: Sites) -> tuple[str, str, Row]:
    body = event.compile_parked
    return "compile given up", f"{_site(body, sites)}{body.reason}", {"job_id": body.job_id, "reason": body.reason}


def _finished(event: Event, sites: Sites) -> tuple[str, str, Row]:
    body = event.compile_finished
    against = f" against {microseconds(body.compiled_us)} compiled" if body.compiled_us else ", not compiled"
    line = (
        f"{_site(body, sites)}attempt {body.attempt}, {body.form} serves, {microseconds(body.eager_us)} eager{against}"
    )
    figures = ("job_id", "artifact_ref", "form", "compile_ms", "eager_us", "compiled_us", "prewarm_p50_ms")
    return "compile finished", line, {name: getattr(body, name) for name in figures}


def _stored(event: Event, _sites: Sites) -> tuple[str, str, Row]:
    body = event.artifact_stored
    line = f"version {body.artifact_version}, {body.form}, {body.bytes:,} bytes, {body.artifact_ref[:19]}"
    return "stored", line, {"version": body.artifact_version, "artifact_ref": body.artifact_ref, "form": body.form}


def _sheet(event: Event, _sites: Sites) -> tuple[str, str, Row]:
    sheet = event.bsds_issued.bsds
    band = leyline.HazardBand.Name(sheet.hazard_band).removeprefix("HAZARD_BAND_").lower()
    return "risk sheet issued", f"{sheet.risk_score:.2f}, {band}", {"risk_score": sheet.risk_score, "hazard_band": band}


_MOMENTS: Final[dict[str, Callable[[Event, Sites], tuple[str, str, Row]]]] = {
    "blueprint_registered": _registered,
    "blueprint_approved": _approved,
    "compile_requested": _requested,
    "compile_started": _started,
    "compile_failed": _failed,
    "compile_parked": _parked,
    "compile_finished": _finished,
    "artifact_stored": _stored,
    "bsds_issued": _sheet,
}
"""By the name of the body; the catalogue's news of an artifact says nothing that `artifact_stored` does not."""


def _in_runs(blueprint_id: str, history: History) -> Iterator[Moment]:
    """Where it was attached, and what came of it there."""
    for row in in_runs(history, blueprint_id):
        where = f"run {row['run_id']}, seed {row['seed_id']}, epoch {row['epoch']}"
        yield Moment(row["at"], row["what"], f"{where}: {_told(row)}", {name: row[name] for name in _RUN_FIELDS})


_RUN_FIELDS: Final = ("run_id", "seed_id", "epoch", "artifact_ref")


def _told(row: dict[str, Any]) -> str:
    if row["what"] != "attached":
        return str(row["said"])
    if row["trouble"]:
        return f"the kernel could not be used, {row['trouble']}; the identity stands in its place"
    kernel = f"the kernel {row['artifact_ref'][:19]}" if row["artifact_ref"] else "built from the template"
    return f"{row['said']}, {kernel}, {row['parameters']:,} weights"
