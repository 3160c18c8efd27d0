"""A person's own optimiser, of any class: seeds join it for the length of each step and are gone again after it.

Between two steps the optimiser is as the person made it, so a scheduler that keeps an entry for each group, and
`state_dict`, see what they saw before anything grew. Within a step the seeds are groups of it with the settings of the
host's group that they follow: whatever a scheduler has put there counts for them too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from google.protobuf.message import Message
from torch import Tensor, nn

from contracts.leyline.v1.event_pb2 import LearningRateChanged, OptimizerChanged
from esper.errors import CorruptState, InvalidInput
from esper.record.fold import NEW_PARAMETERS
from esper.tolaria.encoded import decode, encode
from esper.tolaria.learning_rate import rising
from esper.tolaria.optimizer import HOST, GroupedOptimizer

OWN: Final = "own"
"""The optimiser and the rate policy of a run whose script brings both."""
_HELD: Final = frozenset({"params", "param_names", "name"})

Places = Callable[[str], Sequence[nn.Parameter]]
"""A seed's id to the parameters of the host's module that it grows behind."""


class OwnOptimizer(GroupedOptimizer):
    """Around `optimizer`, whose groups are called host, host.2, host.3 and so on.

    A seed follows the group that holds most of the parameters of the module that it grows behind, or else the first.
    Raises InvalidInput for what is no torch optimiser.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, places: Places, monotonic: Callable[[], float]) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise InvalidInput(f"optimizer is a {type(optimizer).__name__}; it must be a torch.optim.Optimizer")
        self.kind = type(optimizer).__name__
        self.rebuilds = 0
        self.torch = optimizer
        self._monotonic = monotonic
        self._places = places
        self._parked: list[nn.Parameter] = []
        self._seeds: list[dict[str, Any]] = []
        self._followed: dict[str, int] = {}
        self._states: dict[Tensor, Any] = {}
        self._hooks: list[Any] = []

    @property
    def hosts(self) -> list[dict[str, Any]]:
        """The groups that the person made."""
        if not self._seeds:
            return self.torch.param_groups
        seeds = {id(group) for group in self._seeds}
        return [group for group in self.torch.param_groups if id(group) not in seeds]

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The person's groups, then those of seeds, which alone have a `name`."""
        return [*self.hosts, *self._seeds]

    @property
    def names(self) -> list[str]:
        """The groups' names, host first."""
        hosts = [HOST if not number else f"{HOST}.{number + 1}" for number in range(len(self.hosts))]
        return [*hosts, *(group["name"] for group in self._seeds)]

    def followed(self, name: str) -> dict[str, Any]:
        """The person's group that a group follows: its own where it is one of theirs."""
        hosts = self.hosts
        number = self._followed.get(name)
        return hosts[min(self.names.index(name) if number is None else number, len(hosts) - 1)]

    def zero_grad(self) -> None:
        """Leave no parameter with a gradient."""
        for group in self.groups if self._seeds else self.torch.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def step(self) -> None:
        """Take the optimiser's step."""
        self.park()
        self.torch.step()

    def park(self) -> None:
        """Leave no gradient with the seeds that may not learn now."""
        for parameter in self._parked:
            parameter.grad = None

    # ------------------------------------------------------------------------------------------------ joining a step

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Within, the seeds are groups of the optimiser."""
        self.join()
        try:
            yield
        finally:
            self.leave()

    def join(self, *_step: Any) -> None:
        """Make the seeds groups of the optimiser, until `leave`."""
        known = {id(group) for group in self.torch.param_groups}
        self.torch.param_groups.extend(group for group in self._seeds if id(group) not in known)
        self.torch.state.update(self._states)

    def leave(self, *_step: Any) -> None:
        """Take the seeds out again, with the state that they have now."""
        self.torch.param_groups[:] = list(self.hosts)
        for group in self._seeds:
            for parameter in group["params"]:
                if parameter in self.torch.state:
                    self._states[parameter] = self.torch.state.pop(parameter)

    def _hold_hooks(self) -> None:
        """Join whatever calls the optimiser's step, as long as there are seeds."""
        if self._seeds and not self._hooks:
            self._hooks = [
                self.torch.register_step_pre_hook(self.join),
                self.torch.register_step_post_hook(self.leave),
            ]
        elif not self._seeds:
            while self._hooks:
                self._hooks.pop().remove()

    def sync(
        self, trainable: Mapping[str, Sequence[nn.Parameter]], modules: Mapping[str, nn.Module]
    ) -> list[OptimizerChanged]:
        """As for a task's optimiser."""
        started = self._monotonic()
        changes: list[OptimizerChanged] = []
        for group in list(self._seeds):
            name, held = group["name"], group["params"]
            still = {id(parameter) for parameter in modules[name].parameters()} if name in modules else set()
            if not all(id(parameter) in still for parameter in held):
                self._seeds = [each for each in self._seeds if each is not group]
                self._followed.pop(name, None)
                for parameter in held:
                    self._states.pop(parameter, None)
                changes.append(self._changed("group_removed", name, held))
        held_now = {group["name"] for group in self._seeds}
        for name, parameters in trainable.items():
            if name not in held_now and parameters:
                self._add(name, parameters)
                changes.append(self._changed("group_added", name, parameters))
        active = {id(parameter) for parameters in trainable.values() for parameter in parameters}
        self._parked = [each for group in self._seeds for each in group["params"] if id(each) not in active]
        self._hold_hooks()
        self.rebuilds += bool(changes)
        for change in changes:
            change.duration_ms = 1e3 * (self._monotonic() - started)
        return changes

    def _add(self, name: str, parameters: Sequence[nn.Parameter]) -> None:
        place = {id(each) for each in self._places(name)}
        shares = [sum(each.numel() for each in group["params"] if id(each) in place) for group in self.hosts]
        self._followed[name] = max(range(len(shares)), key=shares.__getitem__)
        self._seeds.append({"params": list(parameters), "name": name})
        self.follow(self._seeds[-1])

    def follow(self, group: dict[str, Any]) -> None:
        """Give a seed's group the settings that its host's group has now."""
        host = self.followed(group["name"])
        for key, value in host.items():
            if key not in _HELD:
                group[key] = value.clone() if isinstance(value, Tensor) else value
        if "param_names" in host:
            group["param_names"] = [f"{group['name']}.{number}" for number in range(len(group["params"]))]

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        found: dict[str, Any] = self._states.get(parameter) or self.torch.state.get(parameter, {})
        return found

    def set_hyperparameter(self, group: str, name: str, value: float) -> Message:
        """Change one setting of a group; raises InvalidInput for a setting that the optimiser does not have."""
        if name not in self.followed(group):
            raise InvalidInput(f"optimiser {self.kind} has no {name}")
        return super().set_hyperparameter(group, name, value)

    # ---------------------------------------------------------------------------------------------- saving, restoring

    def state(self) -> dict[str, Any]:
        """Settings and state of every group; parameters are numbered within their group."""
        return {
            "kind": self.kind,
            "groups": [
                {
                    "name": name,
                    "settings": {
                        key: encode(value, f"optimizer group {name}[{key!r}]")
                        for key, value in group.items()
                        if key not in _HELD
                    },
                    "state": {
                        str(number): encode(dict(state), f"optimizer state of {name}.{number}")
                        for number, parameter in enumerate(group["params"])
                        if (state := self._state_of(parameter))
                    },
                }
                for name, group in zip(self.names, self.groups, strict=True)
            ],
        }

    def load_state(self, state: dict[str, Any], modules: Mapping[str, nn.Module]) -> None:
        """Take over `state`, where `modules` are the seeds attached now; CorruptState for other groups of the host."""
        self.leave()
        hosts = self.hosts
        saved = state["groups"]
        if [each["name"] for each in saved[: len(hosts)]] != self.names[: len(hosts)]:
            raise CorruptState(f"the optimiser has {len(hosts)} groups; the saved state is of others")
        self._seeds, self._followed = [], {}
        self._states.clear()
        self.torch.state.clear()
        for number, each in enumerate(saved):
            if number < len(hosts):
                group = hosts[number]
            else:
                self._add(each["name"], list(modules[each["name"]].parameters()))
                group = self._seeds[-1]
            held: dict[Tensor, Any] = self.torch.state if number < len(hosts) else self._states
            group.update({key: decode(value) for key, value in each["settings"].items()})
            for position, values in each["state"].items():
                held[group["params"][int(position)]] = decode(values)
        self._hold_hooks()


