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
    _open_what_is_closed()
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
        code = 0  # whoever read us (`esper events … | head`) has gone: nothing is wrong
        _silence_stdout()
    except OSError as error:  # a full disk, or a folder that was taken away meanwhile
        code = RUN_FAILED
        _silence_stdout()
        _complain_of(error)
    except RuntimeError as error:
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        code = INTERRUPTED  # Python before 3.12 wraps what comes while a class names its attributes
    except ShadowedPackage as error:
        sys.stderr.write(f"esper: {error}\n")
        code = WRONG_INPUT
    sys.exit(code)


def _open_what_is_closed() -> None:
    """Standard streams that the caller closed (`<&-`, `>&-`) are open on nothing.

    Python has none then, and the next file that is opened would get their number and what is printed.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))


def _silence_stdout() -> None:
    """Python writes once more at its end what could not be written, and must not."""
    from esper.cli.output import silence  # noqa: PLC0415 - as in `main`

    silence(sys.stdout)


def _complain_of(error: OSError) -> None:
    from esper.cli.output import complain  # noqa: PLC0415 - as in `main`

    what = f"{error.filename}" if error.filename else "what was to be written"
    complain(f"{what}: {error.strerror or error}; make room or name another place, and try again")


def _as_interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
