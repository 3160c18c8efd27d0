"""No secret lies in the repository (R-SEC-13)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|xox[abp]-[0-9A-Za-z-]{20,})"
    r"|ESPER_KEY\w*[\"']?\s*[=:]\s*[\"']?[0-9A-Za-z+/_-]{16,}"
    # Esper's own keys: 32 bytes as 64 hex digits. A digest says that it is one, and one byte 32 times is made up.
    r"|(?<!sha256:)(?<![0-9a-fA-F])(?!(?P<byte>[0-9a-f]{2})(?P=byte){31})[0-9a-f]{64}(?![0-9a-fA-F])"
)

EXPORTED = ("projections/small_history/archive/", "tests/unit/projections/kept/")
"""Archives, full of digests; that no export holds a key has a test of its own."""


@pytest.mark.requirement("R-SEC-13")
def test_no_file_holds_a_secret():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this is no git checkout, so nothing says which files belong to the repository")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name and not name.startswith(EXPORTED)]
    texts = {file: file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()}

    assert len(texts) > 50
    assert {str(file): match[0] for file, text in texts.items() for match in SECRETS.finditer(text)} == {}


def test_a_secret_is_found():
    """The test above can fail. The words are put together here, so that this file holds none itself."""
    assert SECRETS.search("key = '" + "0123456789abcdef" * 4 + "'")
    assert SECRETS.search("ESPER_KEY" + "=correct-horse-battery-staple")
    assert SECRETS.search("-----BEGIN RSA " + "PRIVATE KEY-----")
    assert not SECRETS.search("sha256:" + "0123456789abcdef" * 4)
    assert not SECRETS.search("ESPER_KEY=$ESPER_KEY ESPER_KEY=<64 hex digits>")
