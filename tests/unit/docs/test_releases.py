"""What docs/releases.md promises of every release: its histories are kept, so that later ones are tried on them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from esper import __version__
from esper.leyline.envelope import SCHEMA_VERSION
from projections import manifest
from tests.unit.projections.keep_log import KEPT as KEPT_LOGS
from tests.unit.retrace.keep_life import life_of

ROOT = Path(__file__).parents[3]


def releases(changelog: str) -> list[str]:
    """The versions that the changelog says were released, and the one that is being made."""
    return sorted({__version__, *re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)})


def lacking(changelog: str) -> list[str]:
    return [life_of(each).name for each in releases(changelog) if not life_of(each).exists()]


def test_a_life_of_every_release_is_kept():
    """`test_kept_lives.py` trains them all again."""
    assert lacking((ROOT / "CHANGELOG.md").read_text(encoding="utf-8")) == []


def test_a_release_that_kept_none_is_told_by_name():
    assert lacking("## [Unreleased]\n\n## [9.8.7] - 2030-01-01\n") == ["life_9_8_7.gz"]


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_a_log_of_every_schema_version_and_an_archive_of_every_format_are_kept(version):
    """The tests of projections and of old archives read them."""
    assert (KEPT_LOGS / f"v{version}.jsonl").exists()
    assert (KEPT_LOGS / f"archive_v{manifest.FORMAT}" / "archive").is_dir()


@pytest.mark.requirement("R-OPS-10")
def test_the_runbook_says_how_to_start_stop_look_and_go_back():
    """Its commands are those that there are (test_docs), its alerts and drills too (test_alert_drills)."""
    page = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (\w.* .*)$", page, re.MULTILINE)

    assert sections == ["Start and stop", "How it is", "Going back", "What the alerts mean"]
    for told in (
        "esper up",
        "Ctrl-C",
        "esper doctor",
        "streams.healthcheck",
        "esper policy rollback",
        "releases.md#roll-back",
    ):
        assert told in page
