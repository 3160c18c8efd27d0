"""What holds for every test: one thread each, three workers, and files that wait for each other where they must.

`pytest` starts three workers for two cores: tests with processes wait as often as they work. A file's tests run in one
worker, so that what they share is made once. Files that start processes (`e2e`, `integration`) run one after the other
while the other workers have anything else to do, and a test marked `serial` runs while no other test does: what a busy
machine does says nothing about the code.
"""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# Small tensors: a second thread costs more than it brings, here and in every process that a test starts. Torch reads
# this when it is imported, which is after this file.
os.environ["OMP_NUM_THREADS"] = "1"

# Compiled once, here and in hundreds of child processes: each would compile Esper's modules anew (0.15 s) where the
# caller, as a container image may, asks Python to keep no bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Torch believes what the processor says of its vector instructions. Otherwise every process that compiles a kernel
# compiles a program for each kind of them first, to see whether it runs: 5 s.
os.environ["TORCHINDUCTOR_VEC_ISA_OK"] = "1"

settings.register_profile("esper", deadline=None, database=None)
settings.load_profile("esper")

# A shell without job control starts background jobs with SIGINT ignored, and children inherit that. Under such a caller
# (a CI runner), Ctrl-C would reach nothing that a test starts. A handler is not inherited: children get the default.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Where there is room, temporary folders lie in memory: no test waits for what a disk does, and the machine's death is
# played, never real. 1.2 GB are used; containers often have 64 MB there, or forbid to run what lies there.
MEMORY = Path("/dev/shm")
if (
    os.access(MEMORY, os.W_OK)
    and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    and shutil.disk_usage(MEMORY).free > 6 * 2**30
):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

WORKERS = 3
WITH_PROCESSES = 2  # workers that may run files which start processes: those wait more than they compute
SERIAL = "serial"
# In this order, before all others: Kafka's brokers and the checker's processes are waited for more than they work, and
# one file alone has each, which would be the tail.
LONG = (
    "tests/e2e/test_kafka.py",
    "tests/checker/",
    "tests/e2e/test_examples.py",
    "tests/e2e/",
    "tests/integration/",
)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Three workers, one where there is one core; none where one file is asked for: starting them costs more."""
    one_file = len(config.args) == 1 and config.args[0].partition("::")[0].endswith(".py")
    if one_file or config.option.collectonly:
        return 0
    return WORKERS if len(os.sched_getaffinity(0)) > 1 else 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the serial tests one group: xdist hands a group's name to the scheduler at the end of a test's id."""
    for item in items:
        if item.get_closest_marker(SERIAL):
            item.add_marker(pytest.mark.xdist_group(SERIAL))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Have the collector leave alone what imports make: it finds next to nothing, in a fifth of the time they take.

    Nor does it look at all that again whenever the tests have made a quarter as much.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)


class ByFile(LoadScopeScheduling):
    """Hands out whole files, long ones first, serial tests last; only so many at a time start processes."""

    def _split_scope(self, nodeid):
        return SERIAL if nodeid.endswith(f"@{SERIAL}") else nodeid.partition("::")[0]

    def _assign_work_unit(self, node):
        with_processes = sum(
            any(_starts_processes(scope) and not all(tests.values()) for scope, tests in scopes.items())
            for other, scopes in self.assigned_work.items()
            if other is not node
        )
        full = with_processes >= WITH_PROCESSES
        waiting = [scope for scope in self.workqueue if not (full and _starts_processes(scope))]
        self.workqueue.move_to_end(min(waiting or self.workqueue, key=_turn), last=False)
        super()._assign_work_unit(node)

    # xdist 3.8 gives the crashed test out again, and leaves the worker that replaces the crashed one waiting for ever
    # with its last test: a worker begins a test once it knows the next one or that none follows.

    def _reschedule(self, node):
        if node.shutting_down:
            return
        while self.workqueue and self._pending_of(self.assigned_work[node]) <= 2:
            self._assign_work_unit(node)
        if not self.workqueue:
            node.shutdown()

    def remove_node(self, node):
        """The test that crashed the worker, if one did; all others that the worker had go to the rest."""
        had = self.assigned_work.pop(node)
        crashed = next((test for tests in had.values() for test, done in tests.items() if not done), None)
        for scope, tests in had.items():
            left = {test: done or test == crashed for test, done in tests.items()}
            if not all(left.values()):
                self.workqueue[scope] = left
        for other in self.assigned_work:
            self._reschedule(other)
        return crashed


def _starts_processes(scope: str) -> bool:
    return scope.startswith(("tests/e2e/", "tests/integration/"))


def _turn(scope: str) -> int:
    """The place of a file among those that wait; those of the same place keep their order."""
    long = [number for number, begin in enumerate(LONG) if scope.startswith(begin)]
    return long[0] if long else len(LONG) + (scope == SERIAL)


# --------------------------------------------------------------------------- processes that begin with all libraries


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Fork Esper's processes where a test starts some, unless it is marked `cold`."""
    if not _starts_processes(item.nodeid) or item.get_closest_marker("cold"):
        return (yield)
    from tests.forked import Warm, processes

    with processes(Warm):
        return (yield)


def pytest_sessionfinish() -> None:
    """End what they were forked from."""
    if (forked := sys.modules.get("tests.forked")) is not None:
        forked.end_everybodys()


# ------------------------------------------------------------------------------------- a serial test has the machine


class _Machine:
    """A lock file that the workers share: a serial test holds it alone, all other tests hold it together."""

    def __init__(self, path: str) -> None:
        self.file = Path(path).open("rb")  # noqa: SIM115 (as long as the session)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        """Wait outside the test's time limit and outside its measured duration."""
        fcntl.flock(self.file, fcntl.LOCK_EX if item.get_closest_marker(SERIAL) else fcntl.LOCK_SH)
        try:
            return (yield)
        finally:
            fcntl.flock(self.file, fcntl.LOCK_UN)


def pytest_configure_node(node) -> None:
    """Give a worker the lock file that the session's workers share."""
    config = node.config
    if not hasattr(config, "esper_machine"):
        handle, config.esper_machine = tempfile.mkstemp(prefix="esper-tests-", suffix=".lock")
        os.close(handle)
        config.add_cleanup(lambda: Path(config.esper_machine).unlink(missing_ok=True))
    node.workerinput["esper_machine"] = config.esper_machine


def pytest_configure(config: pytest.Config) -> None:
    """In a worker: take part in the lock. Without workers there is nothing to wait for."""
    worker = getattr(config, "workerinput", None)
    if worker is None:  # once in a session, for all of its workers: see tests/processes/warm.py
        headers = tempfile.mkdtemp(prefix="esper-headers-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT"))
        os.environ["ESPER_TESTS_HEADERS"] = headers
        config.add_cleanup(lambda: shutil.rmtree(headers, ignore_errors=True))
    elif path := worker.get("esper_machine"):
        config.pluginmanager.register(_Machine(path))
