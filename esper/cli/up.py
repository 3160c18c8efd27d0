"""`esper up`, `esper broker` and `esper doctor`."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import shlex
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from contracts.topics import FLEET_GROUP, GROUPS
from esper.cli import RUN_FAILED
from esper.cli.history import check_writable
from esper.cli.output import GREEN, RED, YELLOW, say, say_json, styled, table
from esper.errors import EsperError, InvalidInput, LogUnavailable
from esper.leyline.signing import key_id
from esper.weatherlight import client
from esper.weatherlight.endpoint import Status
from streams.broker.secret import NAME as SECRET
from streams.broker.secret import USER
from streams.settings import Settings
from streams.topics import TWO, TWO_IN_SYNC, Copies

POLL_S: Final = 60.0
_STYLES: Final = {"ready": GREEN, "starting": YELLOW, "waiting": RED, "stopped": RED}


def up_command(data_dir: Path, port: int, *, broker_only: bool, anonymous: bool, as_json: bool) -> None:
    """Start the processes (or the broker alone), say where they are, and keep them until interrupted."""
    settings = Settings.load(data=data_dir)
    check_writable(data_dir)
    if broker_only and settings.brokers is not None:
        say(f"ESPER_BROKERS is set to {settings.brokers}: the embedded broker is started beside it, for this folder")
    outside = None if broker_only else settings.brokers
    if anonymous and outside is not None:
        raise InvalidInput(f"--anonymous is for the embedded log, and ESPER_BROKERS names another: {outside}")
    if not broker_only:
        from streams.keys import load_key_ring  # noqa: PLC0415 - a missing key is said before anything starts

        load_key_ring(settings)
    name = "esper broker" if broker_only else "esper up"
    with client.join(
        data_dir, client=name, brokers=outside, port=port, broker_only=broker_only, anonymous=anonymous
    ) as lease:
        lease.wait_ready()
        _show(lease.status, as_json=as_json)
        if not as_json:
            say(f"\nConnect with ESPER_DATA={data_dir}, or any Kafka client at {lease.brokers}{_way_in(lease.status)}.")
            say("Ctrl-C stops.")
        _watch(lease, as_json=as_json)


def _way_in(status: Status) -> str:
    """What a foreign client needs besides the address."""
    if not status.embedded:
        return ""
    if status.anonymous:
        return ", as anybody (--anonymous): other users of this machine, too"
    return f" with SASL_PLAINTEXT, PLAIN, user {USER} and the password in {status.secret}"


def _show(status: Status, *, as_json: bool) -> None:
    if as_json:
        say_json(status.to_json())
        return
    say(f"data   {status.data_dir}")
    say(f"log    {status.brokers} ({'embedded broker' if status.embedded else 'ESPER_BROKERS'})")
    rows = [
        (each.name, styled(each.state, _STYLES[each.state]), each.pid, each.restarts, each.health_port)
        for each in status.services
    ]
    say("\n" + table(("process", "state", "pid", "restarts", "health port"), rows))


def _watch(lease: client.Lease, *, as_json: bool) -> None:
    """Print what changes, until the supervisor ends or Ctrl-C comes."""
    before = lease.status
    while True:
        try:
            lease.poll(POLL_S)
        except client.SupervisorGone:
            say_json({"state": "gone"}) if as_json else say("the processes were stopped")
            return
        if lease.status != before:
            if as_json:
                say_json(lease.status.to_json())
            else:
                _say_changes(before, lease.status)
            before = lease.status


def _say_changes(before: Status, now: Status) -> None:
    known = {service.name: (service.state, service.restarts) for service in before.services}
    for service in now.services:
        if (service.state, service.restarts) != known.get(service.name):
            why = f" after {service.last_exit}" if service.last_exit else ""
            say(f"{time.strftime('%H:%M:%S')}  {service.name} {service.state}, restarts {service.restarts}{why}")
    for joined in sorted(set(now.clients) - set(before.clients)):
        say(f"{time.strftime('%H:%M:%S')}  {joined} joined")
    for left in sorted(set(before.clients) - set(now.clients)):
        say(f"{time.strftime('%H:%M:%S')}  {left} left")


# ----------------------------------------------------------------------------------------------------------- the doctor

Verdict = Literal["ok", "note", "bad"]
PACKAGES: Final = ("aiokafka", "duckdb", "faust-streaming", "kio", "protobuf", "pyarrow", "scikit-learn", "torch")
CONNECT_S: Final = 3.0
_VERDICTS: Final = {"ok": GREEN, "note": YELLOW, "bad": RED}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `bad` stops Esper from working, a `note` limits it."""

    check: str
    verdict: Verdict
    found: str


def doctor_command(data_dir: Path, *, as_json: bool) -> int:
    """Run all checks and print what they found; 1 where one is bad."""
    findings = list(examine(data_dir))
    if as_json:
        say_json([asdict(finding) for finding in findings])
    else:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            verdict = styled(f"{finding.verdict:<4}", _VERDICTS[finding.verdict])
            say(f"{verdict}  {finding.check:<{width}}  {finding.found}")
    return RUN_FAILED if any(finding.verdict == "bad" for finding in findings) else 0


