"""`esper why RUN SEED` of a seed that never germinated: the decisions that passed it over, and its evidence then.

Decisions in a row that say the same, but for their figures, are told as one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from esper.cli.output import BOLD, DIM, one_line, say, say_hanging, say_json_rows, styled
from esper.karn.table import with_names

if TYPE_CHECKING:
    from projections.history import History

_FIGURE: Final = re.compile(r"-?\d[\d.,]*(?:e[+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class PassedOver:
    """One decision that did not grow anything at a seed's place.

    `options` are what could grow there at all and `allowed` how many of them were legal; `best` of these has the
    largest score, `score`, where what was chosen had `chosen_score`. `pull` is |gradient| |activation| there as a share
    of the strongest site's, and `candidate` how far the first step of a fresh candidate would lower the loss.
    """

    epoch: int
    chosen: str
    reason: str
    options: int
    allowed: int
    best: str
    score: float | None
    chosen_score: float
    pull: float | None
    candidate: float | None

    @classmethod
    def of(cls, row: dict[str, Any], seed_id: str) -> PassedOver:
        """What a row of the query says of this seed."""
        scored = list(zip(row["actions"], row["action_mask"], row["logits"], strict=False))
        own = [each for each in scored if each[0].startswith(f"germinate {seed_id} ")]
        allowed = [each for each in own if each[1]]
        best = max(allowed or own, key=lambda each: each[2], default=None)
        pull, candidate = _evidence(row["evidence"] or (), seed_id)
        return cls(
            epoch=row["epoch"],
            chosen=row["chosen"],
            reason=row["reason"],
            options=len(own),
            allowed=len(allowed),
            best=best[0] if best is not None else "",
            score=best[2] if best is not None else None,
            chosen_score=next((logit for action, _, logit in scored if action == row["chosen"]), math.nan),
            pull=pull,
            candidate=candidate,
        )

    @property
    def alike(self) -> tuple[str, str, bool]:
        """What decisions have in common that are told as one."""
        return self.chosen, _FIGURE.sub("", self.reason), self.allowed > 0

    @property
    def standing(self) -> str:
        """What stood for and against this place, in words."""
        if not self.options:
            return "nothing could grow there then"
        if not self.allowed:
            return f"none of the {self.options} blueprints for it was allowed"
        parts = [f"{self.allowed} of {self.options} blueprints were allowed"]
        if self.pull is not None:
            parts.append(f"the loss pulled there {self.pull:.0%} as hard as where it pulled hardest")
        if self.candidate is not None:
            parts.append(f"the first step of a fresh candidate would have gained {self.candidate:.2g}")
        if self.score is not None and self.score > 0.0 and self.chosen != "nothing":
            parts.append(f"`{self.best}` scored {self.score:.2f} against {self.chosen_score:.2f}")
        return "; ".join(parts)


def _evidence(evidence: Iterable[dict[str, Any]], seed_id: str) -> tuple[float | None, float | None]:
    """How hard the loss pulled at a seed's place, of the strongest; and what a candidate would gain there."""
    pulls = {row["seed_id"]: row["gradient_norm"] * row["activation_norm"] for row in evidence}
    own = next((row for row in evidence if row["seed_id"] == seed_id), None)
    if own is None:
        return None, None
    strongest = max((pull for pull in pulls.values() if math.isfinite(pull)), default=0.0)
    return (pulls[seed_id] / strongest if strongest > 0.0 else None), own["candidate_descent"]


def passed_over(history: History, run_id: str, seed_id: str) -> list[PassedOver]:
    """Every surviving decision of a run, as it concerns a seed that never germinated."""
    from projections.chains import decisions_with_evidence  # noqa: PLC0415 - as in `why`

    return [PassedOver.of(row, seed_id) for row in decisions_with_evidence(history, run_id)]


def say_why_not(run_id: str, slot: dict[str, Any], decisions: Sequence[PassedOver], *, as_json: bool) -> None:
    """Print why a seed's place was passed over."""
    if as_json:
        say_json_rows(_to_json(slot, each) for each in decisions)
        return
    say(styled(one_line(f"seed {slot['seed_id']} of run {run_id} at {slot['site']} never germinated"), BOLD))
    if slot["opened_by"]:
        since = f"in epoch {slot['opened_epoch']}, when {slot['opened_by']} became part of the host"
        say(one_line(f"its place opened {since}"))
        decisions = [each for each in decisions if each.epoch > slot["opened_epoch"]]
    say(f"{len(decisions)} decisions passed it over" if decisions else "no decision was made meanwhile")
    say()
    for line in _lines(decisions):
        say_hanging(*line)


def _lines(decisions: Sequence[PassedOver]) -> Iterator[tuple[str, str]]:
    said = ""
    for _, same in groupby(decisions, key=lambda each: each.alike):
        group = list(same)
        first, last = group[0], group[-1]
        epochs = f"{first.epoch}" if first is last else f"{first.epoch} to {last.epoch}"
        prefix = styled(f"epoch {epochs:<9}", DIM) + "  "
        yield prefix, one_line(with_names(f"{last.chosen}: {last.reason}" if last.reason else last.chosen))
        if last.standing != said:
            said = last.standing
            yield " " * 17, styled(one_line(with_names(said)), DIM)


def _to_json(slot: dict[str, Any], each: PassedOver) -> dict[str, Any]:
    return {
        "seed_id": slot["seed_id"],
        "site": slot["site"],
        "opened_by": slot["opened_by"],
        "epoch": each.epoch,
        "chosen": each.chosen,
        "reason": each.reason,
        "options": each.options,
        "allowed": each.allowed,
        "best": each.best,
        "score": each.score,
        "chosen_score": each.chosen_score,
        "pull": each.pull,
        "candidate_descent": each.candidate,
    }
