"""How a seed moves through its stages by itself: dwell, ramp, gates, patience, embargo. Commands are not part of this.

Each method returns the facts of what it did, in the order in which it happened. Ruling 9 says what is measured when.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from google.protobuf.message import Message
from torch import Tensor, nn
from torch.func import functional_call

from contracts.leyline.v1.event_pb2 import GateEvaluated
from contracts.leyline.v1.leyline_pb2 import TELEMETRY_LEVEL_CRITICAL, TELEMETRY_LEVEL_ERROR
from esper.kasmina import gates, lifecycle
from esper.kasmina.gates import Blended, DryRun, Impact, Learning, Proof, Verdicts, difference
from esper.kasmina.graft import Grafts, borrowed
from esper.kasmina.isolation import MIB, kept_bytes
from esper.kasmina.moves import Moves
from esper.kasmina.passes import Probing
from esper.kasmina.seed import Slot, ramp
from esper.kasmina.sites import Stream, device_of, drawing_from, evaluating
from esper.kasmina.telemetry import MEMORY_DENIED

_HURRY: Final = {
    lifecycle.TRAINING: lifecycle.BLENDING,
    lifecycle.BLENDING: lifecycle.SHADOWING,
    lifecycle.SHADOWING: lifecycle.PROBATIONARY,
}
"""Where `swift` goes on to at once."""
REPETITIONS: Final = 5
"""Of a dry run. Of four threads that race two repetitions may come out alike, five hardly."""


class Progress:
    """The mechanical part of a seed's life."""

    def __init__(
        self, grafts: Grafts, moves: Moves, slots: Mapping[str, Slot], steps_per_epoch: int, verdicts: Verdicts
    ) -> None:
        self._host = grafts.host
        self._settings = grafts.settings
        self._isolation = grafts.isolation
        self._outbox = grafts.outbox
        self._moves = moves
        self._slots = slots
        self._verdicts = verdicts
        self.set_steps_per_epoch(steps_per_epoch)

    def set_steps_per_epoch(self, steps: int) -> None:
        """Ramps are as many steps long as their epochs have."""
        self._ramp_steps = self._settings.blend_epochs * steps

    def step(self, slot: Slot) -> list[Message]:
        """One optimiser step has passed."""
        slot.stage_steps += 1
        if facts := self._limit_memory(slot):
            return facts
        if slot.held:
            return []
        if slot.stage == lifecycle.BLENDING:
            seed = slot.occupant()
            seed.ramp_step += 1
            slot.set_alpha(ramp(seed.ramp_step, self._ramp_steps, self._settings.alpha_temperature))
            return self._hurry(slot)
        if slot.stage == lifecycle.GERMINATED and (
            slot.hurried or slot.stage_steps >= self._settings.germination_steps
        ):
            verdict = self._verdicts.verdict(gates.g0_sanity(slot.subject, self._dry_run(slot)))
            return [*self._pass_or_cull(slot, verdict, lifecycle.TRAINING), *self._hurry(slot)]
        return []

    def hurry(self, slot: Slot) -> None:
        """Count the stage's dwell as over, its ramp included; of a seed that is held only the hold ends."""
        if slot.held:
            slot.held = False
            return
        slot.hurried = True
        if slot.stage == lifecycle.BLENDING:
            slot.occupant().ramp_step = self._ramp_steps

    def _hurry(self, slot: Slot) -> list[Message]:
        """`swift`: leave the stages without dwell, TRAINING and SHADOWING, and BLENDING when its ramp is finished.

        Their gates ask how a seed did in a dwell that there was none of; G4, the proof, is judged in any case.
        """
        facts: list[Message] = []
        while self._settings.swift and (target := _HURRY.get(slot.stage)) is not None:
            if slot.stage == lifecycle.BLENDING and slot.occupant().ramp_step < self._ramp_steps:
                break
            facts.append(self._moves.move(slot, target, "swift: inserted, to be proven"))
        return facts

    def _limit_memory(self, slot: Slot) -> list[Message]:
        """Cull a seed that keeps more memory than it may: a fossil can no longer be culled."""
        if slot.seed is None or not lifecycle.is_legal(slot.stage, lifecycle.CULLED):
            return []
        kept = kept_bytes(slot.seed.module) / MIB
        limit = self._settings.max_kept_mib
        if kept <= limit:
            return []
        reason = f"memory limit: {slot.seed.blueprint_id} keeps {kept:g} MiB beside its parameters, not <= {limit:g}"
        self._outbox.tell(slot.seed_id, MEMORY_DENIED, TELEMETRY_LEVEL_CRITICAL, reason=reason)
        self._outbox.quarantined(slot.seed_id, reason)
        return self._moves.cull(slot, reason)

    def isolate(self) -> list[Message]:
        """Cull the seeds whose isolation breaker has opened."""
        facts: list[Message] = []
        found = self._isolation.drain_opened()
        opened = self._verdicts.opened(found)
        if not found and not opened:
            return facts
        self._isolation.settle(found, opened)
        for seed_id, change in opened.items():
            slot = self._slots[seed_id]
            facts.append(change)
            self._outbox.tell(seed_id, "isolation_breaker", TELEMETRY_LEVEL_CRITICAL, reason=change.reason)
            self._outbox.quarantined(seed_id, change.reason)
            if lifecycle.is_legal(slot.stage, lifecycle.CULLED):
                facts += self._moves.cull(slot, f"isolation breaker: {change.reason}")
        return facts

    def end_epoch(self, slot: Slot, probing: Probing) -> list[Message]:
        """One more epoch in this stage is over."""
        if slot.seed is not None and slot.seed.before is None:
            slot.seed.before = probing.as_is()  # germinated before anything had been probed
        if slot.held:
            if slot.stage in (lifecycle.SHADOWING, lifecycle.PROBATIONARY) and not self._settings.swift:
                self._measure(slot, probing)  # a policy sees what it contributes all the same
            return []
        slot.stage_epochs += 1
        leave = {
            lifecycle.TRAINING: self._leave_training,
            lifecycle.BLENDING: self._leave_blending,
            lifecycle.SHADOWING: self._leave_shadowing,
            lifecycle.PROBATIONARY: self._await_proof if self._settings.swift else self._watch_probation,
            lifecycle.EMBARGOED: self._leave_embargo,
            lifecycle.RESETTING: self._leave_resetting,
        }.get(slot.stage)
        facts = [] if leave is None else leave(slot, probing)
        if facts:
            probing.changed()
        return facts

    def gate_ready(self, slot: Slot) -> bool:
        """Whether the stage's dwell is over, so that its exit gate is judged at the next occasion."""
        settings = self._settings
        if settings.swift and slot.stage == lifecycle.PROBATIONARY:
            return False  # it is proven at an epoch's end, or gone: no command is waited for
        epochs = {
            lifecycle.TRAINING: settings.training_epochs,
            lifecycle.BLENDING: settings.blend_epochs,
            lifecycle.SHADOWING: settings.shadow_epochs,
            lifecycle.PROBATIONARY: settings.probation_epochs,
            lifecycle.RESETTING: settings.reset_epochs,
        }.get(slot.stage)
        if slot.held:
            return False
        if slot.hurried and slot.stage_steps > 0:
            return True
        if epochs is None or slot.stage_epochs < epochs or slot.stage_steps < 1:
            return False
        return slot.stage != lifecycle.BLENDING or slot.occupant().ramp_step >= self._ramp_steps

    def epochs_until_free(self, slot: Slot) -> int:
        """Epoch ends until a culled slot is DORMANT again; 0 for every other."""
        settings = self._settings
        if slot.stage == lifecycle.EMBARGOED:
            return max(1, settings.embargo_epochs - slot.stage_epochs) + settings.reset_epochs
        return max(1, settings.reset_epochs - slot.stage_epochs) if slot.stage == lifecycle.RESETTING else 0

    def _pass_or_cull(self, slot: Slot, verdict: GateEvaluated, target: lifecycle.Stage) -> list[Message]:
        if not verdict.passed:
            return [verdict, *self._moves.gate_failed(slot, verdict)]
        return [verdict, self._moves.move(slot, target, f"{lifecycle.gate_name(verdict.gate)} passed")]

    def _leave_training(self, slot: Slot, probing: Probing) -> list[Message]:
        if not self.gate_ready(slot):
            return []
        seed = slot.occupant()
        trial = difference(probing.as_is(), probing.trial(slot))  # first: it measures a width seed's output
        learning = Learning(
            parameters=seed.size,
            steps=seed.training_steps,
            nonfinite_losses=seed.nonfinite_losses,
            gradient_norm=float(seed.gradient_norm),
            output_ratio=float(seed.output_ratio),
            trial=trial,
            loss=probing.as_is().mean,
        )
        verdict = self._verdicts.verdict(
            gates.g1_gradient_health(slot.subject, slot.health(), learning, self._settings)
        )
        return self._pass_or_cull(slot, verdict, lifecycle.BLENDING)

    def _leave_blending(self, slot: Slot, probing: Probing) -> list[Message]:
        if not self.gate_ready(slot):
            return []
        seed = slot.occupant()
        assert seed.before is not None
        blended = Blended(
            alpha=slot.alpha,
            latency_ms=seed.latency_ms,
            output_ratio=float(seed.output_ratio),
            drift=difference(probing.as_is(), seed.before),
            loss_before=seed.before.mean,
        )
        verdict = self._verdicts.verdict(gates.g2_stability(slot.subject, slot.health(), blended, self._settings))
        return self._pass_or_cull(slot, verdict, lifecycle.SHADOWING)

    def _leave_shadowing(self, slot: Slot, probing: Probing) -> list[Message]:
        impact = self._measure(slot, probing)
        if not self.gate_ready(slot):
            return []
        verdict = self._verdicts.verdict(
            gates.g3_interface(slot.subject, slot.health(), self._dry_run(slot), impact, self._settings)
        )
        return self._pass_or_cull(slot, verdict, lifecycle.PROBATIONARY)

    def _watch_probation(self, slot: Slot, probing: Probing) -> list[Message]:
        if slot.stage_epochs > self._settings.probation_patience:
            return self._moves.cull(
                slot, f"patience spent: not fossilized in {self._settings.probation_patience} epochs"
            )
        self._measure(slot, probing)
        return []

    def _await_proof(self, slot: Slot, probing: Probing) -> list[Message]:
        seed = slot.occupant()
        assert seed.before is not None
        seed.change = difference(probing.as_is(), seed.before)
        return []

    def prove(self, probing: Probing, *, last: bool) -> tuple[list[Message], str]:
        """`swift`: judge the seeds whose proof is due, at the run's `last` epoch end all that are mixed in.

        The longest at full strength comes first; one that may still wait is passed over. Ends at the first that fails;
        the facts, and that seed's id.
        """
        facts: list[Message] = []
        for slot in sorted(self._unproven(last=last), key=lambda slot: (slot.stage, slot.stage_steps), reverse=True):
            seed, now = slot.occupant(), probing.as_is()
            assert seed.before is not None
            epochs = slot.stage_epochs if slot.stage == lifecycle.PROBATIONARY else 0
            proof = Proof(difference(now, seed.before), now.mean, slot.alpha, epochs)
            if self._may_wait(proof, last=last, hurried=slot.hurried):
                continue
            verdict = self._verdicts.verdict(gates.g4_proof(slot.subject, slot.health(), proof, self._settings))
            facts.append(verdict)
            if not verdict.passed:
                return facts, slot.seed_id
            facts += self._moves.fossilize(slot, "G4_SYSTEM_IMPACT passed: it has proven itself")
        return facts, ""

    def _may_wait(self, proof: Proof, *, last: bool, hurried: bool) -> bool:
        """Whether a seed that has not proven itself has time left to; rules 1 gave none."""
        patience = self._settings.proof_patience if self._settings.rules > 1 else 0
        if hurried:
            return False
        fallen = -proof.change.mean > self._settings.benefit_z * proof.change.stderr
        return not last and not fallen and proof.epochs < patience

    def _unproven(self, *, last: bool) -> list[Slot]:
        mixed = [slot for slot in self._slots.values() if slot.stage in lifecycle.MIXED & lifecycle.ALIVE]
        if last:
            return mixed
        return [
            slot
            for slot in mixed
            if slot.stage == lifecycle.PROBATIONARY
            and not slot.held
            and (slot.hurried or slot.stage_epochs >= self._settings.proof_epochs)
        ]

    def _leave_embargo(self, slot: Slot, _probing: Probing) -> list[Message]:
        if slot.stage_epochs < self._settings.embargo_epochs:
            return []
        fact = self._moves.move(slot, lifecycle.RESETTING, f"embargo of {self._settings.embargo_epochs} epochs is over")
        return [fact, *self._moves.scrub(slot)]

    def _leave_resetting(self, slot: Slot, _probing: Probing) -> list[Message]:
        if not self.gate_ready(slot):
            return []
        verdict = self._verdicts.verdict(gates.g5_reset(slot.subject, slot.leftovers()))
        if verdict.passed:
            return [verdict, self._moves.move(slot, lifecycle.DORMANT, "G5_RESET passed")]
        self._outbox.tell(
            slot.seed_id, "gate_failure", TELEMETRY_LEVEL_CRITICAL, gate="G5_RESET", reason=verdict.reason
        )
        return [
            verdict,
            *self._moves.scrub(slot),
        ]  # G5 keeps it RESETTING: scrubbed again, judged at the next epoch end

    def _measure(self, slot: Slot, probing: Probing) -> Impact:
        """The seed's counterfactual contribution and the change since before it germinated."""
        seed = slot.occupant()
        assert seed.before is not None
        now = probing.as_is()
        seed.impact = Impact(difference(probing.without(slot), now), difference(now, seed.before), now.mean)
        return seed.impact

    def _dry_run(self, slot: Slot) -> DryRun:
        """Run the module a few times, without a trace, on two random activations of its site's shape."""
        seed = slot.occupant()
        if seed.trouble:
            return DryRun(
                shape_matches=False, finite=False, foreign_parameters=0, identity_error=None, trouble=seed.trouble
            )
        foreign = self._moves.shared_parameters(slot, seed.module)
        if slot.widens:
            return _look_over(slot, foreign)
        device = device_of(self._host)
        dtype = next((p.dtype for p in seed.module.parameters()), torch.get_default_dtype())
        try:
            with evaluating(seed.module), torch.no_grad():
                runs = [_run_dry(seed.module, (2, *slot.description.shape), device, dtype) for _ in range(REPETITIONS)]
        except Exception as error:  # noqa: BLE001 - a seed is foreign code: what it raises is a failed gate
            self._outbox.tell(slot.seed_id, "seed_forward_error", TELEMETRY_LEVEL_ERROR, error=f"{error}"[:500])
            return DryRun(shape_matches=False, finite=False, foreign_parameters=foreign, identity_error=None)
        h, s = runs[0]
        matches = s.shape == h.shape
        size = max(1.0, float(s.abs().max()))
        return DryRun(
            shape_matches=matches,
            finite=bool(torch.isfinite(s).all()),
            foreign_parameters=foreign,
            identity_error=float((s - h).abs().max()) if seed.residual and matches else None,
            repeat_error=max(float((again - s).abs().max()) for _, again in runs[1:]) / size,
        )


def _look_over(slot: Slot, foreign: int) -> DryRun:
    """The verdict on new units of a layer: they have no code to run, so their weights say it all.

    Fresh ones must leave the consumer alone, as a residual module begins as the identity.
    """
    module, place = slot.occupant().module, slot.description.width
    into, out_of = module.get_parameter("producer_weight"), module.get_parameter("consumer_weight")
    units = len(into) // max(1, place.sections)
    wanted = (place.outgoing[0], units * place.outgoing[1], *place.outgoing[2:])
    return DryRun(
        shape_matches=tuple(into.shape[1:]) == tuple(place.incoming) and tuple(out_of.shape) == wanted,
        finite=all(bool(torch.isfinite(each).all()) for each in (*module.parameters(), *module.buffers())),
        foreign_parameters=foreign,
        identity_error=float(out_of.detach().abs().max()) if slot.stage == lifecycle.GERMINATED else None,
    )


def _run_dry(
    module: nn.Module, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Activations and what the module makes of them; the same random numbers each time."""
    with drawing_from(Stream(0, device)):
        h = torch.randn(shape, device=device, dtype=dtype)
        s: Tensor = functional_call(module, borrowed(module), (h,))
    return h, s
