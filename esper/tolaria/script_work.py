"""The work of a person's own script: their model, probe and loop; and a run made of what they bring.

Nothing of the script's is drawn from or changed: extra passes run on borrowed tensors and on random streams of their
own, the optimiser holds seeds for the length of a step only, and the modes of the modules are the person's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from shutil import which
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

from contracts.leyline.v1.event_pb2 import Metric as MetricMessage
from contracts.leyline.v1.event_pb2 import RunStarted, Script, SiteDescription
from esper.errors import InvalidInput
from esper.karn.catalogue import offer
from esper.kasmina.absorb import Options
from esper.kasmina.gates import Loss
from esper.kasmina.passes import Closure
from esper.kasmina.sites import Stream, describe_sites, device_of, drawing_from, evaluating
from esper.kasmina.sites_auto import SiteNames, choose_sites
from esper.metric import Figure, Metric, check_metrics
from esper.tolaria.config import RunConfig
from esper.tolaria.data import RandomStreams
from esper.tolaria.encoded import own_streams, set_own_streams
from esper.tolaria.new_run import assembled, clearance_of, find_pool, make_kasmina, stateful
from esper.tolaria.own_code import defined_at
from esper.tolaria.own_optimizer import OWN, FollowedRates, OwnOptimizer
from esper.tolaria.run import Run, Stateful
from esper.tolaria.script import SOURCE
from esper.tolaria.tasks.task import ACCURACY, UNKNOWN_STEPS, Evaluation
from esper.tolaria.world import World

Probe = Callable[[nn.Module], Any]
"""Takes the model; gives the loss of each of N samples, (N,), or these and a dictionary of metrics by name."""

LOSS: Final = Metric("loss", lower_is_better=True)
"""What a run is measured by whose script names nothing else."""
_UNKNOWN: Final = Loss.of(torch.tensor([float("nan")]))


class _Enough(BaseException):
    """The model has been run once."""


@dataclass(slots=True)
class ScriptWork:
    """What a script brings, as the engine sees it.

    `model` is what the person calls, `probe` and `test` are called with it. `recorded` are the facts of the script's
    file, and `data_fingerprint` is there once a batch was seen. `evidence_samples` and `probe_samples` are known once a
    batch and a probe were seen.
    """

    name: str
    model: nn.Module
    probe_function: Probe
    metrics: Sequence[Metric] = ()
    compiled: bool = False
    replica: DistributedDataParallel | None = None
    recorded: Script | None = None
    steps_per_epoch: int = 0
    probe_samples: int = 1
    evidence_samples: int = 1
    train_samples: int = 0
    data_fingerprint: str = ""
    _last: Closure | None = field(default=None, init=False)
    _test: Probe | None = field(default=None, init=False)
    _tested: Evaluation | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        check_metrics(self.metrics, f"run {self.name}")
        self.metrics = tuple(self.metrics) or (LOSS,)

    @contextmanager
    def eagerly(self) -> Iterator[None]:
        """Within, passes are no steps: a compiled model runs its own code, DDP waits for no gradients.

        Hooks and borrowed tensors are not what it was compiled for.
        """
        with ExitStack() as stack:
            if self.compiled:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            if self.replica is not None:
                stack.enter_context(self.replica.no_sync())
            yield

    def aside(self, closure: Closure) -> Closure:
        """The closure in a pass that is no step."""

        def eager() -> Tensor:
            with self.eagerly():
                return closure()

        return eager if self.compiled or self.replica is not None else closure

    def stepped(self, closure: Closure) -> None:
        """Keep the closure: evidence is of its batch."""
        self._last = closure

    def samples(self, batch: Any) -> int:
        """The length of the first tensor in the batch, whatever it is nested in; 1 for a batch without one."""
        first = batch[0] if type(batch) in (tuple, list) and batch else batch
        # What most loaders give is looked at without a search: this is asked of every batch.
        length = first.shape[0] if type(first) is Tensor and first.ndim else _length(batch)
        self.evidence_samples = length or 1
        return self.evidence_samples

    def forward(self, host: nn.Module) -> object:
        """Run the model once, as the probe does first."""

        def stop(_module: nn.Module, _inputs: Any, _output: Any) -> None:
            raise _Enough

        handle = host.register_forward_hook(stop)
        try:
            with self.eagerly():
                return self.probe_function(self.model)
        except _Enough:
            return None
        finally:
            handle.remove()

    def probe(self, host: nn.Module) -> Evaluation:
        """What the person's probe gives, in evaluation mode and without gradient; its random numbers are its own."""
        found = self._figures(self.probe_function, host)
        self.probe_samples = found.loss.per_sample.numel()
        return found

    def evidence(self, host: nn.Module) -> Closure:  # noqa: ARG002 - the closure runs it
        """The last batch's loss; in a loop that gives no closures that of the probe."""
        return self.aside(self._last or self._probe_loss)

    def _probe_loss(self) -> Tensor:
        with _streams_kept():
            found = self.probe_function(self.model)
        losses: Tensor = found[0] if isinstance(found, tuple) else found
        return losses.mean()

    def report(self, host: nn.Module, test: Probe) -> Evaluation:
        """The figures of the test, which are kept for the run's end."""
        self._test = test
        self._tested = self._figures(test, host, alone=True)
        return self._tested

    def test(self, host: nn.Module) -> Evaluation:
        """What `report` gave, and then the test's figures of the host as it is; without a report no number."""
        if self._test is None:
            return Evaluation(_UNKNOWN, float("nan"))
        found, self._tested = self._tested, None
        return found or self._figures(self._test, host, alone=True)

    def _figures(self, function: Probe, host: nn.Module, *, alone: bool = False) -> Evaluation:
        """The figures of a probe or test; with `alone` metrics without a loss are enough."""
        aside = drawing_from(Stream(0, device_of(host)), keep=False)
        with torch.no_grad(), self.eagerly(), evaluating(host), aside, _streams_kept():
            found = function(self.model)
        losses, others = found if isinstance(found, tuple) and len(found) == 2 else (found, {})
        if alone and isinstance(found, Mapping):
            values = {str(name): _value(name, value) for name, value in found.items()}
            figures = tuple(self._metric(name).of(value) for name, value in values.items())
            return Evaluation(_UNKNOWN, _accuracy(figures), figures)
        if not isinstance(losses, Tensor) or losses.dim() != 1 or not len(losses):
            raise InvalidInput(
                f"{_at(function)}{_named(function)} gave {_shown(losses)}; it must give one loss for each sample, a "
                "tensor of shape (N,), such as that of a loss with reduction='none', or (losses, {'mae': ...})"
            )
        if not isinstance(others, Mapping):
            raise InvalidInput(f"{_named(function)} gave {_shown(others)} beside the losses; it must be a dictionary")
        loss = Loss.of(losses.detach().float().cpu())
        values = {str(name): _value(name, value) for name, value in others.items()} | {LOSS.name: loss.mean}
        for name in values:
            self._metric(name)
        figures = tuple(each.of(values[each.name]) for each in self.metrics if each.name in values)
        return Evaluation(loss, _accuracy(figures), figures)

    def _metric(self, name: str) -> Metric:
        for metric in self.metrics:
            if metric.name == name:
                return metric
        if name in (LOSS.name, ACCURACY.name):
            return LOSS if name == LOSS.name else ACCURACY
        known = ", ".join(metric.name for metric in self.metrics) or "none"
        raise InvalidInput(
            f"the probe gave a metric {name!r}, and the run's metrics are {known}: declare it, such as "
            f"metrics=[esper.Metric({name!r}, lower_is_better=True)]"
        )

    def source_code(self) -> Sequence[bytes]:
        """Nothing: the script's sources are objects already."""
        return ()

    def started(self, host: nn.Module) -> RunStarted:  # noqa: ARG002 - a script's samples are not known to cost anything
        """Name, script, and metrics."""
        return RunStarted(
            task=self.name,
            task_source=SOURCE,
            train_samples=self.train_samples,
            probe_samples=self.probe_samples,
            script=self.recorded,
            data_fingerprint=self.data_fingerprint,
            metrics=[
                MetricMessage(name=each.name, unit=each.unit, lower_is_better=each.lower_is_better)
                for each in self.metrics
            ],
        )


