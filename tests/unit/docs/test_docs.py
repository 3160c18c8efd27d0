"""The documentation is true: its links lead somewhere, its commands exist, its example runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {"node_modules", "esper-data"} & set(path.parts) and not any(part.startswith(".") for part in path.parts)
)
TITLES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=TITLES)
def test_its_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]

    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=TITLES)
def test_the_files_that_it_names_exist(page):
    named = re.findall(r"`([\w./-]+\.(?:py|sql|proto|yml|yaml|toml))`", page.read_text(encoding="utf-8"))
    elsewhere = [name for name in named if not (page.parent / name).exists() and not (ROOT / name).exists()]

    assert [name for name in elsewhere if not any((ROOT / "tests").rglob(name))] == []


@pytest.mark.parametrize("page", PAGES, ids=TITLES)
def test_its_commands_and_options_exist(page):
    import typer

    from esper.cli.app import app

    known = typer.main.get_command(app).commands
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", text)
    used = [match[1] for line in lines if (match := re.search(r"(?:^|&& |exec esper )esper ([a-z]+)", line))]

    assert [command for command in used if command not in known] == []


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()

    assert len(lines) < 150


def test_the_example_of_a_task_of_ones_own_works(tmp_path):
    from esper.tolaria.tasks import user_task

    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "wine.py"
    file.write_text(example, encoding="utf-8")
    task = user_task(f"{file}:wine")

    assert task.name == "wine"
    assert task.make_host()(task.train.inputs[:4]).shape == (4, 3)
    assert [len(part) for part in (task.train, task.probe, task.test)] == [108, 26, 44]
