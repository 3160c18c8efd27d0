"""The rooms of the house: who may import whom, and what stays outside. The table is the one of docs/how-it-works.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP_FLOOR = ("esper.cli", "esper.weatherlight")
FRONT_DOORS = ("esper", "esper.huggingface", "esper.lightning")  # what a script calls: imported when asked for
BENCH = "esper.testing"  # builders and a real clock for tests and experiments; nothing that ships may lean on it
CHILD = "esper.tezzeret.child"  # a process of its own that measures kernels: the clock that it hands on is there
PURE = (
    "esper.leyline",
    "esper.record",
    "esper.errors",
    "esper.installation",
    "esper.metric",
    "esper.spread",
    "esper.tolaria.settings_text",
    "esper.karn.blueprint",
    "esper.karn.table",
    "esper.kasmina.gates",
    "esper.kasmina.lifecycle",
    "esper.kasmina.settings",
    "esper.urza.version",
)
FORGE = tuple(f"esper.tezzeret.{name}" for name in ["child", "events", "jobs", "pipelines", "results", "scan"])
KARN = tuple(
    f"esper.karn.{name}" for name in ["approval", "blueprint", "dossier", "registration", "risk_sheet", "table"]
)
TORCH_FREE = (
    "esper.leyline",
    "esper.metric",
    "esper.spread",
    "esper.tolaria.settings_text",
    "esper.record",
    "esper.tamiyo",
    "esper.kasmina.gates",
    "esper.kasmina.lifecycle",
    "esper.kasmina.settings",
    "esper.nissa",
    "esper.urza",
    "projections",
    "streams.forge",
    *FORGE,
    *KARN,
)

WITH_TORCH = (
    "esper.tamiyo.network",
    "esper.tamiyo.served",
    "esper.tamiyo.weights",
    "esper.tamiyo.policies.learned",
)
"""Of those rooms: what serves a learned policy, imported where one is asked for."""

OURS = ("contracts", "esper", "projections", "streams")
KAFKA = ("aiokafka", "confluent_kafka", "faust", "kio", "mode")
NETWORK = ("asyncio", "http", "httpx", "requests", "socket", "ssl", "starlette", "urllib", "uvicorn")
CLOCKS = ("time",)  # a clock is an argument: Callable[[], float] for durations, nanoseconds for what is recorded
TORCH = ("torch", "torch_geometric")

# room: (which rooms of ours it may import, which libraries it must not)
ROOMS = {
    "contracts": (("contracts",), (*KAFKA, *NETWORK, *CLOCKS, *TORCH, "duckdb", "pyarrow")),
    "esper": (("contracts", "esper"), (*KAFKA, *NETWORK, *CLOCKS, "duckdb")),
    CHILD: (("contracts", "esper"), (*KAFKA, *NETWORK, "duckdb")),
    "esper.testing": (("contracts", "esper"), (*KAFKA, *NETWORK, *TORCH, "duckdb")),
    "projections": (("contracts", "projections", *PURE), (*KAFKA, *TORCH)),
    "streams": (("contracts", "esper", "projections", "streams"), ()),
    "esper.cli": (OURS, ()),
    "esper.weatherlight": (OURS, ()),
}
NOW = {"now", "utcnow", "today"}

IMPORT_EACH = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if "torch" in sys.modules:
        sys.exit(f"{name} imports torch, by itself or through another module")
"""


def within(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def room_of(module: str) -> str:
    special = (room for room in (*TOP_FLOOR, BENCH, CHILD) if within(module, (room,)))
    return next(special, module.split(".", maxsplit=1)[0])


def imported(tree: ast.AST) -> set[str]:
    """Every module that the source imports, anywhere in it."""
    names = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from esper import kasmina` imports esper.kasmina; `from esper.errors import X` imports esper.errors.
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def violations(module: str, source: str) -> list[str]:
    """What `module` must not do, one line each."""
    room = room_of(module)
    allowed, forbidden = ROOMS[room]
    tree = ast.parse(source)
    found = []
    for name in sorted(imported(tree)):
        upstairs = room not in TOP_FLOOR and module not in FRONT_DOORS and within(name, TOP_FLOOR)
        if (
            upstairs
            or within(name, (BENCH,))
            or (within(name, OURS) and not within(name, allowed))
            or within(name, forbidden)
        ):
            found.append(f"{module} imports {name}")
    if room == "esper":
        found += [
            f"{module}:{node.lineno} reads the wall clock with .{node.func.attr}()"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in NOW
        ]
    return found


def modules() -> dict[str, Path]:
    """All modules of the four packages, by name; generated code is protoc's."""
    files = [file for room in OURS for file in (ROOT / room).rglob("*.py") if not file.name.endswith("_pb2.py")]
    names = {file: ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files}
    return {name: file for file, name in names.items()}


def test_every_module_keeps_to_its_room():
    found = modules()

    assert len(found) > 30
    assert [line for name, file in found.items() for line in violations(name, file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("contracts.topics", "import esper"),
        ("esper.tamiyo.answer", "from streams.writer import LogWriter"),
        ("esper.kasmina.kasmina", "import faust"),
        ("esper.kasmina.kasmina", "from aiokafka import AIOKafkaProducer"),
        ("esper.record.fold", "def f():\n    import duckdb"),
        ("esper.tolaria.train", "import time"),
        ("esper.tezzeret.kernel", "import time"),
        ("esper.tezzeret.jobs", "import asyncio"),
        ("esper.tezzeret.child", "import aiokafka"),
        ("esper.tolaria.train", "from time import monotonic"),
        ("esper.tolaria.train", "from datetime import datetime\ndatetime.now()"),
        ("esper.tolaria.train", "from esper.cli import main"),
        ("esper.karn.catalogue", "import urllib.request"),
        ("esper.cli.run", "from esper.testing import MemoryLog"),
        ("projections.history", "import torch.nn"),
        ("projections.history", "from esper import tolaria"),
        ("projections.library", "from esper.urza.library import UrzaLibrary"),
        ("esper.urza.library", "from projections.library import Library"),
        ("esper.urza.library", "import duckdb"),
        ("projections.history", "from streams import archiver"),
        ("streams.worker", "from esper.weatherlight import supervisor"),
    ],
)
def test_a_module_in_the_wrong_room_is_found(module, source):
    """The test above can fail."""
    assert violations(module, source) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("esper.cli.run", "import streams.writer, projections, esper.tolaria"),
        ("projections.history", "from esper.record.fold import evolve\nfrom esper.kasmina import lifecycle"),
        ("streams.decider", "import faust\nfrom esper.tamiyo.answer import answer"),
        ("esper.tezzeret.child", "import time\nfrom esper.karn.catalogue import build"),
        ("esper.tolaria.train", "import torch\nfrom contracts.leyline.v1 import event_pb2"),
    ],
)
def test_a_module_in_its_room_is_left_alone(module, source):
    assert violations(module, source) == []


def test_what_promises_to_start_without_torch_does():
    """Torch takes a second to import: the command line, the decider and the archiver are quick because of this."""
    free = (name for name in modules() if within(name, TORCH_FREE) and not within(name, WITH_TORCH))
    names = sorted(name for name in free if not name.endswith("__main__"))
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH, *names], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert len(names) > 20
    assert (result.stdout, result.stderr) == ("", "")
