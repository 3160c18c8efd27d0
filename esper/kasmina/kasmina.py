"""`Kasmina`, the one class that the trainer calls: seeds that grow at the sites of a host.

    kasmina = Kasmina(host, describe_sites(...), SeedSettings(), build, steps_per_epoch=16, seed=1, monotonic=clock)
    each step:   closure = lambda: loss_fn(host(inputs), targets)
                 kasmina.side_pass(closure)           gradients of the one seed in TRAINING whose turn it is
                 closure().backward()
                 kasmina.after_backward()
                 optimizer.step()
                 facts = kasmina.advance_step()
    each epoch:  facts = kasmina.end_epoch(probe)
    a command:   facts = kasmina.apply(command)

The facts that a call returns say what has happened: the caller publishes them before the next optimiser step and, where
there are any, asks `trainable()` again which parameters an optimiser must hold now. A host with dormant sites has no
hook at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from operator import attrgetter
from typing import Any, Final

from google.protobuf.message import Message
from torch import Tensor, nn

from contracts.leyline.v1.event_pb2 import SeedObservation, SeedStep, SiteDescription, SiteEvidence
from contracts.leyline.v1.leyline_pb2 import (
    SEED_OPERATION_ADVANCE,
    SEED_OPERATION_FOSSILIZE,
    SEED_OPERATION_GERMINATE,
    SEED_OPERATION_HOLD,
    TELEMETRY_LEVEL_CRITICAL,
    TELEMETRY_LEVEL_WARNING,
    AdaptationCommand,
)
from esper.errors import CorruptState, InvalidInput
from esper.kasmina import commands, gates, lifecycle
from esper.kasmina.absorb import Options, Part, Structure
from esper.kasmina.commands import CommandRefused, Request
from esper.kasmina.gates import Loss, MeasuredVerdicts, Verdicts
from esper.kasmina.graft import Grafts, on_borrowed
from esper.kasmina.grown import build_in
from esper.kasmina.isolation import Isolation
from esper.kasmina.kernels import SWAPPABLE, Compiled, Kernels, NoKernels, back_to_eager, swap
from esper.kasmina.moves import Build, Moves
from esper.kasmina.passes import WHOLE, Closure, Probing, Share, SidePassResult, gather_evidence, run_side_pass
from esper.kasmina.progress import Progress
from esper.kasmina.seed import STATE_VERSION, KasminaState, Seed, Slot, dump_slot, load_slot
from esper.kasmina.settings import SeedSettings
from esper.kasmina.sites import Stream, device_of, drawing_from, find_module
from esper.kasmina.telemetry import Outbox, learning, lives, observe, step_of

_SEED: Final = attrgetter("seed")
_DIRECT: Final = (
    lifecycle.TRAINING,
    lifecycle.BLENDING,
    lifecycle.SHADOWING,
    lifecycle.PROBATIONARY,
)


class Kasmina:
    """The seeds of one host. Not safe for several threads at once: the training loop owns it.

    `build` makes modules of blueprints, `kernels` is the library that has them compiled (by default an empty one),
    `seed` feeds the seeds' own random streams, `monotonic` gives seconds on a clock that never goes back,
    `verdicts` says which verdicts count (by default those that were measured), and `options` says what could grow at a
    place that has become another one (by default what could before). `probe_loss` is the probe loss of the
    network as it stands after the last `end_epoch`, and `disproved` the seed whose proof failed in it: the caller goes
    back to the state from before that seed and calls `close`.
    """

    def __init__(
        self,
        host: nn.Module,
        sites: Sequence[SiteDescription],
        settings: SeedSettings,
        build: Build,
        *,
        steps_per_epoch: int,
        seed: int,
        monotonic: Callable[[], float],
        kernels: Kernels | None = None,
        verdicts: Verdicts | None = None,
        options: Options | None = None,
    ) -> None:
        if steps_per_epoch < 1:
            raise InvalidInput(f"steps_per_epoch is {steps_per_epoch}; it must be at least 1")
        for site in sites:
            find_module(host, site.site)
            if site.HasField("width"):
                find_module(host, site.width.consumer)
        self.settings = settings
        self.probe_loss: Loss | None = None
        self.disproved = ""
        self._slots = {site.seed_id: Slot(site) for site in sites}
        self._turn = 0
        self._outbox = Outbox()
        self._verdicts = verdicts or MeasuredVerdicts()
        self._isolation = Isolation(settings, monotonic)
        self._grafts = Grafts(host, settings, self._isolation, self._outbox, monotonic)
        self._structure = Structure(host, self._slots, options)
        self._moves = Moves(self._grafts, self._slots, build, kernels or NoKernels(), seed, structure=self._structure)
        self._progress = Progress(self._grafts, self._moves, self._slots, steps_per_epoch, self._verdicts)

    # ---------------------------------------------------------------------------------------------------- commands

    def apply(self, command: AdaptationCommand) -> list[Message]:
        """Carry out a verified seed command and return the facts.

        Raises CommandRefused, with nothing changed, for a command that is not supported, not sane, or not legal now.
        """
        try:
            request = commands.read(command)
        except CommandRefused as refusal:
            self._outbox.tell(command.target_seed_id, refusal.reason, TELEMETRY_LEVEL_WARNING, detail=refusal.detail)
            raise
        slot = self._slots.get(request.seed_id)
        if slot is None:
            raise CommandRefused(
                "unknown_seed", f"there is no seed {request.seed_id!r}; there are {', '.join(self._slots)}"
            )
        if request.operation == SEED_OPERATION_GERMINATE:
            return self._germinate(slot, request)
        if request.operation == SEED_OPERATION_FOSSILIZE:
            return self._fossilize(slot, request)
        if request.operation == SEED_OPERATION_HOLD:
            commands.check_hold(slot)
            slot.held, slot.hurried = True, False
            return []
        if request.operation == SEED_OPERATION_ADVANCE:
            commands.check_advance(slot, swift=self.settings.swift)
            self._progress.hurry(slot)
            return []
        commands.check_move(slot, lifecycle.CULLED)
        self._forget_probe(slot)
        return self._moves.cull(slot, "cull command", request.command_id)

    def _forget_probe(self, slot: Slot) -> None:
        """A network that loses a seed which was mixed in is no longer the one that was probed."""
        if slot.stage in lifecycle.MIXED:
            self.probe_loss = None

    def _germinate(self, slot: Slot, request: Request) -> list[Message]:
        commands.check_germinate(slot, request)
        if obstacle := self._structure.obstacle(slot, self.settings):
            raise CommandRefused("place_taken", f"nothing can grow at {slot.seed_id} now: {obstacle}")
        facts = self._moves.germinate(slot, request, self.probe_loss)
        if self.settings.lifecycle == "direct" and not slot.occupant().trouble:
            facts += [self._moves.move(slot, stage, "direct", request.command_id) for stage in _DIRECT]
            facts += self._moves.fossilize(slot, "direct", request.command_id)
        return facts

    def _fossilize(self, slot: Slot, request: Request) -> list[Message]:
        commands.check_move(slot, lifecycle.FOSSILIZED)
        impact = slot.occupant().impact
        if self.settings.swift:
            needed = self.settings.proof_epochs
            raise CommandRefused("dwell_not_over", f"{slot.seed_id} fossilizes by itself, after {needed} epochs' proof")
        if slot.held:
            raise CommandRefused("already_held", f"{slot.seed_id} is held in PROBATIONARY; advance it first")
        if impact is None or not self._progress.gate_ready(slot):
            needed = self.settings.probation_epochs
            raise CommandRefused("dwell_not_over", f"{slot.seed_id} must be PROBATIONARY for {needed} epoch ends first")
        verdict = self._verdicts.verdict(gates.g4_system_impact(slot.subject, slot.health(), impact, self.settings))
        if not verdict.passed:
            self._forget_probe(slot)
            return [verdict, *self._moves.gate_failed(slot, verdict)]
        reason = "fossilize command, G4_SYSTEM_IMPACT passed"
        return [verdict, *self._moves.fossilize(slot, reason, request.command_id)]

    def close(self, seed_id: str, blueprint_id: str, reason: str) -> list[Message]:
        """Let nothing grow at a place any more, because the proof of `blueprint_id` failed there; a seed there goes."""
        slot = self._slots[seed_id]
        slot.closed = blueprint_id
        if not lifecycle.is_legal(slot.stage, lifecycle.CULLED):
            return []
        self._forget_probe(slot)
        return self._moves.cull(slot, reason)

    def closed(self) -> dict[str, str]:
        """The blueprint whose proof failed, by the seed id of the place that is closed for it."""
        return {slot.seed_id: slot.closed for slot in self._slots.values() if slot.closed}

    def evict(self, reason: str) -> list[Message]:
        """Cull every seed that is mixed in and no fossil yet: whichever of them the network fails of, it is gone."""
        facts: list[Message] = []
        for slot in self._slots.values():
            if slot.stage in lifecycle.MIXED and lifecycle.is_legal(slot.stage, lifecycle.CULLED):
                self._outbox.tell(slot.seed_id, "seed_evicted", TELEMETRY_LEVEL_CRITICAL, reason=reason)
                self._outbox.quarantined(slot.seed_id, reason)
                self._forget_probe(slot)
                facts += self._moves.cull(slot, reason)
        return facts

    def teardown(self) -> list[Message]:
        """Take Kasmina off the host: DORMANT and FOSSILIZED slots end as TERMINATED, and no hook is left anywhere."""
        ended = [slot for slot in self._slots.values() if lifecycle.is_legal(slot.stage, lifecycle.TERMINATED)]
        facts: list[Message] = [self._moves.move(slot, lifecycle.TERMINATED, "teardown") for slot in ended]
        for slot in self._slots.values():
            slot.empty()
        return facts

    def grown(self) -> nn.Module:
        """Take Kasmina off the host and leave what it is mixed with as ordinary modules: what a run was for.

        A width seed becomes part of the layers that it widens, with outgoing weights as strong as they are mixed in.
        """
        for slot in [slot for slot in self._slots.values() if slot.widens and slot.seed is not None]:
            if slot.stage in lifecycle.MIXED and slot.alpha > 0.0:
                outgoing = slot.occupant().module.get_parameter("consumer_weight")
                outgoing.data = outgoing.data * slot.alpha_like(outgoing)
                self._structure.absorb(slot)
        return build_in(self._grafts.host, self._slots.values())

    # ------------------------------------------------------------------------------------------------ while training

    def side_pass(self, closure: Closure, share: Share = WHOLE) -> SidePassResult | None:
        """Set `.grad` of the one seed in TRAINING whose turn it is, and touch nothing else; None where no seed trains.

        `closure` runs the host on the batch of this step and gives its mean loss. The gradients of the other seeds in
        TRAINING become None, so that an optimiser leaves them alone until their turn. Batches whose gradients are one
        step's each have a `share` of it.
        """
        training = [slot for slot in self._slots.values() if slot.stage == lifecycle.TRAINING]
        if not training or self.settings.training_rule != "side_pass":
            return None
        if share.there:
            return run_side_pass(training[(self._turn - 1) % len(training)], self._grafts, closure, share)
        slot = training[self._turn % len(training)]
        self._turn += 1
        for other in training:
            for parameter in other.occupant().module.parameters():
                parameter.grad = None
        return run_side_pass(slot, self._grafts, closure, share)

    def quietly(self, closure: Closure, *, learning: bool = False) -> Tensor:
        """What the closure gives in a pass that leaves no trace, in the modes and with the seeds of a training step.

        With `learning` a backward pass can follow, whose gradients no parameter gets.
        """
        aside = drawing_from(Stream(0, device_of(self._grafts.host)))
        with self._grafts.passing(traceless=True, counted=learning), aside:
            return on_borrowed(self._grafts.host, closure, learning=learning)

    def after_backward(self) -> None:
        """Note the gradient norms of the seeds that learnt from the host's backward pass; call before clipping."""
        if not self.seeded:
            return
        straight = self.settings.training_rule == "straight_through"
        for slot in self._slots.values():
            if slot.seed is None or (slot.stage == lifecycle.TRAINING and not straight):
                continue
            gradients = [parameter.grad for parameter in slot.seed.module.parameters() if parameter.grad is not None]
            if gradients:
                slot.seed.gradient_norm = nn.utils.get_total_norm(gradients)
            if slot.stage == lifecycle.TRAINING:
                slot.seed.training_steps += 1

    def advance_step(self) -> list[Message]:
        """One optimiser step is done: ramps go on, fresh seeds begin to train, leaking ones are culled."""
        facts = self._progress.isolate()
        if not self.seeded:
            self.pass_steps(1)
            return facts
        for slot in list(self._slots.values()):  # one that is absorbed opens another
            facts += self._progress.step(slot)
        return facts

    def pass_steps(self, steps: int) -> None:
        """So many optimiser steps are done, and no slot has a seed: time passes, and nothing else can."""
        for slot in self._slots.values():
            slot.stage_steps += steps

    def end_epoch(self, probe: Callable[[], Loss], *, last: bool = False) -> list[Message]:
        """One epoch is done, at the end the run's `last`: dwell, gates, patience, embargo, and the proofs of `swift`.

        `probe` evaluates the probe set on the network as it is at that moment, in evaluation mode, and lists the same
        samples in the same order every time. It is called once, and more often only for seeds under judgement; its
        forwards count in the budget.
        """
        probing = Probing(probe, self._grafts)
        facts: list[Message] = []
        for slot in list(self._slots.values()):  # one that is absorbed opens another
            facts += self._progress.end_epoch(slot, probing)
        return facts + self._prove(probing, last=last)

    def prove_others(self, probe: Callable[[], Loss], *, last: bool) -> list[Message]:
        """Judge the proofs of an epoch's end that are still due after one failed whose seed is gone."""
        return self._prove(Probing(probe, self._grafts), last=last)

    def _prove(self, probing: Probing, *, last: bool) -> list[Message]:
        facts: list[Message] = []
        self.disproved = ""
        if self.settings.swift:
            facts, self.disproved = self._progress.prove(probing, last=last)
        self.probe_loss = probing.as_is()
        return facts

    @property
    def seeded(self) -> bool:
        """Whether any slot has a seed, a fossil included: without one a step has nothing to do but count."""
        return any(map(_SEED, self._slots.values()))

    @property
    def measured(self) -> str:
        """What a pass that is made now computes: which seeds are mixed in, and which is left out or tried.

        A layer is computed as wide as it is with its seed only once alpha has left 0.
        """
        if not self.seeded:
            return f" {self._grafts.measured}"
        mixed = (
            slot.seed_id
            for slot in self._slots.values()
            if slot.stage in lifecycle.MIXED and not (slot.widens and slot.alpha == 0.0)
        )
        return f"{' '.join(mixed)} {self._grafts.measured}"

    # ------------------------------------------------------------------------------------------------------- kernels

    def swappable(self) -> dict[str, Seed]:
        """The seeds whose eager form a compiled one may replace now, and those that need theirs again, by seed id."""
        found = {
            slot.seed_id: slot.seed for slot in self._slots.values() if slot.stage in SWAPPABLE and not slot.widens
        }
        return {name: seed for name, seed in found.items() if seed and seed.compiled is None and not seed.trouble}

    def swap(self, seed_id: str, kernel: Compiled | None, forward: Callable[[], object]) -> list[Message]:
        """Let the compiled form of a seed serve from the next step on, compared with the eager one on a real batch.

        `forward` runs the host on that batch. No fact says that nothing has changed: where the forms do not agree, or
        where a seed that was restored has its compiled form again. None for a `kernel` that cannot be had any more.
        """
        slot = self._slots[seed_id]
        restored = slot.occupant().compiled_ref
        if kernel is None:
            return [back_to_eager(slot)] if restored else []
        fact = swap(slot, self._grafts, kernel, forward)
        unchanged = fact is not None and restored == fact.artifact_ref and fact.to_form == "compiled"
        return [] if fact is None or unchanged else [fact]

    def expect_compiler(self) -> None:
        """The host is compiled: the hooks of seeds are no part of its graphs."""
        self._grafts.compiled = True

    def ask_library_while(self, allowed: Callable[[], bool]) -> None:
        """Ask the library for the kernels of new seeds only while this is so; otherwise modules are built here."""
        self._moves.ask_library_while(allowed)

    def set_steps_per_epoch(self, steps: int) -> None:
        """A ramp that begins from now on is as long as its epochs of so many steps are."""
        self._progress.set_steps_per_epoch(steps)

    def sites(self) -> dict[str, SiteDescription]:
        """The sites by seed id."""
        return {slot.seed_id: slot.description for slot in self._slots.values()}

    # ------------------------------------------------------------------------------------------------- what is there

    def observations(self) -> list[SeedObservation]:
        """Every slot as a policy may see it, in site order."""
        return [
            observe(
                slot,
                gate_ready=self._progress.gate_ready(slot),
                epochs_until_free=self._progress.epochs_until_free(slot),
            )
            for slot in self._slots.values()
        ]

    def evidence(self, closure: Closure, *, candidates: bool = False) -> list[SiteEvidence]:
        """What one probe batch says about each site, in site order; leaves no trace.

        `closure` runs the host on that batch and gives its mean loss.

        With `candidates` also what a fresh seed would learn first behind each site that is free. Places whose seed was
        absorbed are left out: the slot that opened there stands for them.
        """
        slots = [slot for slot in self._slots.values() if not slot.absorbed]
        sites = [slot.description for slot in slots]
        free = [slot.seed_id for slot in slots if candidates and self._is_free(slot)]
        return gather_evidence(sites, self._grafts, closure, free=free) if sites else []

    def _is_free(self, slot: Slot) -> bool:
        if slot.closed and self.settings.rules > 1:
            return False
        return slot.stage == lifecycle.DORMANT and not self._structure.obstacle(slot, self.settings)

    def trainable(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that an optimiser must hold now, by seed id: those of seeds that learn."""
        return learning(self._slots.values())

    def modules(self) -> dict[str, nn.Module]:
        """The attached modules, by seed id."""
        return {slot.seed_id: slot.seed.module for slot in self._slots.values() if slot.seed is not None}

    def unproven(self) -> list[str]:
        """The ids of the seeds that are mixed in and have not proven themselves."""
        return [slot.seed_id for slot in self._unproven()]

    def without_unproven(self) -> AbstractContextManager[None]:
        """Within, the host's passes leave those seeds out."""
        return self._grafts.passing(without=self._unproven())

    def _unproven(self) -> tuple[Slot, ...]:
        unproven = lifecycle.MIXED - {lifecycle.FOSSILIZED}
        return tuple(slot for slot in self._slots.values() if slot.stage in unproven and slot.seed is not None)

    def summary(self) -> dict[str, int]:
        """How many lives were germinated, fossilized and culled."""
        return lives(self._slots.values())

    def step_samples(self) -> list[SeedStep]:
        """The last step's figures of every seed that is there, in site order."""
        return [step_of(slot, slot.seed) for slot in self._slots.values() if slot.seed is not None]

    def drain_telemetry(self) -> list[Message]:
        """The telemetry packets since the last drain: seed and gate failures, violations, unsupported commands."""
        return list(self._outbox.drain())

    # ---------------------------------------------------------------------------------------------- saving, restoring

    def state_dict(self) -> KasminaState:
        """Everything that a restore needs, copied."""
        tensors: dict[str, Tensor] = {}
        slots = {seed_id: dump_slot(slot, tensors) for seed_id, slot in self._slots.items()}
        if self.probe_loss is not None:
            tensors["probe"] = self.probe_loss.per_sample.clone()
        scalars: dict[str, Any] = {"version": STATE_VERSION, "turn": self._turn, "slots": slots}
        if absorbed := self._structure.state():
            scalars["absorbed"] = absorbed
        return {"scalars": scalars, "tensors": tensors}

    def become(self, saved: KasminaState) -> None:
        """Give the host the structure of a saved state, before its own tensors are loaded."""
        self._structure.become(saved["scalars"].get("absorbed", []))

    def drain_absorbed(self) -> list[Part]:
        """The parameters that became larger since the last call, for an optimiser that holds them."""
        parts, self._moves.parts = self._moves.parts, []
        return parts

    def reopen(self, seed_id: str) -> None:
        """The seed's isolation breaker is open, as it was when the state that was loaded was saved."""
        self._isolation.reopen(seed_id)

    def load_state_dict(self, saved: KasminaState) -> None:
        """Put every slot into a saved state, structure included; raises CorruptState where that does not fit."""
        scalars, tensors = saved["scalars"], saved["tensors"]
        self.become(saved)
        if scalars["version"] != STATE_VERSION or set(scalars["slots"]) != set(self._slots):
            raise CorruptState(
                f"saved seeds are version {scalars['version']} of {', '.join(scalars['slots'])}; "
                f"this network has version {STATE_VERSION} of {', '.join(self._slots)}"
            )
        self._turn = scalars["turn"]
        self.probe_loss = Loss.of(tensors["probe"]) if "probe" in tensors else None
        for seed_id, slot in self._slots.items():
            self._isolation.reset(seed_id)
            load_slot(slot, scalars["slots"][seed_id], tensors, self._moves.rebuild)
            if slot.seed is not None:
                self._moves.settle(slot)
