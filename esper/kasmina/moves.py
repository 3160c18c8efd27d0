"""What a move does to a slot: hook, module, alpha and gradients follow the stage, and a fact says that it happened."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import torch
from google.protobuf.message import Message
from torch import nn

from contracts.leyline.v1.event_pb2 import GateEvaluated, KernelAttached, SeedTransitioned, SiteDescription
from contracts.leyline.v1.leyline_pb2 import (
    BLEND_MODE_CONVEX,
    BLEND_MODE_RESIDUAL,
    TELEMETRY_LEVEL_CRITICAL,
    TELEMETRY_LEVEL_WARNING,
)
from esper.errors import BlendUnavailable, InvalidInput
from esper.kasmina import lifecycle
from esper.kasmina.absorb import Part, Structure
from esper.kasmina.blending import blend_from
from esper.kasmina.commands import CommandRefused, Request
from esper.kasmina.gates import Loss
from esper.kasmina.graft import Grafts
from esper.kasmina.kernels import Kernels, Unusable, Verified, misfit
from esper.kasmina.lifecycle import Stage
from esper.kasmina.seed import Seed, Slot
from esper.kasmina.sites import Stream, derived_seed, device_of, drawing_from

Build = Callable[[str, SiteDescription, Mapping[str, float], torch.Generator], nn.Module]
"""Makes the module of a blueprint for a site, with settings, from a generator: `esper.karn.catalogue.build`."""


class Moves:
    """Carries out moves; whoever calls decides which and when."""

    def __init__(
        self,
        grafts: Grafts,
        slots: Mapping[str, Slot],
        build: Build,
        kernels: Kernels,
        seed: int,
        *,
        structure: Structure,
    ) -> None:
        self._grafts = grafts
        self._slots = slots
        self._structure = structure
        self.parts: list[Part] = []
        """What became of parameters that a width seed was absorbed into, until somebody takes note of it."""
        self._host = grafts.host
        self._outbox = grafts.outbox
        self._build = build
        self._kernels = kernels
        self._ask: Callable[[], bool] = lambda: True
        self._seed = seed

    def ask_library_while(self, allowed: Callable[[], bool]) -> None:
        """Ask the library only while this is so."""
        self._ask = allowed

    def move(self, slot: Slot, target: Stage, reason: str, command_id: bytes = b"") -> SeedTransitioned:
        """Take the slot to `target` and return the fact; raises IllegalTransition and changes nothing if it cannot."""
        source = slot.stage
        slot.enter(target)
        if target in (lifecycle.PROBATIONARY, lifecycle.FOSSILIZED):
            slot.set_alpha(1.0)
        if target in lifecycle.ATTACHED:
            self.settle(slot)
        fact = SeedTransitioned(
            seed_id=slot.seed_id,
            site=slot.description.site,
            from_stage=source,
            to_stage=target,
            reason=reason,
            blueprint_id="" if slot.seed is None else slot.seed.blueprint_id,
            life=slot.life,
            alpha=slot.alpha,
            parameters=0 if slot.seed is None else slot.seed.size,
            command_id=command_id,
        )
        if target == lifecycle.CULLED:
            slot.culls += 1
            slot.empty()
        elif target == lifecycle.FOSSILIZED:
            slot.fossils += 1
        elif target == lifecycle.TERMINATED:
            slot.empty()
        return fact

    def fossilize(self, slot: Slot, reason: str, command_id: bytes = b"") -> list[Message]:
        """Make the seed part of the host for good; a width seed's units become the host's own."""
        facts: list[Message] = [self.move(slot, lifecycle.FOSSILIZED, reason, command_id)]
        if slot.widens:
            fact, parts = self._structure.absorb(slot)
            self.parts += parts
            facts.append(fact)
        return facts

    def cull(self, slot: Slot, reason: str, command_id: bytes = b"") -> list[Message]:
        """Take the seed out of the network and begin its embargo."""
        return [
            self.move(slot, lifecycle.CULLED, reason, command_id),
            self.move(slot, lifecycle.EMBARGOED, reason, command_id),
        ]

    def scrub(self, slot: Slot) -> list[Message]:
        """Clear the slot and close its isolation breaker."""
        slot.scrub()
        return list(self._grafts.isolation.reset(slot.seed_id))

    def gate_failed(self, slot: Slot, verdict: GateEvaluated) -> list[Message]:
        """Tell of a failed gate and cull the seed."""
        gate = lifecycle.gate_name(verdict.gate)
        self._outbox.tell(
            slot.seed_id, "gate_failure", TELEMETRY_LEVEL_CRITICAL, gate=gate, reason=verdict.reason, life=slot.life
        )
        return self.cull(slot, f"{gate} failed: {verdict.reason}")

    def germinate(self, slot: Slot, request: Request, before: Loss | None) -> list[Message]:
        """Put a module into the slot; raises CommandRefused, with nothing changed, where it cannot be built.

        Where the library has a kernel that cannot be used, the identity stands in its place until G0 has failed.
        """
        started = self._grafts.monotonic()
        here = not self._ask()
        kernel = None if here else self._kernels.find(request.blueprint_id, slot.description, request.parameters)
        seed = self._new_seed(slot, request, kernel)
        seed.before = before
        slot.life += 1
        slot.seed = seed
        option = next(o for o in slot.description.options if o.blueprint_id == request.blueprint_id)
        facts: list[Message] = [self.move(slot, lifecycle.GERMINATED, "germinate command", request.command_id)]
        facts.append(
            KernelAttached(
                seed_id=slot.seed_id,
                blueprint_id=request.blueprint_id,
                artifact_ref=kernel.artifact_ref if isinstance(kernel, Verified) and not seed.trouble else "",
                kernel_digest=kernel_digest(seed.module),
                form=seed.form,
                parameters=request.parameters,
                module_parameters=seed.size,
                flops_per_sample=0 if seed.trouble else option.flops_per_sample,
                attach_ms=(self._grafts.monotonic() - started) * 1e3,
                blend_mode=seed.blend.mode,
                trouble=seed.trouble,
            )
        )
        if seed.trouble:
            self._outbox.tell(
                slot.seed_id,
                "kernel_refused",
                TELEMETRY_LEVEL_WARNING,
                blueprint=request.blueprint_id,
                reason=seed.trouble,
            )
        return facts

    def shared_parameters(self, slot: Slot, module: nn.Module) -> int:
        """How many parameters of the slot's module belong to the host or to another seed."""
        others = {id(parameter) for parameter in self._host.parameters()}
        for other in self._slots.values():
            if other is not slot and other.seed is not None:
                others.update(id(parameter) for parameter in other.seed.module.parameters())
        return sum(id(parameter) in others for parameter in module.parameters())

    def rebuild(
        self, slot: Slot, blueprint_id: str, parameters: Mapping[str, float], life: int, trouble: str = ""
    ) -> tuple[nn.Module, Stream]:
        """The module of a blueprint on the host's device, as it germinates in that life, and the seed's own stream.

        With `trouble` it is the identity.
        """
        device = device_of(self._host)
        name = f"{slot.seed_id}/{life}"
        generator = torch.Generator().manual_seed(derived_seed(self._seed, f"build/{name}"))
        stream = Stream(derived_seed(self._seed, f"draws/{name}"), device)
        if trouble:
            return nn.Identity(), stream
        with drawing_from(stream, keep=False):
            module = self._build(blueprint_id, slot.description, parameters, generator)
        dtype = next((p.dtype for p in self._host.parameters() if p.is_floating_point()), None)
        return module.to(device=device, dtype=dtype), stream

    def _new_seed(self, slot: Slot, request: Request, kernel: Verified | Unusable | None) -> Seed:
        description = slot.description
        try:
            blend = blend_from(request.annotations, description.blend_mode)
            blend.check(description.shape_kind, tuple(description.shape))
            life, trouble = slot.life + 1, str(kernel) if isinstance(kernel, Unusable) else ""
            module, stream = self.rebuild(slot, request.blueprint_id, request.parameters, life, trouble)
            if isinstance(kernel, Verified) and (against := misfit(kernel, module, description)):
                module, trouble = nn.Identity(), str(against)
            seed = Seed(request.blueprint_id, dict(request.parameters), module, blend, stream, trouble=trouble)
            _check_blend(slot, seed)
        except BlendUnavailable as error:
            self._outbox.tell(slot.seed_id, "blend_dependency_missing", TELEMETRY_LEVEL_CRITICAL, error=error)
            raise CommandRefused("blend_unavailable", str(error), critical=True) from None
        except InvalidInput as error:
            raise CommandRefused("blueprint_refused", str(error)) from None
        except Exception as error:
            detail = f"{request.blueprint_id} cannot be built: {type(error).__name__}: {error}"
            raise CommandRefused("build_failed", detail) from error
        self._check_size(seed)
        shared = self.shared_parameters(slot, module)
        if shared:
            raise CommandRefused(
                "shared_parameters", f"{request.blueprint_id} shares {shared} parameters with the network"
            )
        return seed

    def _check_size(self, seed: Seed) -> None:
        """`swift`: refuse a seed with more parameters than its host; nothing but its proof would stop it."""
        host = sum(parameter.numel() for parameter in self._host.parameters())
        if self._grafts.settings.swift and seed.size > host:
            raise CommandRefused(
                "larger_than_host",
                f"{seed.blueprint_id} has {seed.size:,} parameters and its host {host:,}: no seed of the swift "
                "lifecycle is larger than its host; name a smaller blueprint",
            )

    def settle(self, slot: Slot) -> None:
        """Make hook and gradients what the stage says; for a slot that has a seed."""
        stage, settings = slot.stage, self._grafts.settings
        frozen = (
            stage == lifecycle.GERMINATED
            or (stage == lifecycle.SHADOWING and not settings.swift)
            or (stage == lifecycle.FOSSILIZED and settings.freeze_fossils)
        )
        slot.settle(frozen=frozen)
        self._grafts.sync(slot)


def _check_blend(slot: Slot, seed: Seed) -> None:
    if slot.widens and seed.blend.mode != BLEND_MODE_CONVEX:
        raise BlendUnavailable(f"{slot.seed_id} widens a layer, which its outgoing weights alone mix in; use CONVEX")
    if seed.residual and seed.blend.mode == BLEND_MODE_RESIDUAL:
        raise BlendUnavailable(f"RESIDUAL would add h twice: {seed.blueprint_id} is residual itself; use CONVEX")


def kernel_digest(module: nn.Module) -> bytes:
    """SHA-256 over names, types, shapes and bytes of the module's parameters and buffers, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        content = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{content.dtype}|{tuple(content.shape)}|".encode())
        digest.update(content.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()
