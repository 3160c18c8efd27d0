"""What can be a file's name, and folders held open: nothing leaves them by a name or a link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from esper.errors import CorruptState, InvalidInput
from esper.leyline import names
from esper.leyline.folders import TEMPORARY, Folder

NO_NAMES = [
    "",
    ".",
    "..",
    "../victim",
    "a/b",
    "/etc/passwd",
    "a\\b",
    ".hidden",
    "-rf",
    "~",
    "a b",
    "a\n",
    "a\0b",
    "x\x1b[2J",
    "\u202etxt",
    "\uff41",
    "http:x",
    "C:x",
    "a'b",
    "a" * 250,
    None,
    7,
    b"a",
    ["a"],
]


@pytest.mark.parametrize("value", NO_NAMES)
def test_what_could_lead_out_of_a_folder_is_no_name_and_the_error_is_one_printable_line(value: object) -> None:
    with pytest.raises(InvalidInput, match="is not a name") as refused:
        names.checked(value, "the file", "manifest.json")

    assert not names.is_name(value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "value", ["a", "esper.runs", "epoch_completed-ab12-000000001.parquet", "k3f9x2qa-control", "_x"]
)
def test_the_names_that_esper_makes_are_names(value: str) -> None:
    assert names.checked(value, "the file") == value


def test_a_digest_is_sixty_four_hex_digits_and_nothing_else() -> None:
    assert names.digest("0" * 64, "the object") == "0" * 64
    for value in ("0" * 63, "0" * 64 + "\n", "A" * 64, "../" + "0" * 61, None):
        with pytest.raises(InvalidInput, match="SHA-256"):
            names.digest(value, "the object")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_bytes(b"theirs")
    return outside


@pytest.fixture
def folder(tmp_path: Path, outside: Path) -> Path:
    """A folder of a stranger, with links in it that lead out."""
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    (folder / "inside" / "up").symlink_to(outside)
    (folder / "link").symlink_to(outside / "victim")
    (folder / "away").symlink_to(outside)
    os.mkfifo(folder / "pipe")
    (folder / "plain").write_bytes(b"ours")
    return folder


def test_nothing_is_read_through_a_link_and_no_pipe_is_waited_for(folder: Path) -> None:
    with Folder.open(folder) as held:
        for name in ("link", "pipe", "away"):
            with pytest.raises((CorruptState, IsADirectoryError), match=name):
                held.read(name)
        with pytest.raises(CorruptState, match="is a link"):
            held.inside("away")

        assert held.read("plain") == b"ours"
        assert list(held.files()) == ["plain"]
        assert held.folders() == ["inside"]
        assert held.strangers() == ["'away'", "'link'", "'pipe'"]


def test_a_file_that_is_written_replaces_a_link_and_not_what_it_leads_to(folder: Path, outside: Path) -> None:
    with Folder.open(folder) as held:
        held.write("link", b"new")

        assert held.read("link") == b"new"
    assert (outside / "victim").read_bytes() == b"theirs"
    assert not list(folder.glob(f"{TEMPORARY}*"))


def test_what_is_removed_is_the_link_and_what_it_leads_to_stays(folder: Path, outside: Path) -> None:
    with Folder.open(folder) as held:
        assert held.remove("link")
        assert not held.remove("link")
        assert held.remove_folder("inside")
        assert not held.remove_folder("inside")
        with pytest.raises(CorruptState, match="is a link"):
            held.remove_folder("away")

    assert (outside / "victim").read_bytes() == b"theirs"
    assert sorted(path.name for path in folder.iterdir()) == ["away", "pipe", "plain"]


@pytest.mark.parametrize("name", ["../outside/victim", "inside/../plain", ""])
def test_every_way_into_a_folder_takes_names_only(folder: Path, name: str) -> None:
    with Folder.open(folder) as held:
        for use in (
            held.read,
            held.remove,
            held.remove_folder,
            held.inside,
            lambda name: held.write(name, b""),
            lambda name: held.move(name, held, "other"),
            lambda name: held.move("plain", held, name),
        ):
            with pytest.raises(InvalidInput, match="is not a name"):
                use(name)


def test_a_folder_that_is_replaced_by_a_link_while_it_is_held_stays_the_one_that_was_opened(
    folder: Path, outside: Path
) -> None:
    with Folder.open(folder).inside("inside") as held:
        (folder / "inside").rename(folder / "moved")
        (folder / "inside").symlink_to(outside)
        held.write("victim", b"ours")

    assert (outside / "victim").read_bytes() == b"theirs"
    assert (folder / "moved" / "victim").read_bytes() == b"ours"


def test_what_a_killed_writer_left_is_taken_away_and_nothing_else(folder: Path) -> None:
    (folder / f"{TEMPORARY}0123").write_bytes(b"half")
    with Folder.open(folder) as held:
        held.remove_broken_off()

    assert sorted(path.name for path in folder.iterdir()) == ["away", "inside", "link", "pipe", "plain"]
