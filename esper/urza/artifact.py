"""The artifact of a kernel in the object store: the one way to write it and the one way to read it.

    artifact_ref ─► manifest (JSON: guard, measurements) ─► weights_ref  initial weights, safetensors
                                                        └─► cache_ref    torch's compiler cache, "" where there is none

The manifest's SHA-256 is the version's address and checksum, and the manifest names the other objects by theirs: so the
signature of the event that names the artifact (`ArtifactStored`, `KernelArtifactReady`) covers all of it, and a version
cannot be changed, only followed by another. Nothing here is unpickled, and nothing needs torch.

Source: R-URZA-2 to R-URZA-6, R-URZA-22, R-URZA-24, rulings 16 and 20.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from contracts.leyline.v1.leyline_pb2 import KernelArtifactReady
from esper.errors import CorruptState, InvalidInput
from esper.leyline.json_text import parsed
from esper.leyline.objects import ObjectStore
from esper.urza.version import Place, Version

FORMAT: Final = 1
MAX_BYTES: Final = 100 * 10**6
"""Weights and compiler cache together."""
MAX_MANIFEST_BYTES: Final = 2**20
COMPRESS_ABOVE_BYTES: Final = 10 * 10**6
MAX_HEADER_BYTES: Final = 2**20
"""Of a safetensors file: https://huggingface.co/docs/safetensors."""

Reason = Literal[
    "missing_artifact",
    "malformed",
    "missing_checksum",
    "checksum_mismatch",
    "guard_mismatch",
    "wrong_artifact",
    "oversized",
]


@dataclass(frozen=True, slots=True)
class Expected:
    """What an artifact must be, from the catalogue or from a prefetch answer. A `place` of None is not compared."""

    artifact_ref: str
    blueprint_id: str
    checksum: str
    guard_digest: str
    place: Place | None

    @classmethod
    def of_version(cls, version: Version) -> Expected:
        """As the catalogue has it."""
        return cls(version.artifact_ref, version.blueprint_id, version.checksum, version.guard_digest, version.place)

    @classmethod
    def of_answer(cls, ready: KernelArtifactReady, place: Place | None) -> Expected:
        """As Urza answered a request for `place`."""
        return cls(ready.artifact_ref, ready.blueprint_id, ready.checksum, ready.guard_digest, place)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A checked artifact in memory: the manifest's bytes and what they say, the weights, the compiler's cache.

    The identity kernel, served where nothing else can be, has no reference and no weights.
    """

    artifact_ref: str
    content: bytes
    manifest: Mapping[str, Any]
    weights: bytes
    cache: bytes

    @property
    def nbytes(self) -> int:
        """Its size in memory."""
        return len(self.content) + len(self.weights) + len(self.cache)

    @property
    def is_identity(self) -> bool:
        """Whether this changes nothing where it is attached."""
        return not self.artifact_ref

    @property
    def form(self) -> str:
        """Which form serves: eager or compiled."""
        return str(self.manifest["form"])


IDENTITY: Final = Kernel("", b"", {"blueprint_id": "BP001", "form": "eager"}, b"", b"")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an artifact is not served; `detail` is one line."""

    reason: Reason
    detail: str


def store(objects: ObjectStore, manifest: Mapping[str, Any], weights: bytes, cache: bytes = b"") -> str:
    """Store an artifact durably, the manifest last, and return its reference.

    `manifest` is what `read` expects but for format, references and sizes, which are filled in. Objects above 10 MB are
    compressed; a reference is always that of the bytes as given, so the same content gives the same reference. Raises
    InvalidInput above 100 MB, before anything is stored.
    """
    check_size(len(weights) + len(cache))
    whole = {
        **manifest,
        "format": FORMAT,
        "weights_ref": _put(objects, weights),
        "weights_bytes": len(weights),
        "cache_ref": _put(objects, cache) if cache else "",
        "cache_bytes": len(cache),
    }
    return _put(objects, json.dumps(whole, sort_keys=True, indent=1).encode())


def check_size(nbytes: int) -> None:
    """Raise InvalidInput where weights and compiler cache of `nbytes` together are more than the library takes."""
    if nbytes > MAX_BYTES:
        raise InvalidInput(f"a kernel of {nbytes} bytes is too large: the library takes {MAX_BYTES} at most")


def read(objects: ObjectStore, expected: Expected) -> Kernel | Refusal:
    """The kernel that is expected, or the first check that it fails."""
    try:
        _require(bool(expected.checksum), "missing_checksum", f"{expected.artifact_ref} was stored without a checksum")
        content = _object(objects, expected.artifact_ref, MAX_MANIFEST_BYTES)
        manifest = _manifest(content, expected.artifact_ref)
        _check_manifest(content, manifest, expected)
        weights = _object(objects, manifest["weights_ref"], manifest["weights_bytes"])
        cache = _object(objects, manifest["cache_ref"], manifest["cache_bytes"]) if manifest["cache_ref"] else b""
        _check_layout(manifest, weights, expected.artifact_ref)
    except _RefusedError as refused:
        return refused.refusal
    return Kernel(expected.artifact_ref, content, manifest, weights, cache)


def named(objects: ObjectStore, artifact_ref: str, blueprint_id: str) -> Kernel | Refusal:
    """The kernel behind a reference alone, as a fact of a run gives it: the reference is the manifest's checksum.

    For a replay, which has the signed facts of its run and no catalogue.
    """
    try:
        digest = _manifest(_object(objects, artifact_ref, MAX_MANIFEST_BYTES), artifact_ref)["guard_digest"]
    except _RefusedError as refused:
        return refused.refusal
    checksum = artifact_ref.removeprefix("sha256:")
    return read(objects, Expected(artifact_ref, blueprint_id, checksum, digest, None))