class FollowedRates:
    """The rates of seeds in a person's optimiser: their host group's, times a factor and the warm-up of new parameters.

    What the person's scheduler writes is the rate. Where Esper lowers one, after a rollback or at a command, the
    optimiser takes its step at a share of it, and the group has the scheduler's own rate again afterwards.
    """

    policy: Final = OWN

    def __init__(self, optimizer: OwnOptimizer, *, new_parameter_rate: float, warmup_steps: Callable[[], int]) -> None:
        self._optimizer = optimizer
        self._new_start = new_parameter_rate
        self._warmup_steps = warmup_steps
        self._factors: dict[str, float] = {}
        self._all = self._told = 1.0
        self._born: dict[str, int] = {}
        self._nominal: list[tuple[dict[str, Any], Any]] = []

    def add(self, group: str, factor: float, step: int) -> list[LearningRateChanged]:
        """Take on the rate of a group of new parameters, `factor` times its host's, warming up from `step`."""
        self._factors[group] = factor * self._all
        self._born[group] = step
        return [self._change(group, 0.0, self.rate(group, step), NEW_PARAMETERS)]

    def remove(self, group: str) -> None:
        """Forget a group that the optimiser no longer holds."""
        self._factors.pop(group, None)
        self._born.pop(group, None)

    def rate(self, group: str, step: int) -> float:
        """The rate of a group at this step."""
        return float(self._optimizer.followed(group)["lr"]) * self._share(group, step)

    def _share(self, group: str, step: int) -> float:
        share = self._factors.get(group, self._all)
        if group in self._born:
            share *= rising(step - self._born[group], self._warmup_steps(), self._new_start)
        return share

    def scale(self, factor: float, reason: str, step: int) -> list[LearningRateChanged]:
        """Multiply the rate of every group, now and for the rest of the run; new groups are not spared."""
        names = self._optimizer.names
        before = {name: self.rate(name, step) for name in names}
        self._all *= factor
        self._factors = {name: share * factor for name, share in self._factors.items()}
        return [self._change(name, before[name], self.rate(name, step), reason) for name in names]

    def untold(self, group: str, step: int) -> float:
        """The rate that a group would have at this step had nobody told anything."""
        return self.rate(group, step) / self._told

    def tell(self, share: float, reason: str, step: int) -> list[LearningRateChanged]:
        """Let every rate be `share` of what it would be had nobody told anything; said twice it does no more."""
        before, self._told = self._told, share
        return self.scale(share / before, reason, step) if share != before else []

    def set_base(self, group: str, base: float, reason: str, step: int) -> LearningRateChanged:
        """Give one group the share of the scheduler's rate that makes it `base` now."""
        nominal = float(self._optimizer.followed(group)["lr"])
        if not base > 0 or not nominal > 0:
            raise InvalidInput(f"no learning rate {base} for group {group!r}, whose scheduler has it at {nominal}")
        old = self.rate(group, step)
        self._factors[group] = base / nominal
        return self._change(group, old, self.rate(group, step), reason)

    def limit(self, group: str, share: float, reason: str, step: int) -> list[LearningRateChanged]:
        """Lower one group to `share` of the scheduler's rate; no change where it is not above that."""
        old, held = self.rate(group, step), self._factors.get(group, self._all)
        if held <= share:
            return []
        self._factors[group] = share
        return [self._change(group, old, self.rate(group, step), reason)]

    @property
    def steady(self) -> bool:
        """Whether all rates are the scheduler's own, and nobody undoes what is written to them."""
        return not self._factors and self._all == 1.0

    def begin_step(self, _groups: object, step: int) -> list[LearningRateChanged]:
        """Give the groups of the optimiser their rates of this step."""
        if self.steady:
            return []
        optimizer = self._optimizer
        for name, group in zip(optimizer.names, optimizer.groups, strict=True):
            if name in self._born:
                optimizer.follow(group)
                group["lr"] = group["lr"] * self._share(name, step)
            elif (share := self._share(name, step)) != 1.0:
                self._nominal.append((group, group["lr"]))
                group["lr"] = group["lr"] * share
        return []

    def end_step(self) -> None:
        """Give the person's groups the rates back that they had."""
        while self._nominal:
            group, rate = self._nominal.pop()
            group["lr"] = rate

    def state(self) -> dict[str, Any]:
        """Everything that decides the shares from now on."""
        state = {"all": self._all, "factors": dict(self._factors), "born": dict(self._born)}
        return state | ({"told": self._told} if self._told != 1.0 else {})

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._all, self._factors, self._born = state["all"], dict(state["factors"]), dict(state["born"])
        self._told = state.get("told", 1.0)

    def _change(self, group: str, old: float, new: float, reason: str) -> LearningRateChanged:
        return LearningRateChanged(group=group, old_lr=old, new_lr=new, policy=self.policy, reason=reason)
