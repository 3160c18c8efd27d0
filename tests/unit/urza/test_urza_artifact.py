"""Reading artifacts: what is right is served as it was stored, and every kind of wrong has its reason."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct

import pytest

from contracts.leyline.v1.leyline_pb2 import KernelArtifactReady
from esper.errors import CorruptState, InvalidInput
from esper.urza import artifact
from esper.urza.artifact import IDENTITY, MAX_BYTES, Expected, Kernel, Refusal, check, layout, read, store
from esper.urza.version import Place


def reason(objects, version):
    found = read(objects, Expected.of_version(version))
    assert isinstance(found, Refusal), found
    return found.reason


def test_what_was_stored_is_what_is_read(objects, forge):
    version = forge.make(cache=b"compiler cache")

    kernel = read(objects, Expected.of_version(version))

    assert isinstance(kernel, Kernel)
    assert kernel.weights == objects.get(kernel.manifest["weights_ref"])
    assert (kernel.cache, kernel.form, kernel.is_identity) == (b"compiler cache", "eager", False)
    assert check(kernel, Expected.of_version(version)) is None
    assert IDENTITY.is_identity


@pytest.mark.requirement("R-URZA-3")
@pytest.mark.parametrize("part", ["manifest", "weights_ref", "cache_ref"])
@pytest.mark.parametrize("at", [0, 20, -1])
def test_one_flipped_bit_anywhere_is_found(objects, forge, damage, part, at):
    version = forge.make(cache=b"a compiler cache of some length")
    manifest = json.loads(objects.get(version.artifact_ref))
    damage(manifest.get(part, version.artifact_ref), at)

    assert reason(objects, version) == "checksum_mismatch"


@pytest.mark.parametrize("part", ["manifest", "weights_ref", "cache_ref"])
def test_a_missing_object_is_found(objects, forge, part):
    version = forge.make(cache=b"cache")
    manifest = json.loads(objects.get(version.artifact_ref))
    objects.delete(manifest.get(part, version.artifact_ref))

    assert reason(objects, version) == "missing_artifact"


@pytest.mark.requirement("R-URZA-4")
@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"checksum": ""}, "missing_checksum"),
        ({"checksum": "1" * 64}, "checksum_mismatch"),
        ({"guard_digest": "1" * 64}, "guard_mismatch"),
        ({"blueprint_id": "BP010"}, "wrong_artifact"),
        ({"place": Place.of("vector", [5], {"depth": 2.0})}, "wrong_artifact"),
        ({"place": Place.of("vector", [4], {"depth": 3.0})}, "wrong_artifact"),
        ({"artifact_ref": "sha256:nonsense"}, "missing_artifact"),
    ],
)
def test_an_artifact_other_than_the_catalogue_says_is_refused(objects, forge, known, expected):
    assert reason(objects, forge.make(known=known)) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"guard_digest": "2" * 64}, "guard_mismatch"),
        ({"format": 2}, "malformed"),
        ({"guard": "none"}, "malformed"),
        ({"guard": [{"role": "state"}], "guard_digest": artifact.guard_digest([{"role": "state"}])}, "malformed"),
        ({"guard": [], "guard_digest": artifact.guard_digest([])}, "guard_mismatch"),
        ({"parameters": ["depth"]}, "malformed"),
        ({"shape": 4}, "malformed"),
        ({"weights_bytes": MAX_BYTES + 1}, "oversized"),
        ({"weights_bytes": 5}, "oversized"),
        ({"weights_bytes": -5}, "oversized"),
        ({"weights_bytes": "many"}, "malformed"),
        ({"weights_ref": "../../etc/passwd"}, "missing_artifact"),
    ],
)
def test_a_manifest_that_does_not_hold_together_is_refused(objects, forge, changes, expected):
    assert reason(objects, forge.make(**changes)) == expected


def test_what_is_no_manifest_is_refused(objects, forge):
    for content in (b"", b"[]", b"{}", b"\x80\x05", b"[" * 100_000, b"null"):
        ref = objects.put(content)
        known = {"artifact_ref": ref, "checksum": hashlib.sha256(content).hexdigest()}

        assert reason(objects, forge.make(known=known)) == "malformed"


def test_a_manifest_that_is_too_large_is_not_even_read(objects, forge):
    ref = objects.put(b" " * (artifact.MAX_MANIFEST_BYTES + 1))

    assert reason(objects, forge.make(known={"artifact_ref": ref})) == "oversized"


@pytest.mark.requirement("R-URZA-24")
def test_a_pickle_in_the_place_of_weights_is_refused_and_never_run(objects, forge, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    version = forge.make(weights=pickle.dumps(Bomb()))

    assert reason(objects, version) == "malformed"
    assert not (tmp_path / "ran").exists()


@pytest.mark.requirement("R-URZA-22")
def test_a_consumer_checks_what_the_answer_names(objects, forge, place):
    version = forge.make()
    ready = KernelArtifactReady(
        blueprint_id="BP009",
        artifact_ref=version.artifact_ref,
        checksum=version.checksum,
        guard_digest=version.guard_digest,
    )
    other = KernelArtifactReady()
    other.CopyFrom(ready)
    other.guard_digest = "3" * 64

    assert isinstance(read(objects, Expected.of_answer(ready, place)), Kernel)
    assert isinstance(read(objects, Expected.of_answer(ready, None)), Kernel)
    assert isinstance(read(objects, Expected.of_answer(other, place)), Refusal)


@pytest.mark.parametrize("part", ["content", "weights", "cache"])
def test_a_bit_that_flips_in_memory_is_found(objects, forge, part):
    version = forge.make(cache=b"cache")
    expected = Expected.of_version(version)
    kernel = read(objects, expected)
    parts = {"content": kernel.content, "weights": kernel.weights, "cache": kernel.cache}
    parts[part] = bytes([parts[part][0] ^ 1]) + parts[part][1:]

    found = check(
        Kernel(kernel.artifact_ref, parts["content"], kernel.manifest, parts["weights"], parts["cache"]), expected
    )

    assert found is not None
    assert found.reason == "checksum_mismatch"


@pytest.mark.requirement("R-URZA-5", "R-URZA-6")
def test_large_parts_are_stored_compressed_under_the_digest_of_what_they_are(objects):
    content = bytes(artifact.COMPRESS_ABOVE_BYTES + 1)

    manifest = json.loads(objects.get(store(objects, {"form": "eager"}, content, b"small")))

    assert manifest["weights_ref"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert objects.get(manifest["weights_ref"]) == content
    assert (manifest["weights_bytes"], manifest["cache_bytes"]) == (len(content), 5)
    assert sum(path.stat().st_size for path in objects.root.rglob("*") if path.is_file()) < 100_000


@pytest.mark.requirement("R-URZA-6")
def test_what_is_too_large_together_is_not_stored(objects):
    with pytest.raises(InvalidInput, match="too large"):
        store(objects, {"form": "compiled"}, bytes(MAX_BYTES), b"x")

    assert not objects.root.exists()


def test_the_layout_of_weights_is_read_without_torch():
    header = json.dumps(
        {"__metadata__": {"a": "b"}, "w": {"dtype": "I64", "shape": [3], "data_offsets": [0, 24]}}
    ).encode()

    assert layout(struct.pack("<Q", len(header)) + header + bytes(24)) == {"w": ("int64", (3,))}
    for broken in (b"", b"\xff" * 8, struct.pack("<Q", 5) + b"[1,2]", struct.pack("<Q", 2) + b"\xff\xff"):
        with pytest.raises(CorruptState):
            layout(broken)
