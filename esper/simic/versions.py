"""The policies that were ever trained, folded from the log: there is no file of them. Free of torch.

A version is trained, passes the gates or does not, is offered (`PolicyUpdate`), promoted, and loaded by the processes
that decide. The live version is the last one promoted for all runs; going back is promoting an earlier one, which says
what it leaves. A staged version decides for a share of new runs: which ones follows from their ids, and after enough of
them the share of those that did well says whether it stays (ruling 34: by runs, not by hours).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from contracts.leyline.v1.event_pb2 import PolicyGate, PolicyPromoted
from esper.errors import InvalidInput
from esper.leyline.envelope import Event
from esper.tamiyo.staging import serves

POLICY: Final = "learned"
"""The id of the one policy that Simic trains, and of its versions' events."""
BODIES: Final = (
    "policy_trained",
    "policy_validated",
    "policy_rejected",
    "policy_update",
    "policy_promoted",
    "policy_loaded",
)
STAGED_RUNS: Final = 20
STAGED_SUCCESS: Final = 0.8
"""R-SIM-40 by runs: below this share of success among the first twenty a staged version goes back."""
_NUMBERS: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)")

State = Literal["trained", "passed", "rejected", "offered", "staged", "live", "retired"]
Change = Literal["architecture", "training", "adaptation"]


@dataclass(frozen=True, slots=True)
class Gate:
    """What one gate said of a version."""

    name: str
    passed: bool
    detail: str
    figures: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, body: PolicyGate) -> Gate:
        """From the event's own form."""
        return cls(body.name, body.passed, body.detail, dict(body.figures))


@dataclass(frozen=True, slots=True)
class Version:
    """One version and all that became of it.

    `loaded_by` are the processes that took it last; `refused_by` says why others did not. `reason` is why it was
    rejected, or promoted. `rollbacks` counts how often it was left for an earlier one.
    """

    version: str
    weights_ref: str
    state: State = "trained"
    trained_at_ns: int = 0
    trained_id: bytes = b""
    validated_id: bytes = b""
    experiences: int = 0
    training: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    reason: str = ""
    by: str = ""
    promoted_at_ns: int = 0
    promotions: int = 0
    rollbacks: int = 0
    loaded_by: tuple[str, ...] = ()
    refused_by: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Versions:
    """The fold: versions by name in the order of their training, the live one, the staged one and its share.

    `history` has the versions that were live, the last one last. `rollbacks` counts all of them.
    """

    by_name: Mapping[str, Version] = field(default_factory=dict)
    live: str = ""
    staged: str = ""
    share: float = 0.0
    history: tuple[str, ...] = ()
    rollbacks: int = 0
    seen: frozenset[bytes] = frozenset()

    def find(self, word: str) -> Version:
        """The version of this name, of these weights, or `live` or `staged`; InvalidInput where there is none."""
        name = {"live": self.live, "staged": self.staged}.get(word, word)
        found = self.by_name.get(name)
        if found is None:
            found = next((each for each in self.by_name.values() if each.weights_ref == word), None)
        if found is None:
            known = ", ".join(self.by_name) or "none yet: `esper learn` trains one"
            raise InvalidInput(f"there is no policy version {word!r}; there are {known}")
        return found

    def before(self) -> Version:
        """What a rollback without a name goes back to: the version that was live before; InvalidInput for none."""
        earlier = [name for name in self.history[:-1] if name != self.live]
        if not earlier:
            raise InvalidInput(f"no version was live before {self.live or 'any'}: there is nothing to go back to")
        return self.by_name[earlier[-1]]

    def serving(self, run_id: str) -> str:
        """The version that decides for a run that begins now: the staged one for its share, else the live one."""
        return self.staged if self.staged and serves(run_id, self.staged, self.share) else self.live

    def generation(self, version: str) -> int:
        """How many promotions came before a version's first; all of them for one that was never live."""
        return self.history.index(version) if version in self.history else len(self.history)


def fold(events: Iterable[Event]) -> Versions:
    """The versions after these events, in the order of the log."""
    versions = Versions()
    for event in events:
        versions = evolve(versions, event)
    return versions


def evolve(versions: Versions, event: Event) -> Versions:
    """The versions after one event more; a repetition and what is not about this policy change nothing."""
    name = event.WhichOneof("body")
    if name not in BODIES or event.event_id in versions.seen:
        return versions
    body = getattr(event, name)
    if body.policy_id != POLICY:
        return versions
    return replace(_EVOLVE[name](versions, event, body), seen=versions.seen | {event.event_id})


