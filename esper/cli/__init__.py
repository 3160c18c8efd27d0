"""The `esper` command. Nothing heavy is imported before a command needs it, so `esper --help` answers at once."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Final, NoReturn

from esper.installation import PACKAGES, ShadowedPackage, check_packages

WRONG_INPUT: Final = 2
RUN_FAILED: Final = 1
INTERRUPTED: Final = 130


def main() -> NoReturn:
    """Run this process's command line and exit: 0 done, 1 failed, 2 wrong input (one line says what), 130 Ctrl-C."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # in a locale that cannot write a sign, ? stands for it
    try:
        check_packages(*PACKAGES)
        from esper.cli.app import dispatch  # noqa: PLC0415 - Ctrl-C during the imports ends the process quietly too

        code = dispatch(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read us (`esper events … | head`) has gone: nothing is wrong, and Python must not flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except ShadowedPackage as error:
        sys.stderr.write(f"esper: {error}\n")
        code = WRONG_INPUT
    sys.exit(code)


def _as_interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
