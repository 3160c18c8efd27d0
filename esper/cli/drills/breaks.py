"""How drills break things: from outside, as accidents do. Each is a context; at its end it is mended."""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from esper.cli import INTERRUPTED
from esper.cli.drills.scene import POLL_S, Failed, Scene

FROZEN_S: Final = 0.19
AWAKE_S: Final = 0.01
"""A broker that gets a twentieth of its time does not keep up with a load, and still answers."""
FACTS_A_S: Final = 3_000
CHILD: Final = "esper.tezzeret.child"
SEED: Final = "germinate s1 BP009"


@contextlib.contextmanager
def leaking_seed(scene: Scene) -> Iterator[None]:
    """A seed that trains reaches parameters that are not its own."""
    scene.spoil("leak")
    _germinate(scene)
    yield
    scene.mend()


@contextlib.contextmanager
def seed_without_numbers(scene: Scene) -> Iterator[None]:
    """A seed in the network gives NaN at one step."""
    scene.spoil("nan once")
    _germinate(scene)
    yield
    scene.mend()


@contextlib.contextmanager
def host_without_numbers(scene: Scene) -> Iterator[None]:
    """The network gives NaN at every step, also after the run has gone back."""
    scene.spoil("host")
    yield


@contextlib.contextmanager
def frozen_decider(scene: Scene) -> Iterator[None]:
    """The decider hangs."""
    with _frozen([scene.pid("decider")]):
        yield


@contextlib.contextmanager
def frozen_archiver(scene: Scene) -> Iterator[None]:
    """The archiver hangs."""
    with _frozen([scene.pid("archiver")]):
        yield


@contextlib.contextmanager
def frozen_log(scene: Scene) -> Iterator[None]:
    """The brokers hang: they hold their connections and answer nothing."""
    with _frozen(scene.broker_pids()):
        yield


@contextlib.contextmanager
def overloaded_log(scene: Scene) -> Iterator[None]:
    """The load test writes more than the brokers, which get a twentieth of their time, take."""
    load = scene.process(
        "streams.loadtest",
        *("--brokers", scene.brokers, "--data-dir", str(scene.data)),
        *("--rate", str(FACTS_A_S), "--facts", str(FACTS_A_S), "--seconds", "3600"),
    )
    over = threading.Event()
    pids = scene.broker_pids()

    def slow() -> None:
        while not over.is_set():
            with _frozen(pids):
                over.wait(FROZEN_S)
            time.sleep(AWAKE_S)

    scene.until(lambda: list((scene.data / "run").glob("load-*.json")), "the load test")
    thread = threading.Thread(target=slow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        load.kill()


@contextlib.contextmanager
def full_disk(scene: Scene) -> Iterator[None]:
    """The embedded broker's files may not grow any more."""
    pid = scene.pid("broker")
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def stale_key(scene: Scene) -> Iterator[None]:
    """Somebody whose key nobody knows any more tells the run something."""
    if scene.tell("rate 0.5", ESPER_KEY=secrets.token_hex(32)) == 0:
        raise Failed("a command with a stale key was carried out")
    yield


@contextlib.contextmanager
def killed_compilers(scene: Scene) -> Iterator[None]:
    """What compiles a kernel is killed until the last attempt; afterwards another kernel is asked for."""
    asked = scene.start("blueprints", "compile", "BP009", "--shape", "8", "--pipeline", "emergency", "--json")
    over = threading.Event()
    forge = scene.pid("forge")

    def kill() -> None:
        done = set[int]()
        while not over.is_set() and len(done) < 2:  # the third attempt is the last, and may live
            for pid in _children(forge):
                if pid not in done and CHILD in _command(pid):
                    done.add(pid)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            over.wait(POLL_S / 10)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield
        # On a busy machine either may be given up for want of time. No run waits for them, and the alert is told.
        asked.communicate()
        scene.run("blueprints", "compile", "BP009", "--shape", "16", "--pipeline", "emergency", "--json")
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def rotated_key(scene: Scene) -> Iterator[None]:
    """The key is changed between an interruption and going on; the old one is known as the one before."""
    code = scene.interrupt()
    if code != INTERRUPTED:
        raise Failed(f"the interrupted run ended with exit code {code}")
    scene.rekey(ESPER_KEY_PREVIOUS=scene.environment["ESPER_KEY"], ESPER_KEY=secrets.token_hex(32))
    scene.go_on()
    yield


def _germinate(scene: Scene) -> None:
    if scene.tell(SEED) != 0:
        raise Failed(f"the run did not take {SEED!r}: {scene.said}")


@contextlib.contextmanager
def _frozen(pids: Sequence[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _children(pid: int) -> list[int]:
    """The processes that this one has started."""
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, listed.read_text().split())
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
