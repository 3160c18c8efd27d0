"""Runs given to MLflow's tracking and taken from it: a database file, or a server."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from esper.errors import InvalidInput
from projections.interchange.figures import Taken
from projections.interchange.foreign import Foreign, Measured
from projections.interchange.libraries import library

EXTRA: Final = "mlflow"
EXPERIMENT: Final = "esper"
DATABASE: Final = "mlflow.db"
OF_RUN: Final = "esper.run_id"
"""The tag by which a run is found again."""
_METRICS, _NAMES, _VALUE = 1000, 100, 6000
"""What MLflow takes in one request: metrics, tags or parameters; and the characters of a parameter."""
_STATUS: Final = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "running": "RUNNING"}

_Item = TypeVar("_Item")


def address(place: str) -> str:
    """A tracking address: as given, or the database of a folder."""
    if "://" in place:
        return place
    path = Path(place)
    file = path if path.suffix == ".db" else path / DATABASE
    return f"sqlite:///{file.absolute()}"


def write(run: Taken, place: str) -> str:
    """Write the run to the experiment `esper` at `place`; MLflow's own id of it.

    A metric's step is its epoch or its optimiser step, as its axis is. Raises InvalidInput where MLflow is not
    installed, the place cannot be written, or has this run.
    """
    entities, at = library("mlflow.entities", EXTRA), address(place)
    if at.startswith("sqlite:///"):
        Path(at.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    with _asked(at) as client:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        experiment_id = client.create_experiment(EXPERIMENT) if experiment is None else experiment.experiment_id
        if client.search_runs([experiment_id], f"tags.`{OF_RUN}` = '{run.run_id}'", max_results=1):
            raise InvalidInput(f"{place} has run {run.run_id} already, and an export overwrites nothing")
        started_ms, ended_ms = run.started_ns // 1_000_000, run.ended_ns // 1_000_000
        made = client.create_run(experiment_id, start_time=started_ms, run_name=run.label, tags=dict(run.tags))
        name = made.info.run_id
        params = [entities.Param(key, str(value)[:_VALUE]) for key, value in run.settings.items()]
        metrics = [entities.Metric(each.name, each.value, each.time_ns // 1_000_000, each.at) for each in run.points]
        for some in _parts(params, _NAMES):
            client.log_batch(name, params=some)
        for each in _parts(metrics, _METRICS):
            client.log_batch(name, metrics=each)
        if run.notes:
            lines = [f"epoch {each.epoch}, step {each.step}, {each.name}: {each.text}" for each in run.notes]
            client.set_tag(name, "mlflow.note.content", "\n\n".join(lines))
        client.set_terminated(name, _STATUS.get(run.status, "FAILED"), ended_ms)
    return str(name)


def read(place: str) -> Foreign:
    """All runs at a tracking address, with every value of every metric. Raises InvalidInput as above."""
    runs, measured = list[dict[str, Any]](), list[Measured]()
    at = address(place)
    if at.startswith("sqlite:///") and not Path(at.removeprefix("sqlite:///")).is_file():
        raise InvalidInput(f"{place} holds no database of MLflow's; name its folder, its .db file or its address")
    with _asked(at) as client:
        experiments = {each.experiment_id: each.name for each in client.search_experiments()}
        for run in _all_runs(client, list(experiments)):
            info, data = run.info, run.data
            runs.append(
                {
                    "source": "mlflow",
                    "run": info.run_id,
                    "name": info.run_name or "",
                    "experiment": experiments[info.experiment_id],
                    "status": info.status.lower(),
                    "started_ns": 1_000_000 * (info.start_time or 0),
                    "settings": dict(data.params),
                    "tags": dict(data.tags),
                }
            )
            for name in data.metrics:
                for each in client.get_metric_history(info.run_id, name):
                    value = float(each.value)
                    measured.append(Measured("mlflow", info.run_id, name, each.step, 1_000_000 * each.timestamp, value))
    return Foreign(runs, [each for each in measured if not math.isnan(each.value)])


def _all_runs(client: Any, experiments: list[str]) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs(experiments, max_results=_METRICS, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def _asked(at: str) -> Iterator[Any]:
    """A client of what is at that address; its errors are raised as InvalidInput."""
    errors = library("mlflow.exceptions", EXTRA)
    tracking = library("mlflow.tracking", EXTRA)
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table that it makes
    try:
        yield tracking.MlflowClient(tracking_uri=at)
    except (errors.MlflowException, OSError, ImportError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidInput(f"MLflow's tracking at {at} cannot be used: {said}") from None


def _parts(items: Sequence[_Item], most: int) -> Iterator[Sequence[_Item]]:
    for begin in range(0, len(items), most):
        yield items[begin : begin + most]
