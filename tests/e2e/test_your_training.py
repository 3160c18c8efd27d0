"""`docs/your-training.md`: every line of it is carried out, in its order."""

from __future__ import annotations

import difflib
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from esper.cli.app import dispatch

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "your-training.md"
BLOCKS = re.compile(r"^```(python|sh)\n(.*?)^```", re.DOTALL | re.MULTILINE)
ELSEWHERE = "torchrun --standalone --nproc-per-node 2 examples/distributed.py\nesper resume last\n"
"""What `test_examples.py` carries out, with a rank that is killed in between."""


class Script:
    """The page's `train.py`, run in this process as Python runs a script."""

    def __init__(self, folder: Path, code: str) -> None:
        self.path = folder / "train.py"
        self.code = code
        self.names: dict[str, object] = {}

    def run(self) -> None:
        """As `python train.py --seed 0`; what it leaves is in `names`."""
        self.path.write_text(self.code)
        main = ModuleType("__main__")
        main.__file__ = str(self.path)
        self.names = vars(main)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "__main__", main)
            patch.setattr(sys, "argv", ["train.py", "--seed", "0"])
            exec(compile(self.code, str(self.path), "exec"), self.names)

    def fail(self) -> None:
        """The same with a mistake in it, which the person then mends."""
        code, self.code = self.code, self.code.replace("in run.epochs():", "in run.epochs():\n        assert epoch < 3")
        with pytest.raises(AssertionError):
            self.run()
        self.code = code
        self.path.write_text(code)


def carried_out(block: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What each command of a block says."""
    said = []
    for line in block.splitlines():
        name, *arguments = shlex.split(line)
        assert (name, dispatch(arguments)) == ("esper", 0), f"{line}: {capsys.readouterr()}"
        said.append(capsys.readouterr().out)
    return said


def test_every_line_of_the_page_works(esper, monkeypatch, capsys):
    """In a script of its own folder, so that its run can be replayed from there."""
    folder = esper.data_dir.parent
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ESPER_DATA", str(esper.data_dir))
    loop, growing, *others = BLOCKS.findall(PAGE.read_text())
    script = Script(folder, (loop[1] + growing[1]).replace("epochs=20", "epochs=12"))
    script.run()
    assert script.names["run"].result.status == "completed"
    exec(compile(next(code for kind, code in others if kind == "python"), "train.py", "exec"), script.names)
    grown, points = script.names["grown"], torch.stack([point for point, _ in script.names["test"]])
    assert torch.equal(torch.export.load(folder / "waves.pt2").module()(points), grown(points))
    blocks = [code for kind, code in others if kind == "sh"]
    assert ELSEWHERE in blocks
    said = []
    for block in blocks:
        if "--with-my-file" in block:
            script.fail()
        said += [] if block == ELSEWHERE else carried_out(block, capsys)
    assert [each for each in said if "replays bit for bit" in each] != []
    assert "2 random seeds: test loss" in said[-1]


def test_the_difference_that_it_shows_is_all_there_is():
    """But for the description at the top of the file, and blank lines."""
    (shown,) = re.findall(r"^```diff\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    texts = [(ROOT / "examples" / folder / "language.py").read_text() for folder in ("plain", ".")]
    plain, grown = (text.split('"""\n\n', 1)[1].splitlines() for text in texts)
    found = [
        line for line in difflib.unified_diff(plain, grown, n=0, lineterm="") if line[1:].strip() and line[:2] != "@@"
    ]
    assert [line for line in found if not line.startswith(("--- ", "+++ "))] == shown.splitlines()