def _length(batch: Any) -> int:
    """The length of the first tensor with axes in a batch; 0 where there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 0
    if isinstance(batch, (list, tuple, Mapping)):
        for each in batch.values() if isinstance(batch, Mapping) else batch:
            if found := _length(each):
                return found
        return 0
    # What else holds tensors (a data class, a library's own kind of batch) torch may know how to open.
    return next((len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()), 0)


@contextmanager
def _streams_kept() -> Iterator[None]:
    """Python's and numpy's random streams are afterwards where they were."""
    before = own_streams()
    try:
        yield
    finally:
        set_own_streams(before)


def _named(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


def _at(function: Callable[..., Any]) -> str:
    """The line of a person's function, for the beginning of a message about it."""
    place = defined_at(function)
    return "" if place is None else f"{place}: "


def _shown(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _value(name: object, value: Any) -> float:
    try:
        return float(value.double().mean() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidInput(f"metric {name!r} is {_shown(value)}; it must be a number or a tensor") from None


def _accuracy(figures: Sequence[Figure]) -> float:
    """The metric called accuracy as a share of 0 to 1; not a number where there is none."""
    found = next((each for each in figures if each.name == "accuracy"), None)
    return float("nan") if found is None else found.value / (100.0 if found.unit == "%" else 1.0)


def replica_of(model: nn.Module) -> DistributedDataParallel | None:
    """The replica that a model is, or that is the first in it; None where it is trained by one process."""
    return next((each for each in model.modules() if isinstance(each, DistributedDataParallel)), None)


_SHARDED: Final = {"FullyShardedDataParallel", "FSDPModule"}
"""What FSDP makes of a model, or mixes into its class or a part's: by name, because their module is slow to import."""


def plain_model(model: nn.Module) -> tuple[nn.Module, bool]:
    """The module behind a compiled or otherwise wrapped model, and whether a compiler looks at it or at a part of it.

    Raises InvalidInput for a model whose graph must be whole, for one that TorchScript has compiled, and for one that
    inductor is to compile for a CPU where there is no C++ compiler: its own error comes at the first step.
    """
    compiled = any(hasattr(each, "_orig_mod") or each._compiled_call_impl is not None for each in model.modules())  # noqa: SLF001 - there is no public way to ask
    cxx = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if compiled and device_of(model).type == "cpu" and any(map(_by_inductor, model.modules())) and not which(cxx):
        raise InvalidInput(
            f"the model is compiled by torch.compile's inductor, which needs a C++ compiler on a CPU, and there is no "
            f"{cxx}: install one, name yours in CXX, or compile with backend='eager'"
        )
    if any(base.__name__ in _SHARDED for each in model.modules() for base in type(each).__mro__):
        raise InvalidInput(
            "the model is sharded by FSDP, whose parameters no seed can follow: use DistributedDataParallel, or no "
            "sharding"
        )
    while isinstance(inner := _wrapped(model), nn.Module):
        context = getattr(model, "dynamo_ctx", None)
        if getattr(context, "fullgraph", False) or getattr(context, "nopython", False):
            raise InvalidInput(
                "the model is compiled with fullgraph=True, and the hook of a seed cannot be part of its graph: "
                "compile it without"
            )
        model = inner
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise InvalidInput(
                f"{name or 'the model'} is compiled by TorchScript, which ignores the hooks of seeds: give the module "
                "itself, or compile it with torch.compile"
            )
    return model, compiled


def _by_inductor(module: nn.Module) -> bool:
    """Whether inductor compiles a module: of torch's compilers it alone has a configuration to show."""
    told = (getattr(each, "get_compiler_config", None) for each in (module, module._compiled_call_impl))  # noqa: SLF001 - as above
    return any(each() is not None for each in told if each is not None)


def _wrapped(model: nn.Module) -> Any:
    """The module that a compiled model or a replica wraps."""
    return model.module if isinstance(model, DistributedDataParallel) else getattr(model, "_orig_mod", None)


@dataclass(frozen=True, slots=True)
class Brought:
    """What a script brings to its run; `clip_norm` None clips nothing, `accumulate` counts the batches of a step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    sites: SiteNames
    probe: Probe
    metrics: Sequence[Metric] = ()
    scheduler: Stateful | None = None
    scaler: torch.amp.GradScaler | None = None
    loader: Any = None
    accumulate: int = 1
    script: Script | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch as far as the loader says it; 0 where it does not."""
        try:
            return -(-len(self.loader) // self.accumulate) if self.loader is not None else 0
        except TypeError:
            return 0

    def stateful(self) -> dict[str, Stateful]:
        """What has a state of its own beside model and optimiser."""
        return stateful(scheduler=self.scheduler, scaler=self.scaler, loader=self.loader)


def _described(
    work: ScriptWork, host: nn.Module, brought: Brought, axes: Sequence[str], options: Options
) -> list[SiteDescription]:
    """The sites that the script names, as one pass of its probe reaches them."""
    forward = partial(work.forward, host)
    with _streams_kept(), work.eagerly():
        wanted = choose_sites(host, forward, brought.sites, tuples=True) if brought.sites else ()
        return describe_sites(host, [site for site in wanted if site.axis in axes], forward, options)


def make_script_run(config: RunConfig, brought: Brought, world: World, *, run_id: str) -> Run:
    """The run of a script at step 0, with nothing published yet.

    `config` has the script's epochs. Draws nothing from a random stream of the script's. Raises InvalidInput for a site
    that does not fit, for a probe that does not give one loss for each sample, and as `make_run` does for a pool.
    """
    host, compiled = plain_model(brought.model)
    pool, clearance = find_pool(config), clearance_of(config)
    replica = replica_of(brought.model)
    # Wider layers are other parameters than a compiled graph, or DDP's buckets, were made for.
    axes = ("depth",) if compiled or replica is not None else config.axes
    device = device_of(host)
    rate = float(brought.optimizer.param_groups[0]["lr"])
    config = replace(config, pool=pool, axes=axes, device=str(device), optimizer=OWN, rate_policy=OWN)
    config = config.resolved(epochs=1, batch_size=1, learning_rate=max(rate, 1e-12))
    steps = brought.steps_per_epoch
    work = ScriptWork(
        name=config.task,
        model=brought.model,
        probe_function=brought.probe,
        metrics=brought.metrics,
        compiled=compiled,
        replica=replica,
        recorded=brought.script,
        steps_per_epoch=steps,
    )
    options = partial(offer, pool=pool, dossier=config.dossier, clearance=clearance, sheet_risk=config.sheet_risk)
    described = _described(work, host, brought, axes, options)
    config = replace(config, dossier=config.dossier.of(pool, {site.shape_kind for site in described}))
    if described and not any(site.options for site in described):
        raise InvalidInput(f"nothing of pool {', '.join(pool)} serves a site of {config.task}; name another")
    random = RandomStreams(config.seed, device)
    work.probe(host)
    kasmina = make_kasmina(
        config, host, described, world, options, steps_per_epoch=steps or UNKNOWN_STEPS, seed=random.seeds["seeds"]
    )
    if compiled:
        kasmina.expect_compiler()
    optimizer = OwnOptimizer(
        brought.optimizer,
        places=lambda seed_id: list(host.get_submodule(kasmina.sites()[seed_id].site).parameters()),
        monotonic=world.outside.clock.monotonic,
    )
    run = assembled(
        config,
        work,
        world,
        host,
        kasmina,
        run_id=run_id,
        random=random,
        device=device,
        steps_per_epoch=steps or UNKNOWN_STEPS,
        optimizer=optimizer,
        rates=FollowedRates(
            optimizer,
            new_parameter_rate=config.new_parameter_rate,
            warmup_steps=lambda: round(config.new_parameter_warmup_epochs * run.steps_per_epoch),
        ),
    )
    run.scaler, run.accumulate, run.brought = brought.scaler, brought.accumulate, brought.stateful()
    run.shared = replica is not None
    run.own_streams, run.compiled, run.guarded = True, compiled, config.policy != "none"
    return run
