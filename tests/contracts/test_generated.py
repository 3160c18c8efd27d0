"""The generated code is what the .proto files generate, and the .proto files keep every promise made before."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from importlib.resources import files

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

COMPILE_S = 2.0
GENERATE = "python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. contracts/leyline/v1/*.proto"


def generate(root, target) -> None:
    """Run protoc as the documentation says, into another folder."""
    protos = sorted(str(path.relative_to(root)) for path in (root / "contracts").rglob("*.proto"))
    includes = ["-I.", f"-I{files('grpc_tools') / '_proto'}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *includes, f"--python_out={target}", f"--pyi_out={target}"]
    subprocess.run([*command, *protos], cwd=root, check=True, timeout=60)


@pytest.mark.requirement("R-LEY-1", "R-LEY-21")
def test_the_committed_code_is_what_the_contracts_generate(root, tmp_path):
    """R-LEY-1, and R-LEY-21 in processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    generate(root, tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    generated = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*_pb2.py*")}
    stale = [str(path) for path, content in generated.items() if (root / path).read_bytes() != content]

    assert len(generated) == 4
    assert stale == [], f"run: {GENERATE}"
    assert after.ru_utime - before.ru_utime < COMPILE_S


def test_the_frozen_descriptors_are_of_these_contracts(root, tmp_path, freeze):
    """Otherwise the next change is compared with something older; python tests/contracts/freeze.py renews it."""
    freeze.compile_descriptors(tmp_path / "now.binpb")
    now, frozen = (FileDescriptorSet.FromString(path.read_bytes()) for path in (tmp_path / "now.binpb", freeze.FROZEN))

    assert {file.name: file for file in now.file} == {file.name: file for file in frozen.file}


@pytest.fixture(scope="module")
def buf(root):
    """Run buf with some arguments; skips where it cannot be."""
    program = root / "node_modules" / ".bin" / "buf"
    if shutil.which("node") is None:
        pytest.skip("buf checks the contracts' style and compatibility, and needs node, which is not installed")
    if not program.exists():
        pytest.skip("buf is not installed: run npm ci")
    return lambda *arguments: subprocess.run(
        [program, *arguments], cwd=root, capture_output=True, text=True, timeout=120, check=False
    )


def test_buf_has_nothing_to_say(buf):
    result = buf("lint")

    assert (result.returncode, result.stdout + result.stderr) == (0, "")


@pytest.mark.requirement("R-LEY-18")
def test_nothing_that_was_frozen_is_broken(buf):
    """R-LEY-18."""
    result = buf("breaking", "--against", "tests/contracts/frozen.binpb")

    assert (result.returncode, result.stdout + result.stderr) == (0, "")


@pytest.mark.requirement("R-LEY-18")
@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("  string seed_id = 1;\n  SeedLifecycleStage stage = 2;", "  string seed_id = 1;", "deleted"),
        ("float gradient_norm = 3; // L2", "float gradient_norm = 13; // L2", "deleted"),
        ("SEED_OPERATION_CULL = 8", "SEED_OPERATION_CULL = 18", "deleted"),
        ("uint32 age_epochs = 7", "string age_epochs = 7", "changed type"),
    ],
)
def test_a_broken_promise_is_found(buf, root, tmp_path, old, new, complaint):
    """The check above can fail: the same command on contracts that took something back."""
    shutil.copytree(root / "contracts", tmp_path / "contracts")
    shutil.copy(root / "buf.yaml", tmp_path)
    proto = tmp_path / "contracts/leyline/v1/leyline.proto"
    source = proto.read_text(encoding="utf-8")
    proto.write_text(source.replace(old, new), encoding="utf-8")
    result = buf("breaking", str(tmp_path), "--against", str(root / "tests/contracts/frozen.binpb"))

    assert source.count(old) == 1
    assert result.returncode == 100
    assert complaint in result.stdout
