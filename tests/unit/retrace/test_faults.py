"""What the machine lacks interrupts a run, which goes on once that is mended; what the model raises is its end."""

from __future__ import annotations

import errno

import pytest
import torch

from esper.errors import Interrupted
from esper.leyline.objects import ObjectStore
from esper.record import replay
from esper.testing import REAL_CLOCK
from esper.tolaria.config import RunConfig
from esper.tolaria.machine import fault_of_machine
from esper.tolaria.outside import Outside
from esper.tolaria.tasks.task import cross_entropy
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld
from tests.unit.retrace.lives import Scripted, tiny

SHORT = {"seed": 3, "epochs": 3}
NO_ROOM = OSError(errno.ENOSPC, "No space left on device")


class Raising:
    """A loss that raises at one call, counted over calls with gradient or over those without."""

    def __init__(self, error: Exception, *, call: int, probe: bool = False) -> None:
        self._error = error
        self._left = call
        self._probe = probe

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() is not self._probe:
            self._left -= 1
            if not self._left:
                raise self._error
        return cross_entropy(logits, targets)


class FullAfter(ObjectStore):
    """A store on a disk that has room for so many objects."""

    room: float = float("inf")

    def put(self, content: bytes, *, compress: bool = False) -> str:
        """Store it, if there is room."""
        self.room -= 1
        if self.room < 0:
            raise NO_ROOM
        return super().put(content, compress=compress)


def check_goes_on(lived, other) -> None:
    """It was interrupted; resumed it ends as the run that met nothing, and its whole history can be lived again."""
    (end,) = lived.log.bodies("run_finished")
    assert end.status == "interrupted"
    assert lived.replay().diverged is None, "before it goes on: what is on record is what happens again"
    lived.resume()
    assert lived.digests() == other.digests()
    state = replay(event for event in lived.log.events if event.sequence)
    assert (state.problem, state.status) == (None, "completed")
    assert lived.replay().diverged is None


@pytest.mark.parametrize(
    ("error", "call", "probe"),
    [
        (MemoryError(), 5, False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 3, True),
    ],
)
def test_a_fault_of_the_machine_interrupts_a_run_that_then_goes_on(lived, other, error, call, probe):
    other.train(**SHORT)
    with pytest.raises(Interrupted, match=r"run run was interrupted at step \d+: ") as raised:
        lived.train(**SHORT, task=tiny(per_sample_loss=Raising(error, call=call, probe=probe)))

    assert "\n" not in str(raised.value)
    check_goes_on(lived, other)


@pytest.mark.parametrize("room", [5, 6, 7])
def test_a_full_disk_interrupts_a_run_wherever_it_wants_to_write(lived, other, room):
    other.train(**SHORT)
    lived.objects = FullAfter(lived.objects.root)
    lived.objects.room = room
    with pytest.raises(Interrupted, match="No space left on device"):
        lived.train(**SHORT)
    lived.objects.room = float("inf")

    check_goes_on(lived, other)


class Unwritten(Scripted):
    """A log that has what was published once it was flushed."""

    written = 0

    def flush(self, timeout_s: float = 30.0) -> None:
        """Everything is there now."""
        super().flush(timeout_s)
        self.written = len(self.events)


class Watched(ObjectStore):
    """A store that notes how many checkpoints the log had when one was deleted."""

    log: Unwritten

    def delete(self, reference: str) -> int:
        """Delete it."""
        on_log = [event for event in self.log.events[: self.log.written] if event.HasField("checkpoint_saved")]
        assert reference not in {event.checkpoint_saved.ref for event in on_log[-2:]}, "the newest two are kept"
        assert on_log[-1] == [event for event in self.log.events if event.HasField("checkpoint_saved")][-1]
        return super().delete(reference)


def test_an_old_checkpoint_goes_only_when_the_log_has_the_new_one(tmp_path):
    objects = Watched(tmp_path / "objects")
    objects.log = Unwritten(objects, {})
    config = RunConfig(task="tiny", policy="none", keep_checkpoints=2, epochs=6)
    train(config, tiny(), LiveWorld(Outside(objects.log, REAL_CLOCK, objects)), run_id="run")

    assert len(objects.log.bodies("checkpoint_pruned")) > 3


@pytest.mark.parametrize("call", [4, 5], ids=["in a step", "at an epoch's end"])
@pytest.mark.parametrize("again", [True, False])
def test_a_model_that_raises_is_its_runs_end_and_it_goes_on_once_that_is_mended(lived, again, call):
    """Replayed it is compared up to there, whether it raises again or not."""
    with pytest.raises(ZeroDivisionError):
        lived.train(**SHORT, task=tiny(per_sample_loss=Raising(ZeroDivisionError("of a person"), call=call)))
    (end,) = lived.log.bodies("run_finished")
    task = tiny(per_sample_loss=Raising(ZeroDivisionError("of a person"), call=call)) if again else None

    assert (end.status, end.reason) == ("failed", "ZeroDivisionError: of a person")
    replayed = lived.replay(task=task)
    assert (replayed.diverged, replayed.facts) == (None, len(lived.recorded().facts))

    lived.resume()
    state = replay(event for event in lived.log.events if event.sequence)
    assert (state.problem, state.status, lived.replay().diverged) == (None, "completed", None)


def test_a_run_whose_full_disk_was_recorded_as_a_failure_once_goes_on_too(lived):
    lived.train(**SHORT, policy="none")
    (end,) = lived.log.bodies("run_finished")
    end.status, end.reason = "failed", "OSError: [Errno 28] No space left on device"
    lived.resume()

    state = replay(event for event in lived.log.events if event.sequence)
    assert (state.problem, state.status) == (None, "completed")


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), False),
        (ValueError("out of memory"), False),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("CUDA error: the launch timed out and was terminated"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_what_is_the_machines_fault_and_what_the_models(error, found):
    assert bool(fault_of_machine(error)) is found
    wrapped = RuntimeError("while saving")
    wrapped.__cause__ = error

    assert bool(fault_of_machine(wrapped)) is found