def check(kernel: Kernel, expected: Expected) -> Refusal | None:
    """What is wrong with a kernel in memory; its bytes are hashed anew, so a bit that flipped there is found."""
    manifest = kernel.manifest
    try:
        for reference, content in ((manifest["weights_ref"], kernel.weights), (manifest["cache_ref"], kernel.cache)):
            intact = not reference or f"sha256:{hashlib.sha256(content).hexdigest()}" == reference
            _require(intact, "checksum_mismatch", f"object {reference} of {kernel.artifact_ref} changed in memory")
        _check_manifest(kernel.content, manifest, expected)
    except _RefusedError as refused:
        return refused.refusal
    return None


def guard_digest(guard: Any) -> str:
    """SHA-256 (hex) over a guard's JSON with its keys in order: the same guard gives the same digest (R-TEZ-19)."""
    return hashlib.sha256(json.dumps(guard, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class _RefusedError(Exception):
    """Carries a refusal from the check that failed to the reader."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


def _require(holds: bool, reason: Reason, detail: str) -> None:  # noqa: FBT001 - the condition is the argument
    if not holds:
        raise _RefusedError(Refusal(reason, detail))


_FIELDS: Final[Mapping[str, type]] = {
    "blueprint_id": str,
    "form": str,
    "guard": list,
    "guard_digest": str,
    "weights_ref": str,
    "weights_bytes": int,
    "cache_ref": str,
    "cache_bytes": int,
}


def _manifest(content: bytes, ref: str) -> dict[str, Any]:
    """The manifest with every field that is read here, each of its type."""
    try:
        manifest: dict[str, Any] = parsed(content)
        _require(manifest["format"] == FORMAT, "malformed", f"{ref} has format {manifest['format']}, not {FORMAT}")
        Place.of(manifest["shape_kind"], manifest["shape"], manifest["parameters"])
        for name, kind in _FIELDS.items():
            _require(isinstance(manifest[name], kind), "malformed", f"{ref}: {name} is {manifest[name]!r}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise _RefusedError(
            Refusal("malformed", f"object {ref} is no artifact: {type(error).__name__} {error}")
        ) from None
    return manifest


def _check_manifest(content: bytes, manifest: Mapping[str, Any], expected: Expected) -> None:
    ref, digest = expected.artifact_ref, manifest["guard_digest"]
    checksum = hashlib.sha256(content).hexdigest()
    _require(checksum == expected.checksum, "checksum_mismatch", f"{ref} does not have checksum {expected.checksum}")
    _require(guard_digest(manifest["guard"]) == digest, "guard_mismatch", f"the guard of {ref} has another digest")
    _require(digest == expected.guard_digest, "guard_mismatch", f"{ref} has guard {digest}, not the one expected")
    blueprint = manifest["blueprint_id"]
    _require(blueprint == expected.blueprint_id, "wrong_artifact", f"{ref} is {blueprint}, not {expected.blueprint_id}")
    place = Place.of(manifest["shape_kind"], manifest["shape"], manifest["parameters"])
    _require(expected.place in {None, place}, "wrong_artifact", f"{ref} is for {place}, not for {expected.place}")
    sizes = (manifest["weights_bytes"], manifest["cache_bytes"])
    fits = min(sizes) >= 0 and sum(sizes) <= MAX_BYTES
    _require(fits, "oversized", f"{ref} declares {sum(sizes)} bytes; the library serves {MAX_BYTES} at most")


Layout: TypeAlias = dict[str, tuple[str, tuple[int, ...]]]
"""Of every tensor, by name: torch's name for its kind of number, and its shape."""

_DTYPES: Final = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def layout(content: bytes) -> Layout:
    """The tensors in a safetensors file, read from its header alone: no tensor is made and torch is not needed.

    Raises CorruptState where the bytes are no safetensors file, or of a kind of number that is not in the list.
    """
    try:
        (length,) = struct.unpack_from("<Q", content)
        if length > min(MAX_HEADER_BYTES, len(content) - 8):
            raise CorruptState(f"a safetensors header of {length} bytes in a file of {len(content)}")
        header = parsed(content[8 : 8 + length])
        return {
            str(name): (_DTYPES[entry["dtype"]], tuple(entry["shape"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptState(f"no safetensors file: {type(error).__name__} {error}") from None


def _check_layout(manifest: Mapping[str, Any], weights: bytes, ref: str) -> None:
    """The weights are the tensors that the guard names, each of its shape and kind of number."""
    try:
        guarded = {
            str(entry["name"]): (str(entry["dtype"]), tuple(entry["shape"]))
            for entry in manifest["guard"]
            if entry["role"] == "state"
        }
        found = layout(weights)
    except (CorruptState, KeyError, TypeError) as error:
        raise _RefusedError(Refusal("malformed", f"weights or guard of {ref} cannot be read: {error}")) from None
    others = sorted(name for name in found.keys() | guarded if found.get(name) != guarded.get(name))
    _require(not others, "guard_mismatch", f"the weights of {ref} are not as guarded: {', '.join(others)}")


def _put(objects: ObjectStore, content: bytes) -> str:
    return objects.put(content, compress=len(content) > COMPRESS_ABOVE_BYTES)


def _object(objects: ObjectStore, ref: str, limit: int) -> bytes:
    """An object's bytes; its size is looked at before it is read."""
    try:
        size = objects.size(ref)
        _require(size <= limit, "oversized", f"object {ref} has {size} bytes where {limit} are declared or allowed")
        return objects.get(ref)
    except InvalidInput as error:
        raise _RefusedError(Refusal("missing_artifact", str(error))) from None
    except CorruptState as error:
        raise _RefusedError(Refusal("checksum_mismatch", str(error))) from None
