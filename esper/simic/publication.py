"""Simic's events: a policy was trained, judged, offered, promoted. Free of torch; signed by whoever publishes.

Ids of what follows from an event are derived from it, so a publication that is repeated gives the same events. The
weights lie in the object store under their SHA-256 before any event names them, and nothing of them is ever unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from contracts.leyline.v1.event_pb2 import (
    PolicyGate,
    PolicyPromoted,
    PolicyRejected,
    PolicyTrained,
    PolicyValidated,
)
from contracts.leyline.v1.leyline_pb2 import MESSAGE_PRIORITY_HIGH, PolicyUpdate
from esper.errors import InvalidInput
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.leyline.objects import ObjectStore
from esper.simic.versions import POLICY, Version, Versions

if TYPE_CHECKING:
    from esper.simic.gates import Verdict

PRODUCER: Final = "simic"


class NotValidated(InvalidInput):
    """A policy that has not passed its gates is not published (R-SIM-28)."""


def trained(
    weights: bytes,
    version: str,
    objects: ObjectStore,
    *,
    experiences: int,
    metrics: Mapping[str, float],
    provenance: Mapping[str, str],
    now_ns: int,
) -> Event:
    """The weights are in the store when this returns; the event's id follows from them and their version."""
    ref = objects.put(weights)
    cause = hashlib.sha256(f"{version}/{ref}".encode()).digest()[:16]
    body = PolicyTrained(
        policy_id=POLICY,
        policy_version=version,
        weights_ref=ref,
        experiences=experiences,
        metrics=dict(metrics),
        provenance=dict(provenance),
    )
    return new_event(
        body, event_id=ids.derived_id(cause, "simic.trained"), run_id="", producer=PRODUCER, recorded_at_ns=now_ns
    )


def judged(training: Event, verdict: Verdict, *, against_ref: str, now_ns: int) -> list[Event]:
    """What the gates said: `PolicyValidated`, and `PolicyRejected` after it where one did not pass."""
    body = training.policy_trained
    validated = PolicyValidated(
        policy_id=POLICY,
        passed=verdict.passed,
        metrics={**verdict.figures, "simic.validation.pass": float(verdict.passed)},
        reason=verdict.reason,
        policy_version=body.policy_version,
        weights_ref=body.weights_ref,
        gates=[
            PolicyGate(name=gate.name, passed=gate.passed, detail=gate.detail, figures=dict(gate.figures))
            for gate in verdict.gates
        ],
        against_ref=against_ref,
    )
    events = [_follows(training, validated, "simic.validated", now_ns)]
    if not verdict.passed:
        rejected = PolicyRejected(
            policy_id=POLICY,
            reason=verdict.failed[0],
            detail=verdict.reason,
            weights_ref=body.weights_ref,
            policy_version=body.policy_version,
        )
        events.append(_follows(events[0], rejected, "simic.rejected", now_ns))
    return events


def offered(training: Event, validation: Event, metadata: Mapping[str, object], *, now_ns: int) -> Event:
    """The update: where the weights are, their version, the registries they need, when it was issued (R-SIM-37).

    `metadata` is what the weights say of themselves. Raises NotValidated where the gates have not passed these weights.
    """
    _check_passed(training, validation)
    body = training.policy_trained
    registries = metadata.get("registries")
    assert isinstance(registries, Mapping)
    update = PolicyUpdate(
        version=1,
        policy_id=POLICY,
        training_run_id=ids.text(training.event_id),
        tamiyo_policy_version=body.policy_version,
        payload_ref=body.weights_ref,
        registry_digests={str(name): str(digest) for name, digest in registries.items()},
        architecture=str(metadata["architecture"]),
    )
    update.issued_at.FromNanoseconds(now_ns)
    return _follows(validation, update, "simic.update", now_ns)


def _check_passed(training: Event, validation: Event) -> None:
    body, said = training.policy_trained, validation.policy_validated
    if not (said.passed and said.weights_ref == body.weights_ref and said.policy_version == body.policy_version):
        raise NotValidated(
            f"policy {body.policy_version} has not passed its gates: {said.reason or 'they were not asked'}; "
            "`esper policy show` says what each of them found"
        )


def promotion(
    versions: Versions, new: Version, *, by: str, reason: str, share: float = 0.0, architecture: str, now_ns: int
) -> Event:
    """From now on `new` decides: for all runs, or for a share of new ones.

    Its id follows from what it replaces, so two who promote the same at once say the same once. Raises NotValidated
    where its gates have not passed it, InvalidInput where it is live already or the share is no share.
    """
    if new.state not in {"passed", "offered", "staged", "retired", "live"} or not new.validated_id:
        why = new.reason or "its gates were not asked"
        raise NotValidated(f"policy {new.version} has not passed its gates: {why}")
    if new.state == "live" and versions.live == new.version:
        raise InvalidInput(f"policy {new.version} is live already")
    if not 0.0 <= share < 1.0:
        raise InvalidInput(f"a share of runs is from 0 (all) to below 1, not {share:g}")
    return _promoted(versions, new, by, reason, now_ns, share=share, architecture=architecture)


def rollback(versions: Versions, to: Version | None, *, by: str, reason: str, architecture: str, now_ns: int) -> Event:
    """Go back to a version that was live, the one before where none is named; counted on the version that is left.

    A staged version is left for the live one. Raises InvalidInput where there is none, or it was never live.
    """
    left = versions.staged or versions.live
    if not left:
        raise InvalidInput("no policy is live: there is nothing to go back from")
    target = to or (versions.by_name[versions.live] if versions.staged and versions.live else versions.before())
    if target.version == left or target.version not in versions.history:
        raise InvalidInput(
            f"policy {target.version} {'serves now' if target.version == left else 'was never live'}; "
            f"one can go back to {', '.join(dict.fromkeys(versions.history)) or 'none'}"
        )
    return _promoted(versions, target, by, reason, now_ns, left=left, architecture=architecture)


def _promoted(
    versions: Versions,
    new: Version,
    by: str,
    reason: str,
    now_ns: int,
    *,
    share: float = 0.0,
    left: str = "",
    architecture: str,
) -> Event:
    live = versions.by_name.get(versions.live)
    body = PolicyPromoted(
        policy_id=POLICY,
        policy_version=new.version,
        by=by,
        weights_ref=new.weights_ref,
        architecture=architecture,
        issued_at_ns=now_ns,
        previous_ref=live.weights_ref if live is not None else "",
        share=share,
        rolled_back_from=left,
        reason=reason,
    )
    cause = new.validated_id or new.trained_id
    place = len(versions.history) + versions.rollbacks
    event = new_event(
        body,
        event_id=ids.derived_id(cause, f"simic.promoted/{share:g}/{left}", place),
        run_id="",
        producer=PRODUCER,
        recorded_at_ns=now_ns,
        causation_id=cause,
        correlation_id=new.trained_id,
    )
    event.priority = MESSAGE_PRIORITY_HIGH
    return event


def _follows(cause: Event, body: PolicyValidated | PolicyRejected | PolicyUpdate, handler: str, now_ns: int) -> Event:
    return new_event(
        body,
        event_id=ids.derived_id(cause.event_id, handler),
        run_id="",
        producer=PRODUCER,
        recorded_at_ns=now_ns,
        causation_id=cause.event_id,
        correlation_id=cause.correlation_id or cause.event_id,
    )
