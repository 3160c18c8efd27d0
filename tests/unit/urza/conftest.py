"""Artifacts as the forge writes them, a clock that tests move, and a catalogue that can be slow or broken."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from dataclasses import dataclass, field

import pytest

from esper.leyline.objects import ObjectStore
from esper.urza.artifact import guard_digest
from esper.urza.cache import KernelCache
from esper.urza.version import Place, Version

PLACE = Place.of("vector", [4], {"depth": 2.0})


def safetensors(tensors):
    """A safetensors file of 32-bit numbers, from names to (shape, numbers)."""
    header, data = {}, b""
    for name, (shape, numbers) in tensors.items():
        packed = struct.pack(f"<{len(numbers)}f", *numbers)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


@dataclass
class Forge:
    """Stores artifacts and gives their versions. Keyword arguments of `make` change the manifest."""

    objects: ObjectStore
    made: int = 0

    def make(self, blueprint_id="BP009", *, seed=0.0, cache=b"", weights=None, place=PLACE, known=None, **changes):
        self.made += 1
        if weights is None:
            weights = safetensors({"branch.weight": ((2, 2), (seed, 1.0, 2.0, 3.0))})
        guard = [
            {"index": 0, "role": "input", "shape": ["batch", 4], "dtype": "float32"},
            {"index": 2, "role": "state", "name": "branch.weight", "shape": [2, 2], "dtype": "float32"},
        ]
        manifest = {
            "format": 1,
            "blueprint_id": blueprint_id,
            "shape_kind": place.shape_kind,
            "shape": list(place.shape),
            "parameters": json.loads(place.parameters),
            "form": "eager",
            "guard": guard,
            "guard_digest": guard_digest(guard),
            "weights_ref": self.objects.put(weights),
            "weights_bytes": len(weights),
            "cache_ref": self.objects.put(cache) if cache else "",
            "cache_bytes": len(cache),
        } | changes
        content = json.dumps(manifest, sort_keys=True, indent=1).encode()
        version = {
            "artifact_ref": self.objects.put(content),
            "checksum": hashlib.sha256(content).hexdigest(),
            "guard_digest": manifest["guard_digest"],
            "blueprint_id": blueprint_id,
            "place": place,
        }
        return version_of(version=self.made, **(version | (known or {})))


def version_of(**changes):
    values = {
        "artifact_ref": "sha256:" + "0" * 64,
        "blueprint_id": "BP009",
        "version": 1,
        "checksum": "0" * 64,
        "guard_digest": "0" * 64,
        "bytes": 100,
        "form": "eager",
        "stored_at_ms": 0,
        "place": PLACE,
        "compile_ms": 0.0,
        "eager_us": 0.0,
        "compiled_us": 0.0,
        "prewarm_p50_ms": 0.5,
        "prewarm_p95_ms": 0.75,
        "attachments": 0,
        "name": "residual_block",
        "tier": 1,
        "stage": 1,
        "risk": 0.25,
        "hazard_band": 0,
        "handling_class": 0,
        "tags": (),
        "is_approved": True,
        "quarantine_only": False,
        "state": "active",
        "since_ms": 0,
    }
    return Version(**(values | changes))


@dataclass
class Shelved:
    """A catalogue of given versions that can be made to fail or to hang until it is interrupted."""

    versions: list[Version]
    error: Exception | None = None
    hangs: bool = False
    asked: int = 0
    _interrupted: threading.Event = field(default_factory=threading.Event)

    def find(self, query):
        self.asked += 1
        if self.hangs:
            assert self._interrupted.wait(10.0)
            self._interrupted.clear()
            raise InterruptedError
        if self.error is not None:
            raise self.error
        return [
            each
            for each in self.versions
            if query.blueprint_id in {None, each.blueprint_id} and query.place in {None, each.place}
        ][: query.limit]

    def interrupt(self):
        self._interrupted.set()


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now_s = 1_000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def objects(tmp_path):
    return ObjectStore(tmp_path / "objects")


@pytest.fixture
def forge(objects):
    return Forge(objects)


@pytest.fixture
def kernels(objects, clock):
    return KernelCache(objects, clock)


@pytest.fixture
def make_version():
    return version_of


@pytest.fixture
def make_catalogue():
    return Shelved


@pytest.fixture
def place():
    return PLACE


@pytest.fixture
def damage(objects):
    """Flips one bit of a stored object."""

    def flip(ref, at=-1):
        digest = ref.removeprefix("sha256:")
        (path,) = [each for each in (objects.root / digest[:2]).iterdir() if each.name.startswith(digest[2:])]
        content = bytearray(path.read_bytes())
        content[at] ^= 1
        path.write_bytes(content)

    return flip
