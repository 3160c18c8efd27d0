"""`esper.grow`: growth in a person's own training loop, in this process.

    with esper.grow(model, optimizer, probe=probe_fn, epochs=20) as run:
        for epoch in run.epochs():
            for batch in run.batches(loader):
                loss = run.step(lambda: criterion(model(batch["x"]), batch["y"]))
        run.report(test_fn)
    model = esper.load(run.run_id, model=Net())

Here its arguments are checked; the session that it gives is in `growth.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from esper.errors import InvalidInput
from esper.kasmina.settings import SeedSettings
from esper.kasmina.sites_auto import SiteNames
from esper.leyline.names import checked, meant
from esper.metric import Metric
from esper.tolaria import appointed
from esper.tolaria.config import RunConfig
from esper.tolaria.own_code import caller
from esper.tolaria.run import Stateful
from esper.tolaria.script_work import Brought, Probe
from esper.weatherlight.growth import AUTO, Growth
from streams.settings import Settings


def grow(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    probe: Probe,
    epochs: int,
    sites: SiteNames = AUTO,
    name: str | None = None,
    data_dir: str | Path | None = None,
    scheduler: Stateful | None = None,
    scaler: torch.amp.GradScaler | None = None,
    loader: Iterable[Any] | None = None,
    metrics: Sequence[Metric] = (),
    accumulate: int = 1,
    clip_norm: float | None = None,
    log: str | None = AUTO,
    policy: str = "heuristic",
    lifecycle: str | None = None,
    seed: int = 0,
    run_id: str | None = None,
    config: Mapping[str, Any] | None = None,
    profile: bool = False,
) -> Growth:
    """A run that trains and grows `model` in the caller's own loop.

    Used as a context, it is over when that is left, and an error on the way is told to the history; else `report` ends
    it.

    `probe(model)` gives the loss of each of N samples, shape (N,), or these and a dictionary of metrics: what gates and
    policies look at; the same samples each time, called in evaluation mode without gradient. `optimizer` is any torch
    optimiser, `scheduler` what the caller steps as always, `scaler` a GradScaler, `loader` the batches; their states
    are part of the run's, and `len(loader)` tells the steps of an epoch before there was one. `sites` are "auto",
    submodules' names, patterns or `Site`s. `accumulate` batches make a step, whose gradient norm is clipped to
    `clip_norm`, if at all. `epochs` counts those that `run.epochs()` gives.

    `log` "auto" joins the processes of `data_dir` (ESPER_DATA, or ./esper-data), or starts them; HOST:PORT is a log
    elsewhere; with None decisions are made in this process and the history is written into the archive directly.
    `policy` "none" grows nothing: the weights are bit for bit those of the same script without Esper. `seed` is of
    seeds and decisions. `config` has further fields of `RunConfig`, `seeds` among them as a dictionary.
    With `profile` a trace for Perfetto is written to `profiles/` of the data folder.

    Raises InvalidInput for what does not fit, with the line of the caller's file where one can be named.
    """
    where = caller()
    values = dict(config or {})
    seeds = {**values.pop("seeds", {}), **({} if lifecycle is None else {"lifecycle": lifecycle})}
    if accumulate < 1:
        raise InvalidInput(f"accumulate is {accumulate}; it must be 1 or more")
    if not isinstance(model, nn.Module) or not isinstance(optimizer, torch.optim.Optimizer):
        given = f"a {type(model).__name__} and a {type(optimizer).__name__}"
        raise InvalidInput(f"model and optimizer are {given}; give a nn.Module and a torch.optim.Optimizer")
    if not callable(probe):
        raise InvalidInput(f"probe is a {type(probe).__name__}; it must be a function of the model")
    _check_known(values, seeds)
    made = RunConfig(
        task=name or _own_name(),
        seed=seed,
        policy=policy,  # type: ignore[arg-type]  # checked by the configuration
        epochs=epochs,
        threads=torch.get_num_threads(),
        clip_norm=clip_norm,
        measuring_share=None,
        count_attention=values.pop("count_attention", True),
        seeds=SeedSettings(**seeds),
        **values,
    )
    new_id = checked(run_id, "run_id") if run_id is not None else _new_id()
    appointment, call = appointed.take(), appointed.count(new_id)
    settings = Settings.load(data=Path(data_dir) if data_dir is not None else None)
    brought = Brought(
        model=model,
        optimizer=optimizer,
        sites=sites,
        probe=probe,
        metrics=tuple(metrics),
        scheduler=scheduler,
        scaler=scaler,
        loader=loader,
        accumulate=accumulate,
    )
    return Growth(
        brought,
        made,
        run_id=new_id,
        settings=settings,
        log=settings.brokers if log == AUTO and settings.brokers else log,
        where=where,
        appointment=appointment,
        call=call,
        profile=profile,
    )


def _check_known(values: Mapping[str, Any], seeds: Mapping[str, Any]) -> None:
    known = set(RunConfig.__dataclass_fields__)
    for unknown in sorted(set(values) - known):
        listed = f"the fields are {', '.join(sorted(known))}"
        raise InvalidInput(f"config has {unknown!r}, which does not exist; {meant(unknown, known, listed)}")
    settings = set(SeedSettings.__dataclass_fields__)
    for unknown in sorted(set(seeds) - settings):
        raise InvalidInput(
            f"config['seeds'] has {unknown!r}, which does not exist; "
            f"{meant(unknown, settings, 'its settings are ' + ', '.join(sorted(settings)))}"
        )


def _own_name() -> str:
    """The name of the script that runs."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(path).stem if path else "script"


def _new_id() -> str:
    from esper.cli.history import new_run_id  # noqa: PLC0415 - it brings DuckDB along

    return new_run_id()
