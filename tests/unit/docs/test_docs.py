"""The documentation is true: its links lead somewhere, its commands exist, its example runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def pages() -> Iterator[Path]:
    """Every page, without a look into what is installed beside."""
    for folder, inner, files in os.walk(ROOT):
        inner[:] = [name for name in inner if name not in {"node_modules", "esper-data"} and not name.startswith(".")]
        yield from (Path(folder, name) for name in files if name.endswith(".md"))


PAGES = sorted(pages())
TITLES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=TITLES)
def test_its_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]

    assert [link for link in local if not (page.parent / link).exists()] == []


@cache
def of_the_tests() -> list[str]:
    """Every file of the tests."""
    return [str(path) for path in (ROOT / "tests").rglob("*.*")]


@pytest.mark.parametrize("page", PAGES, ids=TITLES)
def test_the_files_that_it_names_exist(page):
    named = re.findall(r"`([\w./-]+\.(?:py|sql|proto|yml|yaml|toml))`", page.read_text(encoding="utf-8"))
    elsewhere = [name for name in named if not (page.parent / name).exists() and not (ROOT / name).exists()]

    assert [name for name in elsewhere if not any(path.endswith(f"/{name}") for path in of_the_tests())] == []


@cache
def the_command():
    """The `esper` command as its parser has it: made once, it takes a tenth of a second."""
    import typer

    from esper.cli.app import app

    return typer.main.get_command(app)


def unknown_words(text: str) -> list[str]:
    """Commands and options of `esper` that a page names and that do not exist, as `esper run --sed`."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", text)
    found = []
    for line in lines:
        for used in re.findall(r"(?:^|&& |exec |\$ )esper ([a-z].*)", line.partition(" #")[0]):
            command, words = the_command(), re.sub(r"\"[^\"]*\"|'[^']*'", "TEXT", used).split()
            words = words[1:] if words[:1] == ["esper"] else words  # of `docker compose exec esper esper run`
            while words and words[0] in getattr(command, "commands", {}):
                command = command.commands[words.pop(0)]
            if getattr(command, "commands", {}) and words and re.fullmatch(r"[a-z]+", words[0]):
                found.append(f"esper {used}: {words[0]}")
            known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}
            given = {word.partition("=")[0] for word in words if word.startswith("--")}
            found += [f"esper {used}: {option}" for option in sorted(given - known)]
    return found


@pytest.mark.parametrize("page", PAGES, ids=TITLES)
def test_its_commands_and_options_exist(page):
    assert unknown_words(page.read_text(encoding="utf-8")) == []


def test_commands_and_options_that_do_not_exist_are_found():
    page = """Type `esper runz` or
```
pip install -e . && esper run --sed 1    # --this is a comment
esper blueprints shw BP009
esper fork last --at 3 --do "germinate --now" --kind x
esper archive status --json
```
"""
    assert [line.rpartition(": ")[2] for line in unknown_words(page)] == ["--sed", "shw", "--kind", "runz"]


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()

    assert len(lines) < 150


def test_the_example_of_a_task_of_ones_own_works(tmp_path):
    from esper.tolaria.tasks import user_task

    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (example,) = [each for each in examples if "Task.from_samples" in each]
    file = tmp_path / "wine.py"
    file.write_text(example, encoding="utf-8")
    task = user_task(f"{file}:wine")

    assert task.name == "wine"
    assert task.make_host()(task.train.inputs[:4]).shape == (4, 3)
    assert [len(part) for part in (task.train, task.probe, task.test)] == [108, 26, 44]


PATHS = ("The path of one event", "The path of one command")


def stops(title: str) -> list[str]:
    """The items of the numbered list under a heading of how-it-works.md."""
    page = (ROOT / "docs/how-it-works.md").read_text(encoding="utf-8")
    section = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\d+\. (.*(?:\n +.*)*)", section, re.MULTILINE)


def undefined(line: str) -> list[str]:
    """What a line "`file`: `name` ..." names that the file lacks: the first name is defined there, the others occur."""
    file, first, *others = re.findall(r"`([^`]+)`", line)
    text = (ROOT / file).read_text(encoding="utf-8")
    owner, _, method = first.partition(".")
    wanted = [rf"^(?:class|def|async def) {owner}\b", *([rf"^    (?:async )?def {method}\("] if method else [])]
    wanted += [rf"\b{name}\b" for name in others if "/" not in name]
    return [pattern for pattern in wanted if not re.search(pattern, text, re.MULTILINE)]


@pytest.mark.parametrize("title", PATHS)
def test_a_path_goes_by_few_files_and_names_what_they_define(title):
    assert 10 <= len(stops(title)) <= 15
    assert {line: found for line in stops(title) if (found := undefined(line))} == {}


def test_what_a_file_of_a_path_does_not_define_is_found():
    good = "`esper/tolaria/world.py`: `LiveWorld.publish` takes an `Event`."

    assert undefined(good) == []
    assert undefined(good.replace("publish", "publishes")) != []
    assert undefined(good.replace("LiveWorld", "Live")) != []
    assert undefined(good.replace("`Event`", "`Evening`")) != []


def modules_without_a_line(room: Path, page: str) -> list[str]:
    """The modules of a room that its README does not name."""
    named = {Path(name).stem for name in re.findall(r"`([\w./]+)`", page)}
    return sorted(path.stem for path in room.glob("*.py") if not path.stem.startswith("__") and path.stem not in named)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name == "README.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_a_rooms_readme_names_its_modules(page):
    assert modules_without_a_line(page.parent, page.read_text(encoding="utf-8")) == []


def test_a_module_that_a_readme_leaves_out_is_found():
    assert "settings" in modules_without_a_line(ROOT / "streams", "| `topics`, `keys.py` | ... |")
