"""A person's own script: what is recorded of it when its run begins, and the folder in which it can be run again.

The script and what it imported from its own folder are objects, so that `esper replay`, `resume` and `fork` run what
was run then and not what the file has become.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from contracts.leyline.v1.event_pb2 import Script
from esper.errors import InvalidInput
from esper.leyline import names
from esper.leyline.folders import Folder
from esper.leyline.objects import ObjectStore

SOURCE: Final = "script"
"""The `task_source` of a run that a person's own script trained."""
SEED: Final = "--seed"
"""The argument by which a script takes its random seed, where it is run again with another."""
MOST_SOURCES: Final = 500
MOST_BYTES: Final = 4 * 2**20
"""Of one source, and of the difference to the commit: what is larger is not kept."""
MOST_READ: Final = 64 * 2**20
"""No recorded source is larger: a script is text."""
GIT_S: Final = 5.0
VARIABLES: Final = ("CUBLAS_", "CUDA_", "KMP_", "MKL_", "NCCL_", "OMP_", "PYTHONHASHSEED", "TORCH_", "ATEN_")
"""Beginnings of the names of variables that may change what is computed; nothing else of the environment is kept."""


def this_script(objects: ObjectStore, *, ranks: int = 0, before: Sequence[str] = ()) -> Script:
    """The script that runs in this process, its sources kept in `objects`.

    `ranks` are the processes that train together, 0 without torch.distributed; `before` the runs that the script grew
    before. A session without a file (a notebook, `python -c`) has arguments, folder and environment alone.
    """
    script = Script(
        arguments=sys.argv[1:], folder=str(Path.cwd()), environment=_environment(), ranks=ranks, before=before
    )
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    if path is None or not Path(path).is_file():
        return script
    script.path = str(path)
    home = Path(path).resolve().parent
    for name, file in _sources(Path(path).resolve(), home):
        script.sources[name] = objects.put(file.read_bytes(), compress=True)
    script.commit = _git(home, "rev-parse", "HEAD").decode(errors="replace").strip()
    if script.commit:
        # A person's settings may name programs that show differences: none is started.
        difference = _git(home, "diff", "--no-ext-diff", "--no-textconv", "--binary", "HEAD")
        if 0 < len(difference) <= MOST_BYTES:
            script.diff = objects.put(difference, compress=True)
    return script


def seed_of(arguments: Sequence[str]) -> int | None:
    """The random seed that a script was given as an argument; None where it was given none."""
    for word, following in itertools.pairwise([*arguments, ""]):
        name, equals, value = word.partition("=")
        text = value if equals else following
        if name == SEED and text.isdecimal():
            return int(text)
    return None


def with_seed(arguments: Sequence[str], seed: int) -> list[str]:
    """The arguments with another random seed in its place, or at their end where there was none."""
    found: list[str] = []
    for word in arguments:
        is_value = found[-1:] == [SEED]
        found.append(str(seed) if is_value else f"{SEED}={seed}" if word.startswith(f"{SEED}=") else word)
    return found if seed_of(found) == seed else [*found, SEED, str(seed)]


def _environment() -> Mapping[str, str]:
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)}


def _sources(script: Path, home: Path) -> Iterator[tuple[str, Path]]:
    """The script, and every module of its own folder that is loaded by now, by their path from there."""
    yield _key(script), script
    count = 1
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py"):
            continue
        path = Path(file).resolve()
        if path == script or not path.is_relative_to(home) or "site-packages" in path.parts or not path.is_file():
            continue
        parts = path.relative_to(home).parts
        if path.stat().st_size <= MOST_BYTES and count < MOST_SOURCES and all(map(names.is_name, parts)):
            count += 1
            yield "/".join(parts), path


def _key(script: Path) -> str:
    """The name that a script is kept under: its own, where that can be a file's name anywhere."""
    return script.name if names.is_name(script.name) else "script.py"


def _git(folder: Path, *arguments: str) -> bytes:
    """What git says about the folder; nothing where there is no git, no repository, or no answer in time."""
    command = ("git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments)
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=GIT_S,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return answer.stdout if answer.returncode == 0 else b""


def changed(script: Script) -> list[str]:
    """The recorded sources that are no longer what they were where they lay; empty where all are there unchanged."""
    home = Path(script.folder, script.path).resolve().parent
    return [
        name
        for name, reference in sorted(script.sources.items())
        if not (file := home.joinpath(*_parts(name))).is_file() or f"sha256:{_digest(file)}" != reference
    ]


def as_it_is_now(script: Script, objects: ObjectStore) -> Script:
    """The same with its sources as they lie there now, which are kept in `objects`; those that are gone are left out.

    Raises InvalidInput where the script itself is gone.
    """
    home = Path(script.folder, script.path).resolve().parent
    found = Script.FromString(script.SerializeToString())
    for name in script.sources:
        file = home.joinpath(*_parts(name))
        if file.is_file():
            found.sources[name] = objects.put(file.read_bytes(), compress=True)
        elif name == _key(Path(script.path)):
            raise InvalidInput(f"{file} is gone: put it back, or leave --with-my-file out and run what was recorded")
        else:
            del found.sources[name]
    return found


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _parts(name: str) -> tuple[str, ...]:
    """A recorded path below the script's folder, part by part; raises InvalidInput for one that leads out of it."""
    return tuple(names.checked(part, "a recorded source") for part in name.split("/"))


def lay_out(script: Script, objects: ObjectStore, folder: Path) -> Path:
    """Write the recorded sources below `folder`, which is empty; the path of the script there.

    Raises InvalidInput for a run that recorded no script, a source that is missing, and a name that leads elsewhere;
    CorruptState for a source that is no longer what was recorded.
    """
    if not script.path:
        raise InvalidInput(
            "this run was trained in a session without a file (a notebook, `python -c`), so there is no script to run "
            "again: put the code into a file and start it with python"
        )
    name = _key(Path(script.path))
    if name not in script.sources:
        raise InvalidInput(f"the record of this run lacks its script {names.shown(script.path)}")
    with Folder.open(folder) as root:
        for relative, reference in sorted(script.sources.items()):
            _write(root, _parts(relative), objects.get(reference, MOST_READ))
    return folder / name


def _write(folder: Folder, parts: tuple[str, ...], content: bytes) -> None:
    if len(parts) == 1:
        folder.write(parts[0], content, sync=False)
        return
    with folder.inside(parts[0], make=True) as inside:
        _write(inside, parts[1:], content)
