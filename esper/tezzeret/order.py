"""What passes between the forge and a child: an order goes in, a report or a failure comes out, all as small files.

A child works in a folder of its own. The order is there before it starts; the report is written last and renamed into
place, so a folder with a report is complete whatever happened to whoever waited for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from esper.tezzeret.jobs import Job

ORDER_FILE: Final = "order.json"
FAILURE_FILE: Final = "failure.json"
REFUSED: Final = "refused"
"""The kind of a failure that no repetition can change, such as a template that nobody approved."""


@dataclass(frozen=True, slots=True)
class Order:
    """One attempt at a job. `requested` is the pipeline that was asked for, `pipeline` the one that this attempt is."""

    job_id: str
    blueprint_id: str
    shape_kind: str
    shape: tuple[int, ...]
    parameters: Mapping[str, float]
    requested: str
    pipeline: str
    attempt: int
    memory_bytes: int
    approved: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. `kind` is refused, memory, timeout or error; `reason` is one line."""

    kind: str
    reason: str


def order_of(job: Job, pipeline: str, memory_bytes: int, *, approved: bool) -> Order:
    """The order for the next attempt at `job`."""
    return Order(
        job_id=job.job_id,
        blueprint_id=job.blueprint_id,
        shape_kind=job.shape_kind,
        shape=job.shape,
        parameters=dict(job.parameters),
        requested=job.pipeline,
        pipeline=pipeline,
        attempt=job.next_attempt,
        memory_bytes=memory_bytes,
        approved=approved,
    )


def write_order(folder: Path, order: Order) -> None:
    """Leave the order for the child."""
    write_whole(folder / ORDER_FILE, json.dumps(asdict(order)).encode())


def read_order(folder: Path) -> Order:
    """The order that the forge left."""
    values: dict[str, Any] = json.loads((folder / ORDER_FILE).read_bytes())
    return Order(**{**values, "shape": tuple(values["shape"])})


def write_failure(folder: Path, failure: Failure) -> None:
    """Leave the reason for the forge."""
    write_whole(folder / FAILURE_FILE, json.dumps(asdict(failure)).encode())


def read_failure(folder: Path) -> Failure | None:
    """The reason that the child left; None where it left none, as when it was killed."""
    try:
        return Failure(**json.loads((folder / FAILURE_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, and durable when this returns."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
