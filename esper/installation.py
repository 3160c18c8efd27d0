"""Whether Python finds Esper's own packages where Esper lies: their names are common, so others may be found first.

A folder named `streams` on the import path, or a distribution that installs a package `contracts`, is imported instead
of ours or is mixed with it. Every entry point (the `esper` command, and `python -m` of each of our packages) checks
this before it imports anything else, and so does an import of `streams` or `projections`.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from esper.errors import EsperError

PACKAGES: Final = ("contracts", "esper", "projections", "streams")
_MARK: Final = b"Esper"
"""Stands in the docstring of each of our packages, so that one that was overwritten in its place is known as well."""


class ShadowedPackage(EsperError, ImportError):
    """One of our packages is found elsewhere, or another distribution was installed over it."""


def check_packages(*names: str) -> None:
    """Raise ShadowedPackage where one of `names` is not found beside this `esper`; nothing is imported.

    While `python -m` looks for one of our modules, which it says by `sys.argv[0] == "-m"`, the process ends instead,
    with the message alone on stderr and exit code 2.
    """
    try:
        for name in names:
            _check(name)
    except ShadowedPackage as error:
        if sys.argv[:1] != ["-m"]:
            raise
        sys.stderr.write(f"esper: {error}\n")
        sys.exit(2)


def python_module(module: str, *arguments: str) -> list[str]:
    """The command line that runs one of our modules as a process, whatever lies in the working directory.

    `-P` keeps the working directory off the import path. A data folder has a `projections/` of its own, for one.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def _check(name: str) -> None:
    ours = Path(__file__).resolve().parents[1] / name
    spec = find_spec(name)
    places = list(spec.submodule_search_locations or [spec.origin or "?"]) if spec is not None else []
    found = Path(places[0]).resolve() if places else None
    way_out = "rename or uninstall the other, or give Esper a virtual environment of its own"
    if found is None:
        raise ShadowedPackage(f"Esper's package {name} is missing at {ours}; install Esper again")
    if found != ours:
        raise ShadowedPackage(f"Python finds package {name} at {found} instead of Esper's at {ours}: {way_out}")
    if _MARK not in (ours / "__init__.py").read_bytes():
        raise ShadowedPackage(f"another distribution was installed over Esper's package {name} at {ours}: {way_out}")
