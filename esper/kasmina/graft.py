"""A seed in the host's forward pass: one hook on its site's submodule, there only while the seed is mixed in.

The hook never changes the host's activation in place. Whatever goes wrong in a seed, the host's activation passes
through as it was, the failure is told, and training goes on (R-KAS-27).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from contracts.leyline.v1.leyline_pb2 import TELEMETRY_LEVEL_ERROR, TELEMETRY_LEVEL_WARNING
from esper.errors import BlendUnavailable
from esper.kasmina import lifecycle
from esper.kasmina.blending import mix
from esper.kasmina.isolation import Isolation
from esper.kasmina.seed import Seed, Slot
from esper.kasmina.settings import SeedSettings
from esper.kasmina.sites import activation_of, drawing_from, with_activation
from esper.kasmina.telemetry import Outbox
from esper.kasmina.width import Weights, Widening

_Result = TypeVar("_Result")


@dataclass(slots=True)
class Pass:
    """What the host's forward is being run for; the hooks read it.

    `learner`: the seed whose side pass this is. `trial`: a seed that is mixed in at its target alpha to be measured.
    `without`: seeds that are left out. `traceless`: seeds that are mixed in leave no trace in themselves either; with
    `counted` gradients are computed for them all the same, and nobody gets these.
    """

    learner: Slot | None = None
    trial: Slot | None = None
    without: tuple[Slot, ...] = ()
    traceless: bool = False
    counted: bool = False


class _StraightThrough(torch.autograd.Function):
    """Gives h forward, bit for bit, and hands the gradient to both h and s: d(out)/dh = d(out)/ds = 1."""

    @staticmethod
    def forward(_ctx: Any, h: Tensor, _s: Tensor) -> Tensor:
        return h.clone()

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient


class Grafts:
    """Puts seeds into the host's forward pass and takes them out; its parts are what all of Kasmina works with."""

    def __init__(
        self,
        host: nn.Module,
        settings: SeedSettings,
        isolation: Isolation,
        outbox: Outbox,
        monotonic: Callable[[], float],
    ) -> None:
        self.host = host
        self.settings = settings
        self.isolation = isolation
        self.outbox = outbox
        self.monotonic = monotonic
        self.compiled = False
        """Whether a compiler looks at the host's code, which must leave the hooks of seeds out."""
        self._pass = Pass()

    def sync(self, slot: Slot) -> None:
        """Give the slot's site a hook if its stage is mixed into the forward pass, and none otherwise.

        A width seed has no hook: the host's layers compute its units as theirs (`esper.kasmina.width`).
        """
        straight = slot.stage == lifecycle.TRAINING and self.settings.training_rule == "straight_through"
        wanted = slot.stage in lifecycle.MIXED or straight
        if wanted and slot.hook is None:
            slot.hook = self._hook(slot)
        elif not wanted:
            slot.detach()

    @property
    def measured(self) -> str:
        """The pass that is on: one without a seed, with one tried, or nothing for the network as it stands."""
        if self._pass.trial is None and not self._pass.without:
            return ""
        trial = () if self._pass.trial is None else (self._pass.trial,)
        named = {"without": self._pass.without, "trial": trial}
        return " ".join(f"{name} {slot.seed_id}" for name, slots in named.items() for slot in slots)

    @contextmanager
    def passing(self, slot: Slot | None = None, **what: Any) -> Iterator[None]:
        """Forwards inside are for what the keywords of `Pass` say; `slot` is hooked meanwhile if it is not already."""
        before, self._pass = self._pass, Pass(**what)
        temporary = self._hook(slot) if slot is not None and slot.hook is None else None
        try:
            yield
        finally:
            self._pass = before
            if temporary is not None:
                temporary.remove()

    def _hook(self, slot: Slot) -> Any:
        if slot.widens:
            return Widening(self.host, slot.description, partial(self._weights, slot), partial(self._watch, slot))
        module = self.host.get_submodule(slot.description.site)
        hook: Callable[..., Any] = lambda site, _inputs, output: self._mixed(slot, site, output)  # noqa: E731 - wrapped
        # What it does depends on the pass and the stage, which a compiled graph would not ask.
        return module.register_forward_hook(torch.compiler.disable(hook) if self.compiled else hook)  # type: ignore[no-untyped-call]

    def _mixed(self, slot: Slot, site: nn.Module, output: Any) -> Any:
        """The site's output with the seed mixed in; None where it passes through unchanged."""
        mixed = self._forward(slot, site, activation_of(output))
        return None if mixed is None else with_activation(output, mixed)

    def _forward(self, slot: Slot, site: nn.Module, h: Tensor) -> Tensor | None:
        """The mixed activation, or None where the host's passes through unchanged."""
        if self._left_out(slot):
            return None
        seed = slot.occupant()
        learning = self._pass.learner is slot
        detached = slot.stage == lifecycle.TRAINING or self.settings.host_rule == "detached"
        seed_input = h.detach() if detached else h
        try:
            s = self._run(slot, seed, site, seed_input)
            if s.shape != h.shape:
                raise ValueError(f"gives {tuple(s.shape)} for an activation of {tuple(h.shape)}")  # noqa: TRY301
        except Exception as error:  # noqa: BLE001 - a seed is foreign code: whatever it raises, the host goes on
            self._failed(slot, seed, "seed_forward_error", error)
            return None
        if detached and torch.is_grad_enabled() and self._leaks(slot, seed, s):
            return None
        if site.training and (learning or not self._traceless(slot)):
            seed.output_ratio = _output_ratio(seed, h, s)
        try:
            return self._mix(slot, seed, seed_input, h, s)
        except BlendUnavailable as error:
            self._failed(slot, seed, "seed_blend_error", error)
            return None

    def _left_out(self, slot: Slot) -> bool:
        return bool(self._pass.without) and any(each is slot for each in self._pass.without)

    def _mix(self, slot: Slot, seed: Seed, seed_input: Tensor, h: Tensor, s: Tensor) -> Tensor:
        kind = slot.description.shape_kind
        if self._pass.learner is slot or self._pass.trial is slot:
            target = torch.tensor(self.settings.side_pass_alpha, dtype=h.dtype, device=h.device)
            return mix(seed.blend, seed_input, s, target, kind)
        if slot.stage == lifecycle.TRAINING:
            straight: Tensor = _StraightThrough.apply(h, s)  # type: ignore[no-untyped-call]
            return straight
        return mix(seed.blend, seed_input, s, slot.alpha_like(h), kind)

    def _run(self, slot: Slot, seed: Seed, site: nn.Module, h: Tensor) -> Tensor:
        """The seed's output on its own random stream, in the site's training mode; SHADOWING is evaluation only."""
        training = site.training and slot.stage != lifecycle.SHADOWING
        if seed.module.training != training:
            seed.module.train(training)
        traceless = self._traceless(slot)
        own_stream: AbstractContextManager[None] = (
            nullcontext() if self._pass.learner is slot else drawing_from(seed.stream, keep=training and not traceless)
        )
        started = self.monotonic()
        with own_stream:
            if traceless:
                s: Tensor = functional_call(seed.module, borrowed(seed.module, learning=self._pass.counted), (h,))
            else:
                quick = training and h.requires_grad and torch.is_grad_enabled()
                s = seed.compiled(h) if quick and seed.compiled is not None else seed.module(h)
        seed.latencies_ms.append((self.monotonic() - started) * 1e3)
        return s

    def _weights(self, slot: Slot) -> Weights | None:
        """The tensors of a width seed for the pass that runs now; None where the pass is without it."""
        if self._left_out(slot):
            return None
        tried = self._pass.learner is slot or self._pass.trial is slot
        alpha = self.settings.side_pass_alpha if tried else slot.alpha
        if alpha == 0.0:
            return None
        module = slot.occupant().module
        weights: dict[str, Tensor] = (
            borrowed(module, learning=self._pass.counted)
            if self._traceless(slot)
            else dict[str, Tensor](module.named_parameters()) | dict(module.named_buffers())
        )
        if alpha != 1.0:
            outgoing = weights["consumer_weight"]
            factor = outgoing.new_tensor(alpha) if tried else slot.alpha_like(outgoing)
            weights["consumer_weight"] = outgoing * factor
        return weights

    def _watch(self, slot: Slot, inputs: Tensor, outputs: Tensor, outgoing: Tensor) -> None:
        """Measure a width seed's output against the host's, in evaluation alone: it takes a product of its own."""
        consumer: Any = self.host.get_submodule(slot.description.width.consumer)
        if consumer.training or self._traceless(slot):
            return
        tried = self._pass.learner is slot or self._pass.trial is slot
        alpha = self.settings.side_pass_alpha if tried else slot.alpha
        linear = isinstance(consumer, nn.Linear)
        with torch.no_grad():
            axis, new = -1 if linear else 1, outgoing.shape[1]
            own = inputs.narrow(axis, inputs.shape[axis] - new, new)
            added = nn.functional.linear(own, outgoing) if linear else consumer._conv_forward(own, outgoing, None)  # noqa: SLF001 - as `esper.kasmina.width`
            rest = outputs.narrow(axis, 0, len(outgoing)) - added
            norms = torch.linalg.vector_norm(added) / alpha, torch.linalg.vector_norm(rest).clamp_min(1e-12)
        slot.occupant().output_ratio = norms[0] / norms[1]

    def _traceless(self, slot: Slot) -> bool:
        """Whether the slot's seed must come out of this pass as it went in: another's side pass, or a measurement."""
        return self._pass.traceless or (self._pass.learner is not None and self._pass.learner is not slot)

    def _leaks(self, slot: Slot, seed: Seed, s: Tensor) -> bool:
        size = self.isolation.leaks(s, seed.module.parameters())
        if not size:
            return False
        slot.violations += 1
        reason = f"{slot.seed_id} {seed.blueprint_id} pulls on tensors that are not its own: gradient {size:g}"
        self.outbox.tell(slot.seed_id, "violation_recorded", TELEMETRY_LEVEL_WARNING, gradient=size)
        self.isolation.violated(slot.seed_id, reason)
        return True

    def _failed(self, slot: Slot, seed: Seed, kind: str, error: Exception) -> None:
        seed.forward_errors += 1
        self.outbox.tell(
            slot.seed_id,
            kind,
            TELEMETRY_LEVEL_ERROR,
            blueprint=seed.blueprint_id,
            stage=lifecycle.name(slot.stage),
            error=f"{type(error).__name__}: {error}"[:500],
        )


