"""`esper run --profile`: what a run spends its time on, as one trace that Perfetto and Chrome open.

It has two parts on one time axis: what torch's profiler saw of the first steps of each epoch and of all that lies
between two epochs, with Esper's spans around it; and Esper's own tracks over the whole run, those spans again and the
stages of every seed. What the run computes is the same, bit for bit. Imported where a run is profiled, nowhere else.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile, record_function

from contracts.leyline.v1.leyline_pb2 import SEED_LIFECYCLE_STAGE_DORMANT
from esper.kasmina.lifecycle import name as stage_name
from esper.leyline.envelope import Event
from esper.leyline.signing import Signed
from esper.tolaria.outside import EPOCHS_END, Answer, Clock, Log, Outside

STEPS_OF_AN_EPOCH: Final = 20
"""Of each epoch torch's operators are recorded for so many steps: the others look like these."""
MOST_STEPS: Final = 400
"""... and of a run for so many: a step of a small network has some 300 operators, and each keeps about a kilobyte."""
_TRACK: Final = "Esper"
_TRAINING: Final = "training"
_EVENTS: Final = b'"traceEvents": ['
_BASE: Final = b'"baseTimeNanoseconds":'
_HEAD_BYTES: Final = 1 << 16

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Slice:
    """A span of one of Esper's own tracks: its name, and when it began and ended, Unix nanoseconds."""

    track: str
    name: str
    began_ns: int
    ended_ns: int


