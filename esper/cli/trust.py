"""Whose code a record would run: a person's own goes on, a stranger's is named, shown and asked for before any import.

A record brings code where the run's task or script was a file of its trainer's owner, or where a compiled kernel was
swapped in (torch unpickles its cache and loads its library). It is this installation's own where one of its present
keys signed every event that names it; whoever has only a retired key, or none, is a stranger.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Final

from esper.cli.output import one_line, visible
from esper.errors import CorruptState, InvalidInput
from esper.leyline.envelope import Event
from esper.leyline.json_text import configuration
from esper.leyline.names import digest
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import KeyRing, Signed, key_id
from streams.objects import object_store

if TYPE_CHECKING:
    from projections.history import History

FILE: Final = "file:"


@dataclass(frozen=True, slots=True)
class Code:
    """Code that came with a record: what it is, its SHA-256, and the key that vouches for it, none where none does."""

    what: str
    sha256: str
    signer: str

    def __str__(self) -> str:
        by = f"signed with key {self.signer}" if self.signer else "signed by nobody"
        return one_line(f"{self.what} (SHA-256 {self.sha256}, {by})")


def check_code(history: History, run_id: str, data_dir: Path, verb: str, *, trust: bool, way: str = "--trust") -> bool:
    """Ask a person before a stranger's code is run for `esper VERB RUN`; whether there was any, and it may run.

    Raises InvalidInput where it may not, and where nobody sits at a terminal and `trust` is False; `way` is how to say
    that it may.
    """
    found = foreign_code(history, run_id, own_keys())
    if not found or trust:
        return bool(found)
    store = object_store(data_dir)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidInput(
            f"run {run_id} was not recorded with your key{_own()}, and to {verb} it runs code that came with it: "
            f"{'; '.join(map(str, found))}; read it ({_reading(found[0], store)}), and add {way} to run it"
        )
    _explain(run_id, found)
    while (answer := _asked("run it? [y]es, [N]o, [s]how it: ")) == "s":
        for code in found:
            sys.stderr.write(visible(_shown(code, store)) + "\n")
    if answer not in {"y", "yes"}:
        raise InvalidInput(f"run {run_id} was left alone: its code was not trusted")
    return True


def foreign_code(history: History, run_id: str, ring: KeyRing | None) -> list[Code]:
    """The code of a run, its ancestors and its script's earlier runs that `ring` does not vouch for, each once."""
    from projections.lineage import signed_facts  # noqa: PLC0415 - DuckDB, and only where it is needed

    found: dict[tuple[str, str], Code] = {}
    own = None if ring is None else KeyRing(ring.secrets)  # without those that are retired
    runs, seen = [run_id], set[str]()
    while runs:
        seen.add(each := runs.pop(0))
        for event, signed in signed_facts(history, each):
            runs += (earlier for earlier in event.run_started.script.before if earlier and earlier not in seen)
            for code in _named(event, signed):
                if own is None or own.verify(signed, event.recorded_at_ns) is not None:
                    found.setdefault((code.what, code.sha256), code)
    return list(found.values())


def _named(event: Event, signed: Signed) -> Iterator[Code]:
    """The code that one fact names. Raises InvalidInput for a digest that is none."""
    signer = signed.key_id or "" if signed.signature else ""
    if event.HasField("run_started") and event.run_started.task_source.startswith(FILE):
        sha256 = digest(event.run_started.task_source.removeprefix(FILE), "the recorded task")
        yield Code(f"the Python file of task {_task(event)}", sha256, signer)
    elif event.run_started.HasField("script") or event.run_resumed.HasField("script"):
        started = event.HasField("run_started")
        for name, reference in (event.run_started if started else event.run_resumed).script.sources.items():
            sha256 = digest(reference.removeprefix("sha256:"), "a recorded source")
            yield Code(f"{name} of the script that trained it", sha256, signer)
    elif event.HasField("kernel_swapped") and event.kernel_swapped.artifact_ref:
        swapped = event.kernel_swapped
        sha256 = digest(swapped.artifact_ref.removeprefix("sha256:"), "the recorded kernel")
        yield Code(f"a compiled kernel of {swapped.blueprint_id}", sha256, signer)


def _task(event: Event) -> str:
    try:
        return str(configuration(event.run_started.config_json)["task"])
    except (CorruptState, KeyError):
        return str(event.run_started.task)


def own_keys() -> KeyRing | None:
    """The keys of this installation; None where it has none yet: none is made to read a history."""
    from streams.keys import key_file, load_key_ring  # noqa: PLC0415
    from streams.settings import Settings  # noqa: PLC0415

    settings = Settings.load()
    if settings.key is None and (settings.brokers is not None or not key_file().exists()):
        return None
    return load_key_ring(settings)


def _own() -> str:
    ring = own_keys()
    return "" if ring is None else f" ({', '.join(map(key_id, ring.secrets))})"


def _explain(run_id: str, found: list[Code]) -> None:
    lines = [
        f"run {run_id} was not recorded with a key of this installation{_own()}.",
        "To train it again, code runs that came with it, and it can do whatever you can do on this machine:",
        *(f"  {code}" for code in found),
    ]
    sys.stderr.write("\n".join(map(one_line, lines)) + "\n")


def _asked(question: str) -> str:
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower()


def _shown(code: Code, store: ObjectStore) -> str:
    try:
        return store.get(f"sha256:{code.sha256}").decode("utf-8")
    except (InvalidInput, CorruptState, UnicodeDecodeError) as error:
        return f"{code.what} cannot be shown: {error}"


def _reading(code: Code, store: ObjectStore) -> str:
    """The command that shows it."""
    plain = store.root / code.sha256[:2] / code.sha256[2:]
    return f"`cat {quote(str(plain))}`" if plain.exists() else f"`zstd -dc {quote(f'{plain}.zst')}`"
