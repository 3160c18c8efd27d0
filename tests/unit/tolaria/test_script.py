"""A person's script: what a run records of it, and that it can be laid out again."""

import subprocess
import sys
from pathlib import Path

import pytest

from contracts.leyline.v1.event_pb2 import Script
from esper.errors import InvalidInput
from esper.leyline.objects import ObjectStore
from esper.tolaria.script import changed, lay_out

RECORD = """
import sys
from pathlib import Path
import neighbour, below.deep
from esper.leyline.objects import ObjectStore
from esper.tolaria.script import this_script
Path(sys.argv[2]).write_bytes(this_script(ObjectStore(Path(sys.argv[1]))).SerializeToString())
"""


def git(folder: Path, *arguments: str) -> str:
    named = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.run(("git", "-C", folder, *named, *arguments), check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """(the script's facts, its objects, its home): a script in a repository, with a change that is not committed."""
    home, objects = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("objects")
    (home / "my train.py").write_text(RECORD)
    (home / "neighbour.py").write_text("VALUE = 1\n")
    (home / "below").mkdir()
    (home / "below" / "deep.py").write_text("VALUE = 2\n")
    git(home, "init", "-q")
    git(home, "add", ".")
    git(home, "commit", "-qm", "first")
    (home / "neighbour.py").write_text("VALUE = 3\n")
    out = objects / "script.bin"
    command = (sys.executable, "my train.py", objects / "objects", out)
    subprocess.run(command, cwd=home, check=True, env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "TOKEN": "s"})
    return Script.FromString(out.read_bytes()), ObjectStore(objects / "objects"), home


def test_a_script_is_recorded_with_what_it_imported_from_its_own_folder(recorded):
    script, objects, home = recorded
    assert set(script.sources) == {"script.py", "neighbour.py", "below/deep.py"}
    assert objects.get(script.sources["neighbour.py"]) == b"VALUE = 3\n"
    assert (script.path, script.folder) == (str(home / "my train.py"), str(home))
    assert list(script.arguments)[1].endswith("script.bin")
    assert script.commit == git(home, "rev-parse", "HEAD").strip()
    assert b"+VALUE = 3" in objects.get(script.diff)
    assert dict(script.environment) == {"OMP_NUM_THREADS": "1"}


def test_it_is_laid_out_as_it_was_and_what_changed_since_is_named(recorded, tmp_path):
    script, objects, home = recorded
    path = lay_out(script, objects, tmp_path)
    assert path.read_text() == RECORD
    assert (tmp_path / "below" / "deep.py").read_text() == "VALUE = 2\n"
    assert changed(script) == ["script.py"]  # its own name is none; the copy is what runs
    (home / "neighbour.py").write_text("VALUE = 4\n")
    assert changed(script) == ["neighbour.py", "script.py"]


@pytest.mark.parametrize("name", ["../outside.py", "/etc/outside.py", "a/../../outside.py", ".hidden.py", "a//b.py"])
def test_a_strangers_name_leads_nowhere(recorded, tmp_path, name):
    script, objects, _ = recorded
    stranger = Script.FromString(script.SerializeToString())
    stranger.sources[name] = script.sources["neighbour.py"]
    (inside := tmp_path / "in").mkdir()
    with pytest.raises(InvalidInput, match="is not a name"):
        lay_out(stranger, objects, inside)
    assert not list(tmp_path.glob("*outside.py"))


def test_a_session_without_a_file_says_so(recorded, tmp_path):
    _, objects, _ = recorded
    with pytest.raises(InvalidInput, match="session without a file"):
        lay_out(Script(arguments=["x"]), objects, tmp_path)
    with pytest.raises(InvalidInput, match="lacks its script"):
        lay_out(Script(path="a.py"), objects, tmp_path)