class Profile:
    """The profile of one run, from entering it to leaving it, in the thread that trains; then `file` is written.

    `outside` is what the run is to be given in place of its own. A file that cannot be written is logged and costs the
    run nothing.
    """

    def __init__(self, clock: Clock, file: Path) -> None:
        self.file = file
        self._monotonic = clock.monotonic
        self._zero_ns = clock.wall_ns() - round(1e9 * clock.monotonic())
        self._slices: list[_Slice] = []
        self._stages: dict[str, _Slice] = {}
        self._depth = self._steps = self._in_epoch = 0
        self._runs = self._collects = False
        self._torch = profile(activities=[ProfilerActivity.CPU])
        self._unhook: Callable[[], None] = lambda: None

    def outside(self, outside: Outside) -> Outside:
        """The same outside, watched."""
        return replace(outside, log=_WatchedLog(outside.log, self), span=self.span)

    @contextlib.contextmanager
    def span(self, name: str) -> Iterator[None]:
        """A stretch of the run on Esper's track, and among torch's operators where those are recorded."""
        began = self._now_ns()
        if name == EPOCHS_END:
            self._collect(self._steps < MOST_STEPS)  # what lies between two epochs, and the first steps of the next
            self._in_epoch = 0
        # The outermost spans last longer than operators are recorded at a stretch.
        among = record_function(f"esper: {name}") if self._depth and self._collects else contextlib.nullcontext()
        self._depth += 1
        try:
            with among:
                yield
        finally:
            self._depth -= 1
            self._slices.append(_Slice(_TRAINING, name, began, self._now_ns()))

    def see(self, event: Event) -> None:
        """Note what is published: a seed that goes on to another stage."""
        if not event.HasField("seed_transitioned"):
            return
        now, body = self._now_ns(), event.seed_transitioned
        if (before := self._stages.pop(body.seed_id, None)) is not None:
            before.ended_ns = now
            self._slices.append(before)
        if body.to_stage != SEED_LIFECYCLE_STAGE_DORMANT:
            name = f"{stage_name(body.to_stage)} {body.blueprint_id}".rstrip()
            self._stages[body.seed_id] = _Slice(body.seed_id, name, now, now)

    def _stepped(self, *_: Any) -> None:
        """A step was taken; called by torch after each of any optimiser."""
        self._in_epoch += 1
        if self._collects:
            self._steps += 1
            self._collect(self._in_epoch < STEPS_OF_AN_EPOCH and self._steps < MOST_STEPS)

    def _collect(self, wanted: bool) -> None:  # noqa: FBT001 - as torch's own
        if self._runs and wanted != self._collects:
            self._collects = wanted
            self._torch.toggle_collection_dynamic(wanted, [ProfilerActivity.CPU])

    def _now_ns(self) -> int:
        return self._zero_ns + round(1e9 * self._monotonic())

    def __enter__(self) -> Self:
        self._torch.start()
        self._runs = self._collects = True
        self._unhook = register_optimizer_step_post_hook(self._stepped).remove
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._unhook()
        now = self._now_ns()
        for each in self._stages.values():
            each.ended_ns = now
        self._slices += self._stages.values()
        self._torch.stop()
        self._runs = self._collects = False
        try:
            self._write()
        except (OSError, ValueError, RuntimeError) as failure:
            logger.warning("the profile cannot be written to %s: %s", self.file, failure)

    # --------------------------------------------------------------------------------------------------------- the file

    def _write(self) -> None:
        """Torch's trace with Esper's tracks before it, packed."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.file.parent, prefix=".profile-") as folder:
            seen, made = Path(folder) / "torch.json", Path(folder) / self.file.name
            self._torch.export_chrome_trace(str(seen))
            with seen.open("rb") as source, gzip.open(made, "wb", compresslevel=5) as packed:
                _join(source, self._tracks, packed)  # type: ignore[arg-type]  # a GzipFile is a binary file
            made.replace(self.file)

    def _tracks(self, base_ns: int, pid: int) -> Iterator[dict[str, Any]]:
        """Esper's tracks as Chrome's trace events; times are microseconds since `base_ns`."""
        tracks = [_TRAINING, *sorted({each.track for each in self._slices} - {_TRAINING})]
        yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": _TRACK}}
        yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": -1}}
        for tid, track in enumerate(tracks):
            yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": track}}
        for each in sorted(self._slices, key=lambda each: (each.track, each.began_ns, -each.ended_ns)):
            begins_us, lasts_us = (each.began_ns - base_ns) / 1e3, (each.ended_ns - each.began_ns) / 1e3
            place = {"pid": pid, "tid": tracks.index(each.track), "ts": begins_us, "dur": lasts_us}
            yield {"ph": "X", "cat": "esper", "name": each.name, **place}


def _join(source: BinaryIO, tracks: Callable[[int, int], Iterator[dict[str, Any]]], to: BinaryIO) -> None:
    """Write the trace `source` to `to` with the events of `tracks` first; text is copied and never parsed.

    A trace may have gigabytes. Raises ValueError where it is no trace as torch writes one.
    """
    head = source.read(_HEAD_BYTES)
    before, found, after = head.partition(_EVENTS)
    if not found:
        raise ValueError("torch wrote a trace without traceEvents")
    base = before.partition(_BASE)[2].partition(b",")[0].strip()
    ours = ",\n".join(json.dumps(each) for each in tracks(int(base or b"0"), 0))
    to.write(before + found + ours.encode() + b",\n" + after)
    shutil.copyfileobj(source, to)


class _WatchedLog:
    """A trainer's log whose waiting and publishing are spans of a profile."""

    def __init__(self, log: Log, seen: Profile) -> None:
        self._log = log
        self._profile = seen

    def publish(self, event: Event) -> None:
        """As the log does."""
        self._profile.see(event)
        self._log.publish(event)

    def flush(self, timeout_s: float = 30.0) -> None:
        """As the log does."""
        with self._profile.span("log waited for"):
            self._log.flush(timeout_s)

    def claim(self, event: Event) -> None:
        """As the log does."""
        with self._profile.span("run claimed"):
            self._log.claim(event)

    def await_answer(self, packet_id: bytes, timeout_s: float) -> Answer | None:
        """As the log does."""
        with self._profile.span("decision waited for"):
            return self._log.await_answer(packet_id, timeout_s)

    def take_commands(self) -> list[Signed]:
        """As the log does."""
        return self._log.take_commands()

    def await_command(self, timeout_s: float) -> None:
        """As the log does."""
        self._log.await_command(timeout_s)

    def shed(self) -> int:
        """As the log does."""
        return self._log.shed()
