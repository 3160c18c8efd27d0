"""Runs given to TensorBoard and taken from it, by its own writer and reader: no TensorFlow is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from esper.errors import InvalidInput
from projections.interchange.figures import Taken
from projections.interchange.foreign import Foreign, Measured
from projections.interchange.libraries import library

EXTRA: Final = "tensorboard"
_FILES: Final = "*tfevents*"
_NUMBERS: Final = frozenset({1, 2, 3, 9})
"""Of its types of tensors: float, double, int32 and int64."""


def write(run: Taken, folder: Path) -> int:
    """Write `folder` as one of TensorBoard's runs; how many values it has.

    A figure's step is its epoch or its optimiser step, as its axis is; its time the record's. What happened to seeds
    and what was decided is text, at the optimiser step. Raises InvalidInput where TensorBoard is not installed.
    """
    make = _Events()
    writer = library("tensorboard.summary.writer.event_file_writer", EXTRA).EventFileWriter(str(folder))
    try:
        settings = "\n".join(f"| {name} | {value} |" for name, value in sorted(run.settings.items()))
        writer.add_event(make.text("settings", f"| setting | value |\n|---|---|\n{settings}", 0, run.started_ns))
        for point in run.points:
            writer.add_event(make.scalar(point.name, point.value, point.at, point.time_ns))
        for note in run.notes:
            writer.add_event(make.text(note.name, note.text, note.step, note.time_ns))
    finally:
        writer.close()
    return 1 + len(run.points) + len(run.notes)


class _Events:
    """TensorBoard's messages."""

    def __init__(self) -> None:
        self._event = library("tensorboard.compat.proto.event_pb2", EXTRA).Event
        self._summary = library("tensorboard.compat.proto.summary_pb2", EXTRA).Summary
        self._tensor = library("tensorboard.compat.proto.tensor_pb2", EXTRA).TensorProto
        self._shape = library("tensorboard.compat.proto.tensor_shape_pb2", EXTRA).TensorShapeProto
        self._types = library("tensorboard.compat.proto.types_pb2", EXTRA)
        self._text = library("tensorboard.plugins.text.metadata", EXTRA)
        self._told: set[str] = set()

    def scalar(self, tag: str, value: float, step: int, time_ns: int) -> Any:
        """A figure, which TensorBoard keeps in single precision."""
        return self._of(self._summary.Value(tag=tag, simple_value=value), step, time_ns)

    def text(self, tag: str, text: str, step: int, time_ns: int) -> Any:
        """Markdown; the first of a tag says that it is text."""
        tensor = self._tensor(
            dtype=self._types.DT_STRING,
            string_val=[text.encode()],
            tensor_shape=self._shape(dim=[self._shape.Dim(size=1)]),
        )
        meta = None if tag in self._told else self._text.create_summary_metadata(tag, "")
        self._told.add(tag)
        return self._of(self._summary.Value(tag=tag, tensor=tensor, metadata=meta), step, time_ns)

    def _of(self, value: Any, step: int, time_ns: int) -> Any:
        return self._event(wall_time=time_ns / 1e9, step=step, summary=self._summary(value=[value]))


def read(folder: Path) -> Foreign:
    """The runs below TensorBoard's log folder, with every figure in them.

    Raises InvalidInput where TensorBoard is not installed or there is no run.
    """
    loader = library("tensorboard.backend.event_processing.event_file_loader", EXTRA)
    tensors = library("tensorboard.util.tensor_util", EXTRA)
    files = sorted(folder.rglob(_FILES)) if folder.is_dir() else []
    if not files:
        raise InvalidInput(f"{folder} holds no runs of TensorBoard's; name its log folder")
    began, measured = dict[str, float](), list[Measured]()
    for file in files:
        run = file.parent.relative_to(folder).as_posix()
        for event in loader.EventFileLoader(str(file)).Load():
            began[run] = min(began.get(run, event.wall_time), event.wall_time)
            for value in event.summary.value:
                if value.HasField("tensor") and value.tensor.dtype in _NUMBERS and not value.tensor.tensor_shape.dim:
                    number = float(tensors.make_ndarray(value.tensor))
                    measured.append(
                        Measured("tensorboard", run, value.tag, event.step, round(1e9 * event.wall_time), number)
                    )
    runs = [
        {
            "source": "tensorboard",
            "run": run,
            "name": run,
            "experiment": folder.name,
            "status": "",
            "started_ns": round(1e9 * at),
            "settings": {},
            "tags": {},
        }
        for run, at in began.items()
    ]
    return Foreign(runs, measured)
