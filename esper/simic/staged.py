"""What becomes of a version that decides for a share of new runs: from the field reports on its decisions. R-SIM-40.

A run did well where at least as many of its reports tell of a success as of a regression or of something undone. It
counts once its last report says that it ended, so a run that was left off counts for nothing. Ruling 34: by runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from contracts.leyline.v1.leyline_pb2 import (
    FIELD_REPORT_OUTCOME_ABORTED,
    FIELD_REPORT_OUTCOME_REGRESSION,
    FIELD_REPORT_OUTCOME_SUCCESS,
)
from esper.errors import InvalidInput
from esper.leyline.envelope import Event
from esper.simic.publication import PRODUCER, promotion, rollback
from esper.simic.versions import STAGED_RUNS, STAGED_SUCCESS, Versions, staged_verdict
from esper.tamiyo.staging import serves

ENDED: Final = "run_ended"
_BAD: Final = (FIELD_REPORT_OUTCOME_REGRESSION, FIELD_REPORT_OUTCOME_ABORTED)


@dataclass(slots=True)
class _Run:
    good: int = 0
    bad: int = 0
    ended: bool = False


class Stage:
    """The runs of one staged version since it was staged, folded from their reports, each counted once."""

    def __init__(self, version: str, share: float, since_ns: int) -> None:
        """`since_ns` is when it was staged: what it decided before, as the live version it once was, says nothing."""
        self.version = version
        self.share = share
        self.since_ns = since_ns
        self._runs: dict[str, _Run] = {}
        self._seen: set[bytes] = set()

    @classmethod
    def of(cls, versions: Versions) -> Stage | None:
        """Of the version that is staged now; None where none is."""
        if not versions.staged:
            return None
        return cls(versions.staged, versions.share, versions.by_name[versions.staged].promoted_at_ns)

    def take(self, event: Event) -> None:
        """Count a FieldReport on a decision of this version; a repetition and everything else change nothing."""
        if event.WhichOneof("body") != "field_report" or event.event_id in self._seen:
            return
        report = event.field_report
        run_id = report.training_run_id
        if (
            report.tamiyo_policy_version != self.version
            or event.recorded_at_ns < self.since_ns
            or not serves(run_id, self.version, self.share)
        ):
            return
        self._seen.add(event.event_id)
        run = self._runs.setdefault(run_id, _Run())
        run.good += report.outcome == FIELD_REPORT_OUTCOME_SUCCESS
        run.bad += report.outcome in _BAD
        run.ended |= report.notes == ENDED

    @property
    def runs(self) -> int:
        """How many of its runs have ended."""
        return sum(run.ended for run in self._runs.values())

    @property
    def successes(self) -> int:
        """How many of those did well."""
        return sum(run.ended and run.good >= run.bad for run in self._runs.values())

    @property
    def verdict(self) -> Literal["waits", "stays", "goes back"]:
        """Of the runs that have ended by now."""
        return staged_verdict(self.successes, self.runs)

    def __str__(self) -> str:
        asked = f"{STAGED_SUCCESS:.0%} of at least {STAGED_RUNS} are asked"
        return f"{self.successes} of {self.runs} staged runs that ended did well; {asked}"


def decided(stage: Stage, policies: Iterable[Event], versions: Versions, now_ns: int) -> Event | None:
    """The event by which the staged version goes back, or decides for all runs from now on; None while it waits.

    `policies` is what the log says of policies, and `versions` its fold: nothing is decided of a version that somebody
    else has promoted, or left, meanwhile. None as well where there is nothing to go back to.
    """
    if stage.verdict == "waits" or Stage.of(versions) is None or versions.staged != stage.version:
        return None
    if versions.by_name[stage.version].promoted_at_ns != stage.since_ns:
        return None
    stays = stage.verdict == "stays"
    target = versions.by_name.get(stage.version if stays else versions.live)
    if target is None:
        return None
    said = {
        body.weights_ref: body.architecture
        for event in policies
        if event.WhichOneof("body") == "policy_promoted"
        for body in (event.policy_promoted,)
    }
    architecture = said.get(target.weights_ref, "")
    try:
        if stays:
            made = promotion(versions, target, by=PRODUCER, reason=str(stage), architecture=architecture, now_ns=now_ns)
        else:
            made = rollback(versions, None, by=PRODUCER, reason=str(stage), architecture=architecture, now_ns=now_ns)
    except InvalidInput:
        return None  # it was never live, or its gates were never asked: only by hand can such a thing be on the log
    return made
