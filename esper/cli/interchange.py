"""`esper export --as`: a run and its control for TensorBoard, MLflow, W&B, OpenTelemetry or Elasticsearch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from esper.cli.history import find_run, history_of
from esper.cli.output import one_line, say, say_json
from esper.errors import InvalidInput

if TYPE_CHECKING:
    from projections.history import History
    from projections.interchange.figures import Taken

Form = Literal["esper", "tensorboard", "mlflow", "wandb", "otlp", "elasticsearch"]


@dataclass(frozen=True, slots=True)
class Way:
    """How a run goes to another tool: where to by default, what takes it, and what a person does next."""

    place: str
    give: Callable[[History, Taken, str], None]
    next: str


def _to_tensorboard(_: History, run: Taken, place: str) -> None:
    from projections.interchange import tensorboard  # noqa: PLC0415 - each form only where it is asked for

    folder = Path(place) / run.run_id
    if folder.exists():
        raise InvalidInput(f"{folder} exists, and an export overwrites nothing; name another folder with --to")
    tensorboard.write(run, folder)


def _to_mlflow(_: History, run: Taken, place: str) -> None:
    from projections.interchange import mlflow  # noqa: PLC0415

    mlflow.write(run, place)


def _to_wandb(_: History, run: Taken, place: str) -> None:
    from projections.interchange import wandb  # noqa: PLC0415

    folder = Path(place)
    if any(folder.glob(f"wandb/offline-run-*-{run.run_id}")):
        raise InvalidInput(f"{folder} has run {run.run_id} already, and an export overwrites nothing; choose with --to")
    wandb.write(run, folder)


def _to_otlp(history: History, run: Taken, place: str) -> None:
    from projections.interchange import otlp  # noqa: PLC0415

    otlp.send(history, run, place)


def _to_elasticsearch(history: History, run: Taken, place: str) -> None:
    from projections.interchange.elastic import Sink  # noqa: PLC0415
    from projections.run_queries import EventReader  # noqa: PLC0415

    password = os.environ.get("ELASTIC_PASSWORD", "")
    Sink(place, password, monotonic=time.monotonic, sleep=time.sleep).push(EventReader(history, run.run_id).new())


WAYS: Final[dict[Form, Way]] = {
    "tensorboard": Way("esper-tensorboard", _to_tensorboard, "tensorboard --logdir {place}"),
    "mlflow": Way("esper-mlflow", _to_mlflow, "mlflow ui --backend-store-uri {address}"),
    "wandb": Way("esper-wandb", _to_wandb, "wandb sync {place}/wandb/offline-run-*     (sends it to W&B)"),
    "otlp": Way("http://127.0.0.1:4318", _to_otlp, ""),
    "elasticsearch": Way("http://127.0.0.1:9200", _to_elasticsearch, ""),
}


def export_as(data_dir: Path, word: str, form: Form, to: str | None, *, as_json: bool) -> None:
    """Give a run, and the runs that it is compared with, to another tool; raises InvalidInput for what cannot be."""
    from projections.export import family  # noqa: PLC0415 - only needed here
    from projections.interchange.figures import taken  # noqa: PLC0415 - as above

    way = WAYS[form]
    place = way.place if to is None else to
    with history_of(data_dir) as history:
        runs = [taken(history, run_id) for run_id in family(history, find_run(history, word))]
        for run in runs:
            way.give(history, run, place)
    told = [{"run_id": run.run_id, "values": len(run.points), "notes": len(run.notes)} for run in runs]
    if as_json:
        say_json({"as": form, "to": place, "runs": told})
        return
    names = " and ".join(run.run_id for run in runs)
    say(one_line(f"{names}: {sum(len(run.points) for run in runs):,} values to {place}"))
    if way.next:
        say("\ntry next")
        say(one_line(f"  {way.next.format(place=place, address=_address(form, place))}"))


def _address(form: Form, place: str) -> str:
    if form != "mlflow":
        return place
    from projections.interchange.mlflow import address  # noqa: PLC0415 - of that form alone

    return address(place)
