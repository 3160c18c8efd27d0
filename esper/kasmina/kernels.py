"""Where a seed's kernel comes from, as Kasmina asks: the library's, a reason why it cannot be had, or the template.

A module's weights are always the run's own, drawn from the seed's stream (docs/decisions/0009): what the library gives
is a verified artifact, whose guard the module must fit. So a module that was built because the library had nothing yet
is the same, bit for bit, and no result depends on how fast the forge was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from torch import Tensor, nn

from contracts.leyline.v1.event_pb2 import SiteDescription

BATCH: Final = "batch"
"""What a guard writes for the batch axis."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A kernel of the library that this process has checked: its reference and the guard of its manifest."""

    artifact_ref: str
    guard: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Unusable:
    """The library has a kernel and it cannot be used; `reason` is one word, `detail` one line."""

    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


Form = Callable[[Tensor], Tensor]
"""A seed's forward in another form: the same function of an activation, over the module's own parameters."""


class Compiled(Protocol):
    """The compiled form of a kernel that the library has, ready to be made for a module."""

    @property
    def artifact_ref(self) -> str:
        """Of the artifact that it comes from."""

    def form_of(self, module: nn.Module, h: Tensor) -> Form:
        """The form for `module`, used on activations like `h`; raises EsperError where it cannot be had."""


class Kernels(Protocol):
    """Asked between two steps, so it never waits."""

    def find(
        self, blueprint_id: str, site: SiteDescription, parameters: Mapping[str, float]
    ) -> Verified | Unusable | None:
        """The kernel of a blueprint for a site and settings; None where the library has none that is known of."""


class TemplatesAlone:
    """A library that has nothing: every module is built from its template."""

    def find(
        self, _blueprint_id: str, _site: SiteDescription, _parameters: Mapping[str, float]
    ) -> Verified | Unusable | None:
        """Nothing."""
        return None


def misfit(kernel: Verified, module: nn.Module, site: SiteDescription) -> Unusable | None:
    """What a guard says against attaching `module` at `site`: another activation, another tensor, another layout."""
    activation = [BATCH, *site.shape]
    for entry in kernel.guard:
        if entry["role"] != "state" and entry.get("shape") != activation:
            detail = f"{entry['role']} is {entry.get('shape')}, the site gives {activation}"
            return Unusable("shape_mismatch", f"{kernel.artifact_ref}: {detail}")
    guarded = {entry["name"]: _layout(entry) for entry in kernel.guard if entry["role"] == "state"}
    found = {
        name: [list(tensor.shape), list(tensor.stride()), str(tensor.dtype).removeprefix("torch.")]
        for name, tensor in module.state_dict().items()
    }
    others = sorted(name for name in found.keys() | guarded if found.get(name) != guarded.get(name))
    if others:
        return Unusable("guard_mismatch", f"{kernel.artifact_ref} guards other tensors: {', '.join(others)}")
    return None


def _layout(entry: Mapping[str, Any]) -> list[Any]:
    return [entry.get("shape"), entry.get("stride"), entry.get("dtype")]