def examine(data_dir: Path) -> Iterator[Finding]:
    """Every check in turn; none of them raises."""
    checks: tuple[tuple[str, Callable[[], tuple[Verdict, str]]], ...] = (
        ("python", _python),
        ("packages", _packages),
        ("compiler", _compiler),
        ("accelerator", _accelerator),
        ("data folder", lambda: _folder(data_dir)),
        ("archive", lambda: _archive(data_dir)),
        ("processes", lambda: _processes(data_dir)),
        ("log address", lambda: _address(data_dir)),
        ("log copies", _copies),
        ("log groups", _groups),
        ("signing key", _key),
        ("other users", lambda: _other_users(data_dir)),
    )
    for name, check in checks:
        try:
            verdict, found = check()
        except EsperError as error:
            verdict, found = "bad", str(error)
        yield Finding(name, verdict, found)


def _python() -> tuple[Verdict, str]:
    version = platform.python_version()
    if sys.version_info[:2] not in {(3, 11), (3, 12), (3, 13)}:
        return "bad", f"{version}; Esper needs 3.11 to 3.13"
    return "ok", f"{version} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def _packages() -> tuple[Verdict, str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            return "bad", f"{name} is missing: run `pip install -e .` in Esper's folder"
    return "ok", ", ".join(found)


def _compiler() -> tuple[Verdict, str]:
    """Inductor calls the compiler that CXX names, else g++ or clang++."""
    for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++"):
        path = shutil.which(name) if name else None
        if path is not None:
            return "ok", f"{path} (for torch.compile's Inductor)"
    return "note", "no C++ compiler: kernels run eagerly; install g++ to let Inductor compile them"


def _accelerator() -> tuple[Verdict, str]:
    torch = importlib.metadata.version("torch")
    nvidia = Path("/dev/nvidiactl").exists()
    if nvidia and "+cpu" in torch:
        return "note", f"a GPU is here, but torch {torch} is built for CPUs: install a CUDA build to use --device cuda"
    return "ok", "NVIDIA GPU: --device cuda" if nvidia else "none: everything runs on the CPU, as it is meant to"


def _folder(data_dir: Path) -> tuple[Verdict, str]:
    if data_dir.exists():
        check_writable(data_dir)
    else:
        nearest = next(path for path in data_dir.resolve().parents if path.exists())
        if not os.access(nearest, os.W_OK):
            raise InvalidInput(f"data folder {data_dir} cannot be made in {nearest}; take another --data-dir")
    nearest = data_dir if data_dir.exists() else next(path for path in data_dir.resolve().parents if path.exists())
    free = shutil.disk_usage(nearest).free
    return "ok", f"{data_dir.resolve()}{'' if data_dir.exists() else ' (not made yet)'}, {free / 2**30:.1f} GiB free"


def _archive(data_dir: Path) -> tuple[Verdict, str]:
    from projections import manifest  # noqa: PLC0415
    from projections.verify import damaged  # noqa: PLC0415

    listed = manifest.load(data_dir / "archive")
    if not listed.generation:
        return "ok", "nothing is archived yet"
    damage = damaged(data_dir / "archive", listed.files)
    if damage:
        return "bad", f"{len(damage)} of {len(listed.files)} files are damaged, the first: {damage[0]}"
    unreadable = listed.unreadable
    if unreadable:
        count = sum(each.next - each.first for each in unreadable)
        return "bad", f"{count} records were damaged on the log and are not archived, the last: {unreadable[-1]}"
    return "ok", f"{sum(entry.rows for entry in listed.files):,} records in {len(listed.files):,} files"


def _processes(data_dir: Path) -> tuple[Verdict, str]:
    status = client.status(data_dir)
    if status is None:
        return "ok", "none running; `esper run` and `esper up` start them"
    services = ", ".join(f"{service.name} {service.state}" for service in status.services)
    told = f"supervisor pid {status.pid}, {status.state}: {services}"
    if status.emergency:
        told += f"; its last emergency: {status.emergency}"
    return ("note" if status.degraded or status.emergency else "ok"), told


def _address(data_dir: Path) -> tuple[Verdict, str]:
    outside = os.environ.get("ESPER_BROKERS")
    status = client.status(data_dir)
    brokers = outside or (status.brokers if status is not None else "")
    if not brokers:
        return "ok", "embedded broker on a free port of 127.0.0.1 when needed (ESPER_BROKERS is not set)"
    addresses, silent = [address.strip() for address in brokers.split(",")], []
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not port.isdigit():
            return "bad", f"{address} is no HOST:PORT; correct ESPER_BROKERS"
        try:
            socket.create_connection((host, int(port)), CONNECT_S).close()
        except OSError as error:
            silent.append(f"{address} does not answer ({error})")
    if len(silent) == len(addresses):
        return "bad", f"{silent[0]}; start the broker or correct ESPER_BROKERS"
    if not outside:
        return "ok", f"{brokers} answers"
    from streams.consumer import enter  # noqa: PLC0415

    enter(brokers)
    way = f"lets us in ({Settings.load().security_protocol})"
    return ("note", f"{silent[0]}; another {way}") if silent else ("ok", f"{brokers} answers and {way}")


