"""The lock covers exactly what pyproject.toml comes to: every package by version and digest, and no other package."""

from __future__ import annotations

import os
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
LOCK = ROOT / "deploy" / "requirements.lock"
LINE = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>\S+) --hash=sha256:[0-9a-f]{64}")


def locked(text):
    """The versions by name; every line that is no comment must have a digest."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {found["name"]: found["version"] for line in lines if (found := LINE.fullmatch(line))}, len(lines)


def wanted():
    """Every requirement of the project and its tests, and theirs, as the installed packages declare them, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    todo = [Requirement(each) for each in (*project["dependencies"], *project["optional-dependencies"]["test"])]
    found: dict[str, list[Requirement]] = {}
    seen = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        found.setdefault(name, []).append(requirement)
        key = (name, tuple(sorted(requirement.extras)))
        if key not in seen:
            seen.add(key)
            todo += [each for each in theirs(name) if applies(each, requirement.extras)]
    return found


def theirs(name):
    return [Requirement(each) for each in metadata.distribution(name).requires or ()]


def applies(requirement, extras):
    environment = default_environment()
    return requirement.marker is None or any(
        requirement.marker.evaluate({**environment, "extra": extra}) for extra in (*extras, "")
    )


def test_the_lock_has_every_package_that_the_project_comes_to_and_no_other():
    versions, lines = locked(LOCK.read_text("utf-8"))
    requirements = wanted()

    assert len(versions) == lines, "a line has no digest"
    assert sorted(requirements) == sorted(versions)
    assert [
        str(each)
        for name, asked in requirements.items()
        for each in asked
        if not each.specifier.contains(versions[name], prereleases=True)
    ] == []


@pytest.mark.skipif("ESPER_LOCKED" not in os.environ, reason="not installed by the lock; .ci/run does")
def test_what_is_installed_is_what_the_lock_says():
    versions, _ = locked(LOCK.read_text("utf-8"))

    assert differences(versions) == {}


def differences(versions):
    """The packages of which another version is installed than is locked, None where none is: locked, installed."""
    installed = {canonicalize_name(each.name): each.version for each in metadata.distributions()}
    return {name: (to, installed.get(name)) for name, to in versions.items() if installed.get(name) != to}


def test_another_version_is_told_by_name():
    pytest_version = metadata.version("pytest")

    assert differences({"pytest": pytest_version}) == {}
    assert differences({"pytest": "0.1", "nobody-has-this": "1"}) == {
        "pytest": ("0.1", pytest_version),
        "nobody-has-this": ("1", None),
    }


@pytest.mark.parametrize("bad", ["numpy==2.4.6", "numpy>=2 --hash=sha256:" + "0" * 64, "numpy==2.4.6 --hash=md5:0"])
def test_a_line_without_version_or_digest_is_found(bad):
    versions, lines = locked(bad + "\n")

    assert (versions, lines) == ({}, 1)
