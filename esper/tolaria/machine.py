"""The machine that a run is trained on: what its bits depend on, how one on record differs, and what it may lack.

Every incarnation of a run says in its claim what it computes with: two of one run may have had different processors.
"""

from __future__ import annotations

import errno
import hashlib
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import safetensors
import torch
from torch import distributed

import esper
from contracts.leyline.v1.event_pb2 import Machine, RunStarted, TrainerProcess
from esper.leyline.envelope import Event, body_of
from esper.record.accept import CLAIMS
from esper.record.recorded import NO_ROOM

_OF_THE_MACHINE: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ESTALE}
)
_DEVICE: Final = ("CUDA error:", "HIP error:", "out of memory")
_RANK: Final = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")
"""What gloo says where another process of the group is gone."""
_OF_A_KERNEL: Final = ("device-side assert", "illegal", "misaligned", "invalid argument", "invalid configuration")
"""CUDA errors that a model's own code makes, every time."""


def library_versions() -> dict[str, str]:
    """The versions that are recorded."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
    }


def this_machine(device: str, process: TrainerProcess | None = None) -> Machine:
    """What this process computes with; call it with as many threads set as the run is to have."""
    return Machine(
        esper_version=esper.__version__,
        library_versions=library_versions(),
        torch_build=hashlib.sha256(torch.__config__.show().encode()).hexdigest()[:16],
        processor=_processor(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        device=device,
        process=process,
    )


def _processor() -> str:
    """The model of the processor, as Linux names it, or else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def machine_of(claim: Event) -> Machine | None:
    """The machine of an incarnation, by its claim; None where an older record does not say it."""
    body = body_of(claim)
    if body.HasField("machine"):
        return body.machine  # type: ignore[no-any-return]
    if not isinstance(body, RunStarted):
        return None
    return Machine(
        esper_version=body.esper_version,
        library_versions=body.library_versions,
        cpu_capability=body.cpu_capability,
        threads=body.threads,
        device=body.device,
    )


def differences(facts: Sequence[Event], fingerprint: str) -> list[str]:
    """How this process and its data differ from those that trained a run with these facts, in one line each.

    `fingerprint` is of the data; empty where it is not known, and then nothing is said of it.
    A difference in any of these may change every bit. Of an incarnation that went on with the run the line says from
    which step on; what an older record does not say is left out.
    """
    begun = facts[0].run_started
    found = list(_differing({"data": begun.data_fingerprint[:16]}, {"data": fingerprint[:16]} if fingerprint else {}))
    ours, before = _values(this_machine("")), [""]
    for claim in (fact for fact in facts if fact.WhichOneof("body") in CLAIMS):
        machine = machine_of(claim)
        lines = [] if machine is None else list(_differing(_values(machine), ours))
        if lines == before:
            continue
        since = f"from step {claim.global_step} on " if claim.global_step else ""
        found += [f"{since}{line}" for line in lines]
        before = lines
    return found


def unrecorded(facts: Sequence[Event]) -> str:
    """What an older record does not say of its machine, in one line with what this one has; empty where it says all."""
    claims = (fact for fact in facts if fact.WhichOneof("body") in CLAIMS)
    if all(body_of(claim).HasField("machine") for claim in claims):
        return ""
    ours = this_machine("")
    return f"processor and torch build are not on record; here they are {ours.processor} and {ours.torch_build}"


def _values(machine: Machine) -> dict[str, str]:
    values = {
        "esper": machine.esper_version,
        **machine.library_versions,
        "torch build": machine.torch_build,
        "processor": machine.processor,
        "CPU capability": machine.cpu_capability,
        "threads": str(machine.threads),
    }
    return {name: value for name, value in values.items() if value}


def _differing(then: dict[str, str], now: dict[str, str]) -> Iterator[str]:
    for name, value in now.items():
        if name in then and then[name] != value:
            yield f"{name} {then[name]} then, {value} now"


# ------------------------------------------------------------------------------------------------------ what it lacks


def fault_of_machine(error: BaseException) -> str:
    """What the machine lacked, in one line, where that is why `error` was raised; else an empty string.

    A full disk, no memory, a lost device, another rank that is gone: nothing of the run is wrong, and the same step may
    go well later.
    """
    cause: BaseException | None = error
    while cause is not None:
        text = f"{type(cause).__name__}: {cause}".splitlines()[0]
        lacking = isinstance(cause, OSError) and cause.errno in _OF_THE_MACHINE
        lacking |= isinstance(cause, MemoryError | torch.OutOfMemoryError) or any(word in text for word in NO_ROOM)
        lost = isinstance(cause, RuntimeError) and any(word in text for word in _DEVICE)
        gone = isinstance(cause, distributed.DistNetworkError | distributed.DistStoreError)
        gone |= "gloo" in text and any(word in text for word in _RANK)
        gone |= isinstance(cause, distributed.DistBackendError) and "remote process exited" in str(cause)
        if gone:
            return f"another rank is gone: {text}"
        if lacking or (lost and not any(word in text for word in _OF_A_KERNEL)):
            return text
        cause = cause.__cause__
    return ""