def borrowed(module: nn.Module, *, learning: bool = False) -> dict[str, Tensor]:
    """The module's parameters without gradient and copies of its buffers: a forward on them leaves it as it was.

    With `learning` they take gradients, which the module's own never see.
    """
    tensors: dict[str, Tensor] = {
        name: parameter.detach().requires_grad_(learning and parameter.requires_grad)
        for name, parameter in module.named_parameters()
    }
    tensors.update((name, buffer.clone()) for name, buffer in module.named_buffers())
    return tensors


class _Holder(nn.Module):
    """A module whose forward calls a function that runs the host: what `functional_call` can lend tensors to."""

    def __init__(self, host: nn.Module) -> None:
        super().__init__()
        self.host = host

    def forward(self, function: Callable[[], _Result]) -> _Result:
        return function()


def on_borrowed(host: nn.Module, function: Callable[[], _Result], *, learning: bool = False) -> _Result:
    """What `function` gives, which runs the host by whatever name it has it, while the host's tensors are borrowed."""
    lent = {f"host.{name}": tensor for name, tensor in borrowed(host, learning=learning).items()}
    found: _Result = functional_call(_Holder(host), lent, (function,))
    return found


def _output_ratio(seed: Seed, h: Tensor, s: Tensor) -> Tensor:
    """Norm of what the seed adds over the host's: of f(h) for a residual seed s = h + f(h), else of s. No axes."""
    with torch.no_grad():
        added = s - h if seed.residual else s
        ratio: Tensor = torch.linalg.vector_norm(added) / torch.linalg.vector_norm(h).clamp_min(1e-12)
    return ratio