def _trained(versions: Versions, event: Event, body: Any) -> Versions:
    new = Version(
        version=body.policy_version,
        weights_ref=body.weights_ref,
        trained_at_ns=event.recorded_at_ns,
        trained_id=event.event_id,
        experiences=body.experiences,
        training=dict(body.metrics),
        provenance=dict(body.provenance),
    )
    if new.version in versions.by_name:
        return versions  # a name is given once; whatever else claims it is not that version
    return replace(versions, by_name={**versions.by_name, new.version: new})


def _validated(versions: Versions, event: Event, body: Any) -> Versions:
    return _change(
        versions,
        body.policy_version,
        body.weights_ref,
        state="passed" if body.passed else "rejected",
        validation=dict(body.metrics),
        gates=tuple(Gate.of(gate) for gate in body.gates),
        reason=body.reason,
        validated_id=event.event_id,
    )


def _rejected(versions: Versions, _event: Event, body: Any) -> Versions:
    old = versions.by_name.get(body.policy_version)
    if old is None:
        return versions
    if body.process:
        refused = {**old.refused_by, body.process: body.detail or body.reason}
        return _change(versions, old.version, body.weights_ref, refused_by=refused)
    return _change(versions, old.version, body.weights_ref, state="rejected", reason=body.detail or body.reason)


def _offered(versions: Versions, _event: Event, body: Any) -> Versions:
    return _change(versions, body.tamiyo_policy_version, body.payload_ref, state="offered")


def _promoted(versions: Versions, event: Event, body: PolicyPromoted) -> Versions:
    new = versions.by_name.get(body.policy_version)
    if new is None or new.weights_ref != body.weights_ref:
        return versions
    staged = 0.0 < body.share < 1.0
    changed = dict(versions.by_name)
    for name, each in changed.items():
        if each.state == "staged" or (each.state == "live" and not staged):
            changed[name] = replace(each, state="retired")
    left = changed.get(body.rolled_back_from)
    if left is not None:
        changed[left.version] = replace(left, rollbacks=left.rollbacks + 1, state="retired")
    changed[new.version] = replace(
        changed[new.version],
        state="staged" if staged else "live",
        by=body.by,
        reason=body.reason or new.reason,
        promoted_at_ns=event.recorded_at_ns,
        promotions=new.promotions + 1,
    )
    rollbacks = versions.rollbacks + bool(body.rolled_back_from)
    if staged:
        return replace(versions, by_name=changed, staged=new.version, share=body.share, rollbacks=rollbacks)
    live = new.version
    history = versions.history if versions.history[-1:] == (live,) else (*versions.history, live)
    return replace(versions, by_name=changed, live=live, staged="", share=0.0, history=history, rollbacks=rollbacks)


def _loaded(versions: Versions, _event: Event, body: Any) -> Versions:
    changed = {
        name: replace(each, loaded_by=tuple(one for one in each.loaded_by if one != body.process))
        for name, each in versions.by_name.items()
    }
    new = changed.get(body.policy_version)
    if new is not None:
        refused = {process: why for process, why in new.refused_by.items() if process != body.process}
        changed[new.version] = replace(new, loaded_by=(*new.loaded_by, body.process), refused_by=refused)
    return replace(versions, by_name=changed)


_EVOLVE: Final = {
    "policy_trained": _trained,
    "policy_validated": _validated,
    "policy_rejected": _rejected,
    "policy_update": _offered,
    "policy_promoted": _promoted,
    "policy_loaded": _loaded,
}


def _change(versions: Versions, name: str, weights_ref: str, **fields: Any) -> Versions:
    """One version with other fields; nothing where there is no such version, or it has other weights."""
    old = versions.by_name.get(name)
    if old is None or (weights_ref and weights_ref != old.weights_ref):
        return versions
    return replace(versions, by_name={**versions.by_name, name: replace(old, **fields)})


def next_version(versions: Versions, change: Change) -> str:
    """The name of a version that comes after all there are: semantic, by what changed.

    Another architecture raises the first number, another training the second, an adaptation to a task the third.
    """
    numbers = [tuple(map(int, found.groups())) for name in versions.by_name if (found := _NUMBERS.fullmatch(name))]
    first, second, third = max(numbers, default=(0, 0, 0))
    if not numbers:
        return "1.0.0"
    match change:
        case "architecture":
            return f"{first + 1}.0.0"
        case "training":
            return f"{first}.{second + 1}.0"
        case "adaptation":
            return f"{first}.{second}.{third + 1}"


def staged_verdict(successes: int, runs: int) -> Literal["waits", "stays", "goes back"]:
    """What becomes of a staged version after so many of its runs have ended, of which so many did well."""
    if runs < STAGED_RUNS:
        return "waits"
    return "stays" if successes / runs >= STAGED_SUCCESS else "goes back"
