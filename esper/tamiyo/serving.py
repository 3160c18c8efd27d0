"""Which learned policy answers: the newest promoted one that was already in force, else the one shipped with Esper.

A promotion is in force `IN_FORCE_NS` after it was recorded, for packets recorded since then. So which policy answers a
packet follows from what is on the log, not from when a process came to read it: a packet that is answered again after a
restart is answered by the same policy, and a swap never falls into the middle of a decision. Nothing is unpickled, and
whatever is wrong with a promotion leaves what serves as it is (R-TAM-53 to 56). Torch is imported when the first policy
is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from dataclasses import dataclass
from importlib import resources
from typing import Final

from contracts.leyline.v1.event_pb2 import (
    BlueprintOption,
    EpochCompleted,
    PolicyLoaded,
    PolicyPromoted,
    PolicyRejected,
    SeedObservation,
    SiteDescription,
    SiteEvidence,
)
from contracts.leyline.v1.leyline_pb2 import SystemStatePacket
from esper.errors import EsperError, InvalidInput
from esper.kasmina.lifecycle import DORMANT
from esper.leyline.envelope import Event
from esper.leyline.objects import ObjectStore
from esper.tamiyo import policies
from esper.tamiyo.actions import legal_actions
from esper.tamiyo.policy import Policy
from esper.tamiyo.staging import serves

LEARNED: Final = "learned"
IN_FORCE_NS: Final = 2_000_000_000
"""From a promotion to the first packet that it answers: a decider has read and loaded it by then."""
KEPT: Final = 4
"""So many promoted policies are held at once; a packet older than all of them is answered by the oldest."""
SHIPPED: Final = "learned.safetensors"
HOW_TO_GET_ONE: Final = (
    "no learned policy is promoted here and none is shipped with this Esper; train one with `esper learn` and promote "
    "it with `esper policy promote`, or choose --policy heuristic"
)
SMALL: Final = EpochCompleted(
    state=SystemStatePacket(version=1, current_epoch=1, validation_loss=1.0, training_loss=1.0),
    seeds=[SeedObservation(seed_id="s1", stage=DORMANT)],
    evidence=[SiteEvidence(seed_id="s1", gradient_norm=1.0, activation_norm=1.0, activation_rank=2.0, descent=1.0)],
    sites=[
        SiteDescription(
            site="body",
            seed_id="s1",
            shape_kind="vector",
            shape=[8],
            options=[BlueprintOption(blueprint_id="BP009", parameters=64, flops_per_sample=128, residual=True)],
        )
    ],
    probe_loss_history=[1.0],
    epochs_total=10,
    params=1_000,
    params_host=1_000,
    params_budget=1_000,
)
"""A packet to try a policy with before it serves."""


@dataclass(frozen=True, slots=True)
class _Served:
    since_ns: int
    ref: str
    policy: Policy
    share: float

    def serves(self, run_id: str) -> bool:
        return serves(run_id, self.policy.version, self.share)


class Serving:
    """The learned policies of a process. Thread-safe: one thread may load while another decides."""

    def __init__(self, objects: ObjectStore | None = None, *, process: str = "", freshness_s: float = 0.0) -> None:
        """`freshness_s` refuses promotions of weights that were older when it was recorded, 0 none (R-TAM-55)."""
        self._objects = objects
        self._process = process
        self._freshness_s = freshness_s
        self._lock = threading.Lock()
        self._served: list[_Served] = []
        self._shipped: Policy | None = None

    def find(self, name: str, at_ns: int, run_id: str = "") -> Policy:
        """The policy of that name for a run's packet recorded at `at_ns`; raises InvalidInput where there is none.

        One that is promoted for a share of the runs is passed over for the others (R-SIM-40).
        """
        if name != LEARNED:
            return policies.find(name)
        with self._lock:
            served = list(self._served)
        in_force = [each for each in served if each.since_ns <= at_ns and each.serves(run_id)]
        if not in_force and (len(served) == KEPT or (served and shipped() is None)):
            in_force = [each for each in served if each.serves(run_id)][:1]
        return in_force[-1].policy if in_force else self._from_package()

    def prepare(self, at_ns: int, run_id: str) -> None:
        """Have the learned policy of a run that begins ready for its first packet: torch's import takes seconds."""
        with contextlib.suppress(EsperError):  # its first packet says what is wrong
            self.find(LEARNED, at_ns, run_id).advise(SMALL, *legal_actions(SMALL))

    def promote(self, event: Event) -> PolicyLoaded | PolicyRejected:
        """Load what a PolicyPromoted event names; the body to publish says whether it serves, or why not.

        Reasons: stale_update, invalid_payload, version_mismatch, registry_mismatch, shape_mismatch,
        incompatible_update, swap_failed. The same event again is loaded once.
        """
        promoted = event.policy_promoted
        try:
            policy = self._load(promoted, event.recorded_at_ns)
        except EsperError as error:
            reason, detail = getattr(error, "reason", "invalid_payload"), getattr(error, "detail", str(error))
            return self._refuse(promoted, reason, detail)
        except Exception as error:  # noqa: BLE001 - whatever torch finds wrong with it, the live one goes on
            return self._refuse(promoted, "swap_failed", f"{type(error).__name__}: {error}")
        with self._lock:
            before = self._served[-1].ref if self._served else ""
            new = _Served(event.recorded_at_ns + IN_FORCE_NS, promoted.weights_ref, policy, promoted.share)
            others = [each for each in self._served if each != new and each.since_ns != new.since_ns]
            self._served = sorted([*others, new], key=lambda each: each.since_ns)[-KEPT:]
        return PolicyLoaded(
            policy_id=promoted.policy_id,
            policy_version=promoted.policy_version,
            process=self._process,
            weights_ref=promoted.weights_ref,
            previous_ref=before,
        )

    def _load(self, promoted: PolicyPromoted, recorded_at_ns: int) -> Policy:
        age_s = (recorded_at_ns - promoted.issued_at_ns) / 1e9
        if 0.0 < self._freshness_s < age_s:
            raise _Mismatch("stale_update", f"issued {age_s:.0f} s before it came; {self._freshness_s:g} s are allowed")
        policy = load(promoted.weights_ref, self._objects)
        if policy.version != promoted.policy_version:
            said = f"promoted as {promoted.policy_version}, the weights say {policy.version}"
            raise _Mismatch("version_mismatch", said)
        policy.advise(SMALL, *legal_actions(SMALL))  # a decision that is wrong, or slow for being the first, is here
        return policy

    def _refuse(self, promoted: PolicyPromoted, reason: str, detail: str) -> PolicyRejected:
        return PolicyRejected(
            policy_id=promoted.policy_id,
            policy_version=promoted.policy_version,
            weights_ref=promoted.weights_ref,
            process=self._process,
            reason=reason,
            detail=detail,
        )

    def _from_package(self) -> Policy:
        if self._shipped is None:
            content = shipped()
            if content is None:
                raise InvalidInput(HOW_TO_GET_ONE)
            from esper.tamiyo.policies import learned  # noqa: PLC0415 - imports torch

            self._shipped = learned.policy(content)
        return self._shipped


class _Mismatch(InvalidInput):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def shipped() -> bytes | None:
    """The weights that come with this Esper; None where none do."""
    found = resources.files("esper.tamiyo.policies").joinpath(SHIPPED)
    return found.read_bytes() if found.is_file() else None


def load(ref: str, objects: ObjectStore | None) -> Policy:
    """The policy whose weights are the object `ref`, content checked. Raises InvalidInput or CorruptState."""
    from esper.tamiyo.policies import learned  # noqa: PLC0415 - imports torch

    return learned.policy(ref, objects)


def recorded(name: str, digest: bytes, ref: str, objects: ObjectStore) -> Policy | None:
    """The policy that made a recorded decision: a built-in one, the shipped one, or of the weights at `ref`.

    None where it is another one now. Raises InvalidInput or CorruptState where the weights are not there as they were.
    """
    if name != LEARNED:
        return policies.of_digest(name, digest)
    content = shipped()
    if content is not None and ref == reference(content):
        from esper.tamiyo.policies import learned  # noqa: PLC0415 - imports torch

        policy = learned.policy(content)
    else:
        policy = load(ref, objects)
    return policy if policy.digest == digest else None


def reference(content: bytes) -> str:
    """Where an object of these bytes is."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
