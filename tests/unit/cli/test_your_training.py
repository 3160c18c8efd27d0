"""`docs/your-training.md`: every line of it is carried out, in its order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from esper.cli.app import dispatch

PAGE = Path(__file__).parents[3] / "docs" / "your-training.md"
BLOCK = re.compile(r"```(python|sh)\n(.*?)```", re.DOTALL)


def test_every_line_of_the_page_works(tmp_path, monkeypatch, capsys):
    """In a script of its own folder, so that its run can be replayed from there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    blocks = BLOCK.findall(PAGE.read_text())
    assert [kind for kind, _ in blocks] == ["python", "python", "sh", "python"]
    (tmp_path / "train.py").write_text("".join(code for kind, code in blocks[:2]))
    names: dict[str, object] = {"__name__": "__main__"}
    main = type("Main", (), {"__file__": str(tmp_path / "train.py")})
    monkeypatch.setitem(__import__("sys").modules, "__main__", main)
    monkeypatch.setattr("sys.argv", ["train.py"])
    for kind, code in blocks:
        if kind == "python":
            exec(compile(code, str(tmp_path / "train.py"), "exec"), names)
            continue
        for line in code.splitlines():
            _, *arguments = shlex.split(line)
            assert dispatch([*arguments, "--data-dir", "esper-data"]) == 0, f"{line}: {capsys.readouterr()}"
    assert (tmp_path / "waves.pt2").exists()
    assert "replays bit for bit" in capsys.readouterr().out
    assert names["run"].result.status == "completed"