def _copies() -> tuple[Verdict, str]:
    """Whether what an outside log has acknowledged outlives one of its brokers."""
    outside = os.environ.get("ESPER_BROKERS")
    if not outside:
        return "ok", "one, on the disk of the data folder (ESPER_BROKERS is not set)"
    from streams.topics import copies_of  # noqa: PLC0415

    try:
        return kept_by(asyncio.run(copies_of(outside)))
    except LogUnavailable as error:
        return "note", str(error)


def _groups() -> tuple[Verdict, str]:
    """Whether this user may be in the groups on an outside log, of which each process needs its own."""
    outside = os.environ.get("ESPER_BROKERS")
    if not outside:
        return "ok", "the embedded log has them for itself (ESPER_BROKERS is not set)"
    from streams.topics import closed_groups  # noqa: PLC0415

    try:
        return open_of(asyncio.run(closed_groups(outside)))
    except LogUnavailable as error:
        return "note", str(error)


def open_of(shut: Sequence[str]) -> tuple[Verdict, str]:
    """The verdict on the groups of ours that are closed to this user."""
    if not shut:
        return "ok", f"all {len(GROUPS)} are open to this user"
    only = "; that one is for `esper submit`, `work` and `withdraw` alone" if list(shut) == [FLEET_GROUP] else ""
    told = f"closed to this user: {', '.join(shut)}; give it Read on them: docs/kafka.md has the rights{only}"
    return ("note" if only else "bad"), told


def kept_by(log: Copies) -> tuple[Verdict, str]:
    """The verdict on how an outside log keeps our topics, and what to do about it."""
    if not log.topics:
        return "ok", f"no topics yet; the first run makes them ({log.brokers} brokers)"
    if not log.frail:
        copies, in_sync = min(log.topics.values())
        few = "" if log.brokers > 1 else ": the log has one broker, and keeps what its disk keeps"
        return "ok", f"{copies} of every topic, and {in_sync} acknowledge{few}"
    single = [name for name in log.frail if log.topics[name][0] < TWO]
    setting = ",".join(f"{name}={value}" for name, value in TWO_IN_SYNC.items())
    advice = (
        f"give {', '.join(single)} more copies with kafka-reassign-partitions"
        if single
        else f"run `kafka-configs --alter --entity-type topics --entity-name TOPIC --add-config {setting}` for each"
    )
    return "note", f"what is acknowledged may die with one broker of {', '.join(log.frail)}: {advice}"


def _key() -> tuple[Verdict, str]:
    from streams.keys import key_file, load_key_ring  # noqa: PLC0415
    from streams.settings import Settings  # noqa: PLC0415

    settings = Settings.load()
    if settings.key is None and settings.brokers is None and not key_file().exists():
        return "ok", f"ESPER_KEY is not set: the first run makes a key for the embedded log in {key_file()}"
    ring = load_key_ring(settings)
    return "ok", f"{'ESPER_KEY' if settings.key is not None else key_file()}, key id {key_id(ring.secrets[0])}"


def _other_users(data_dir: Path) -> tuple[Verdict, str]:
    """What another user of this machine can do with the data folder and the embedded log; docs/security.md has more."""
    mode = stat.S_IMODE(data_dir.stat().st_mode) if data_dir.exists() else 0o777 & ~_umask()
    if mode & stat.S_IWOTH:
        return "bad", f"they can change the data folder (mode {mode:04o}): run `chmod o-w {shlex.quote(str(data_dir))}`"
    files = "read the data folder and " if mode & stat.S_IROTH and mode & stat.S_IXOTH else ""
    advice = f"; `chmod 700 {shlex.quote(str(data_dir))}` keeps the files to you" if files else ""
    status = client.status(data_dir)
    if status is not None and status.anonymous:
        reach = f"they can {files}read, write and delete on the embedded log, which runs with --anonymous"
        return "note", f"{reach}; what they write without your key is dropped{advice}"
    shown = f"they can {files.removesuffix('and ') or 'do nothing here '}by its mode {mode:04o}"
    if os.environ.get("ESPER_BROKERS"):
        return ("note" if files else "ok"), f"{shown}{advice}"
    secret = data_dir / "log" / SECRET
    if secret.exists() and stat.S_IMODE(secret.stat().st_mode) & 0o077:
        return "bad", f"they can read the log's secret: run `chmod 600 {shlex.quote(str(secret))}`"
    return ("note" if files else "ok"), f"{shown}; the embedded log asks for its secret, which they cannot read{advice}"


def _umask() -> int:
    """The mask of this process; the system has no way to read it but to set it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
