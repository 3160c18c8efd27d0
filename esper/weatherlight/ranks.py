"""The other ranks of a script that is run again: `torchrun` began them once, now they begin beside this process.

This process is rank 0 and has the run's world, be it a record, a log or both; each other rank runs the same script in a
process of its own and is told what that world answers (`esper.tolaria.shared_world`). They are started by torch's own
elastic launcher, with the variables that `torchrun` would have set, and end with this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import torch
from torch import distributed
from torch._C._distributed_c10d import TCPStore
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, PContext, start_processes

from contracts.leyline.v1.event_pb2 import Script
from esper.errors import EsperError, InvalidInput
from esper.installation import python_module
from esper.leyline.objects import ObjectStore
from esper.tolaria.appointed import Appointment
from esper.tolaria.config import RunConfig
from esper.tolaria.divergence import Diverged, RecordEnded
from esper.tolaria.machine import fault_of_machine
from esper.tolaria.outside import Outside
from esper.tolaria.replay import NullLog
from esper.tolaria.run_state import TargetStepReached
from esper.tolaria.script_again import Again, run_again
from esper.tolaria.world import LiveWorld
from esper.weatherlight.connected import REAL_CLOCK
from esper.weatherlight.forkserver import die_with_parent

HERE: Final = "127.0.0.1"
BEGINS_S: Final = 120.0
ENDS_S: Final = 30.0
"""For the others to end once the run is over: what they still wait for is gone by then."""
POLL_S: Final = 0.05


@contextlib.contextmanager
def beside(again: Again) -> Iterator[None]:
    """Within, the other ranks of a script run, and this process is rank 0; nothing where there are none.

    Raises InvalidInput where one of them does not begin.
    """
    if not again.script.ranks:
        yield
        return
    store = TCPStore(HERE, 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory(prefix="esper-ranks-") as folder, _started(again, store, Path(folder)) as others:
        if others is not None:
            _wait_begun(others, store, again)
        with _variables(_variables_of(0, again.script.ranks, store.port)):
            try:
                yield
            finally:
                if distributed.is_initialized():
                    with contextlib.suppress(RuntimeError):  # the other ranks may be gone
                        distributed.destroy_process_group()
        if others is not None:
            others.wait(ENDS_S, POLL_S)


@contextlib.contextmanager
def _started(again: Again, store: TCPStore, folder: Path) -> Iterator[PContext | None]:
    """The processes of the ranks from 1 on, which are ended where they have not by the end of the context."""
    count = again.script.ranks
    if count == 1:
        yield None
        return
    order = folder / "order.json"
    order.write_text(json.dumps(_order(again)))
    command, *arguments = python_module("esper.weatherlight.ranks", str(order))
    others = start_processes(
        name="esper",
        entrypoint=command,
        args={rank - 1: tuple(arguments) for rank in range(1, count)},
        envs={rank - 1: dict(_variables_of(rank, count, store.port)) for rank in range(1, count)},
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs")),
    )
    try:
        yield others
    finally:
        others.close()


def _order(again: Again) -> Mapping[str, Any]:
    runs = [(run_id, None if config is None else config.to_json()) for run_id, config in again.runs]
    return {
        "script": again.script.SerializeToString().hex(),
        "path": str(again.path),
        "objects": str(again.objects.root.resolve()),
        "runs": runs,
        "threads": again.threads,
        "parent": os.getpid(),
    }


def _variables_of(rank: int, count: int, port: int) -> Mapping[str, str]:
    """What `torchrun` tells a process of a group on this machine."""
    return {
        **{name: str(rank) for name in ("RANK", "LOCAL_RANK", "ROLE_RANK")},
        **{name: str(count) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE")},
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "MASTER_ADDR": HERE,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "esper",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


@contextlib.contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Within, this process has these variables."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _wait_begun(others: PContext, store: TCPStore, again: Again) -> None:
    """Until all have loaded what they need; a group that waits for one that is gone would wait for half an hour."""
    begun = [_begun(rank) for rank in range(1, again.script.ranks)]
    deadline = REAL_CLOCK.monotonic() + BEGINS_S
    while not store.check(begun):
        failed = others.wait(POLL_S, POLL_S)
        if failed is not None or REAL_CLOCK.monotonic() > deadline:
            raise InvalidInput(
                f"script {again.script.path} was trained by {again.script.ranks} processes, and they do not begin here"
            )


def _begun(rank: int) -> str:
    return f"esper/begun/{rank}"


def follow(order: Mapping[str, Any]) -> None:
    """Run the script as a rank that is not the first: what its runs do not compute, rank 0 tells."""
    torch.set_num_threads(int(order["threads"]))
    script = Script.FromString(bytes.fromhex(order["script"]))
    objects = ObjectStore(Path(order["objects"]))
    outside = Outside(NullLog(), REAL_CLOCK, objects)
    *_, last = range(len(order["runs"]))
    appointments = [
        Appointment(
            None if config is None else RunConfig.from_json(config), LiveWorld(outside), run_id, is_last=number == last
        )
        for number, (run_id, config) in enumerate(order["runs"])
    ]
    port = int(os.environ["MASTER_PORT"])
    store = TCPStore(HERE, port, is_master=False, timeout=timedelta(seconds=BEGINS_S))
    store.set(_begun(int(os.environ["RANK"])), "1")
    run_again(script, Path(order["path"]), appointments)


def main(arguments: list[str]) -> int:
    """Be one of the other ranks; the exit code. What rank 0 raised it tells itself."""
    order = json.loads(Path(arguments[0]).read_text())
    die_with_parent(order["parent"])
    try:
        follow(order)
    except (EsperError, Diverged, RecordEnded, TargetStepReached):
        return 1
    except Exception as error:  # noqa: BLE001 - of a person's script, anything
        if not fault_of_machine(error):
            traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # a group that rank 0 has left cannot be taken down tidily
