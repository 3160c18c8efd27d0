"""Writes `deploy/requirements.lock`: what pyproject.toml comes to today, each package with its version and digest.

    python -m tests.lock

Asks pip to resolve the project with its extra `test` and to install nothing. The digests are of the files that pip
would install here (Linux on x86-64, CPython 3.11, torch's build for processors); on another platform some differ.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "deploy" / "requirements.lock"
HEAD = """\
# What Esper and its tests run on, for Linux on x86-64 and CPython 3.11. Made by `python -m tests.lock`; do not edit.
# pip install --require-hashes --no-deps -r deploy/requirements.lock && pip install --no-deps -e .
"""


def locked(report: dict) -> str:
    """The lines of the lock for a report of `pip install --report`."""
    lines = {}
    for each in report["install"]:
        name = re.sub(r"[-_.]+", "-", each["metadata"]["name"]).lower()
        hashes = each["download_info"].get("archive_info", {}).get("hashes", {})
        if hashes:  # the project itself is a folder and has none
            lines[name] = f"{name}=={each['metadata']['version']} --hash=sha256:{hashes['sha256']}\n"
    return HEAD + "".join(lines[name] for name in sorted(lines))


def main() -> None:
    """Ask pip and write the file."""
    asked = ("--dry-run", "--ignore-installed", "--quiet", "--report", "-", f"{ROOT}[test]")
    command = [sys.executable, "-m", "pip", "install", *asked]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    LOCK.write_text(locked(json.loads(said)), encoding="utf-8")


if __name__ == "__main__":
    main()
