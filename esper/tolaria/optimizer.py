"""One torch optimiser whose groups come and go with the seeds, while the survivors keep their state (R-TOL-17)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from google.protobuf.message import Message
from torch import Tensor, nn

from contracts.leyline.v1.event_pb2 import OptimizerChanged
from esper.kasmina.absorb import Part
from esper.kasmina.width import joined

HOST: Final = "host"
_BETAS: Final = {"exp_avg": 0, "exp_avg_sq": 1}
"""The moments that Adam counts the steps of, and which of its betas they decay by."""
_SQUARES: Final = ("_sq", "square_avg", "sum")
"""Ends of the names of second moments."""


class GroupedOptimizer:
    """AdamW or SGD over the group `host` and one group per seed that is or was trainable and is still attached.

    A seed that pauses (SHADOWING, a frozen fossil) keeps its group and state; its parameters just have no gradient.
    """

    def __init__(
        self,
        kind: str,
        host: Sequence[nn.Parameter],
        *,
        rate: float,
        weight_decay: float,
        momentum: float,
        monotonic: Callable[[], float],
    ) -> None:
        self.kind = kind
        self.rebuilds = 0
        self._monotonic = monotonic
        first = [{"params": list(host), "name": HOST}]
        # Fused kernels update a group in one call: on small networks a loop over tensors costs more than the sums.
        self.torch: torch.optim.Optimizer = (
            torch.optim.AdamW(first, lr=rate, weight_decay=weight_decay, fused=True)
            if kind == "adamw"
            else torch.optim.SGD(first, lr=rate, weight_decay=weight_decay, momentum=momentum, fused=True)
        )
        self._parked: list[nn.Parameter] = []

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The groups of torch's optimiser, each with its `name`."""
        return self.torch.param_groups

    @property
    def names(self) -> list[str]:
        """The groups' names, host first."""
        return [group["name"] for group in self.groups]

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Within, torch's optimiser holds the groups of all seeds, as it always does here."""
        yield

    def zero_grad(self) -> None:
        """Leave no parameter with a gradient; torch's own does this at the price of a dozen calls more."""
        for group in self.torch.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient and belongs to a group that may learn now."""
        for parameter in self._parked:
            parameter.grad = None
        self.torch.step()

    def sync(
        self, trainable: Mapping[str, Sequence[nn.Parameter]], modules: Mapping[str, nn.Module]
    ) -> list[OptimizerChanged]:
        """Hold the seeds' parameters that Kasmina names now; returns what changed, in the order it changed.

        `trainable` are the seeds that may learn, `modules` all that are attached; a group of a detached seed goes with
        its state. Whatever fails, the optimiser is as it was before.
        """
        before = [dict(group) for group in self.groups]
        state_before = dict(self.torch.state)
        started = self._monotonic()
        try:
            changes = self._sync(trainable, modules)
        except BaseException:
            self.torch.param_groups[:] = before
            self.torch.state.clear()
            self.torch.state.update(state_before)
            raise
        active = {id(parameter) for parameters in trainable.values() for parameter in parameters}
        self._parked = [each for group in self.groups[1:] for each in group["params"] if id(each) not in active]
        if changes:
            self.rebuilds += 1
        duration_ms = 1e3 * (self._monotonic() - started)
        for change in changes:
            change.duration_ms = duration_ms
        return changes

    def _sync(
        self, trainable: Mapping[str, Sequence[nn.Parameter]], modules: Mapping[str, nn.Module]
    ) -> list[OptimizerChanged]:
        changes = []
        for group in self.groups[1:]:
            name, held = group["name"], group["params"]
            still = {id(parameter) for parameter in modules[name].parameters()} if name in modules else set()
            if not all(id(parameter) in still for parameter in held):
                self.groups[:] = [each for each in self.groups if each is not group]
                for parameter in held:
                    self.torch.state.pop(parameter, None)
                changes.append(self._changed("group_removed", name, held))
        for name, parameters in trainable.items():
            if name not in self.names and parameters:
                self.torch.add_param_group({"params": list(parameters), "name": name})
                changes.append(self._changed("group_added", name, parameters))
        return changes

    def absorb(self, parts: Sequence[Part]) -> list[OptimizerChanged]:
        """Let the state of parameters that became larger grow with them; returns what changed, before `sync` does more.

        The entries that a seed's parameter gave bring its state along. Torch counts the steps of a whole tensor, and
        the host's has taken more than the seed's, so Adam's moments are rescaled: with the count t of the host's tensor
        and s of the seed's,

            m' = m (1 - beta1^t) / (1 - beta1^s)        v' = v (1 - beta2^t) / (1 - beta2^s)

        Then m' / (1 - beta1^t) and v' / (1 - beta2^t), which is all that a step looks at, are what they were under the
        seed's own count: young moments are not taken for old ones, whose second moment would be too small by a factor
        of up to 1000 and the step too large by one of up to 30. Entries without a state of their own (a seed that never
        took a step, zeros beside it) begin with m' = 0 and the mean second moment of the tensor that they join: with 0
        their first step would be 3.2 times the learning rate. A momentum of SGD has no count, and is joined as it is.
        """
        changes: dict[str, int] = {}
        for part in parts:
            state = self._state_of(part.parameter)
            if state:
                own = self._state_of(part.joined) if part.joined is not None else {}
                group = next(each for each in self.groups if any(held is part.parameter for held in each["params"]))
                for name, added in _moments(part, state, own, group).items():
                    state[name] = joined([state[name], added], part.axis, part.sections)
            if part.joined is not None:
                changes[HOST] = changes.get(HOST, 0) + part.joined.numel()
        return [
            OptimizerChanged(change="absorbed", optimizer=self.kind, group=name, parameters=count)
            for name, count in changes.items()
        ]

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        """The state of one parameter, empty where it has none."""
        found: dict[str, Any] = self.torch.state.get(parameter, {})
        return found

    def set_hyperparameter(self, group: str, name: str, value: float) -> Message:
        """Change one setting of one group, not its learning rate: that has its own controller."""
        chosen = self.groups[self.names.index(group)]
        chosen[name] = value
        change = self._changed("hyperparameters", group, chosen["params"])
        change.hyperparameters[name] = value
        return change

    def state(self) -> dict[str, Any]:
        """Settings and state of every group; parameters are numbered within their group."""
        return {
            "kind": self.kind,
            "groups": [
                {
                    "name": group["name"],
                    "settings": {key: value for key, value in group.items() if key not in ("params", "name")},
                    "state": {
                        str(number): dict(self.torch.state[parameter])
                        for number, parameter in enumerate(group["params"])
                        if parameter in self.torch.state
                    },
                }
                for group in self.groups
            ],
        }

    def load_state(self, state: dict[str, Any], modules: Mapping[str, nn.Module]) -> None:
        """Take over `state`, where `modules` are the seeds attached now: their parameters are those of its groups."""
        host = self.groups[0]
        self.torch.param_groups[:] = [host]
        self.torch.state.clear()
        for saved in state["groups"]:
            name = saved["name"]
            if name == HOST:
                group = host
            else:
                self.torch.add_param_group({"params": list(modules[name].parameters()), "name": name})
                group = self.groups[-1]
            group.update({key: _tuple(value) for key, value in saved["settings"].items()})
            for number, values in saved["state"].items():
                parameter = group["params"][int(number)]
                self.torch.state[parameter] = {key: _own(value) for key, value in values.items()}

    def _changed(self, change: str, group: str, parameters: Sequence[nn.Parameter]) -> OptimizerChanged:
        count = sum(parameter.numel() for parameter in parameters)
        return OptimizerChanged(change=change, optimizer=self.kind, group=group, parameters=count)


def _moments(
    part: Part, state: Mapping[str, Any], own: Mapping[str, Any], group: Mapping[str, Any]
) -> dict[str, Tensor]:
    """What the state of a parameter has more along the part's axis, by name."""
    found: dict[str, Tensor] = {}
    for name, kept in state.items():
        if not isinstance(kept, Tensor) or kept.dim() != part.parameter.dim():
            continue  # a count of steps, or a momentum that has not begun
        beta = _BETAS.get(name)
        shape = [*kept.shape]
        shape[part.axis] = part.added
        if own.get(name) is None:
            fresh = kept.new_zeros(shape)
            found[name] = fresh + kept.mean() if name.endswith(_SQUARES) else fresh
        elif beta is None or "betas" not in group:
            found[name] = own[name]
        else:
            decay = group["betas"][beta]
            found[name] = own[name] * ((1 - decay ** float(state["step"])) / (1 - decay ** float(own["step"])))
    return found


def _own(value: Any) -> Any:
    """A copy, so that the optimiser's in-place updates leave the stored state alone."""
    return value.clone() if isinstance(value, Tensor) else value


def _tuple(value: Any) -> Any:
    """JSON knows no tuples, and Adam's betas are one."""
    return tuple(value) if isinstance(value, list) else value
