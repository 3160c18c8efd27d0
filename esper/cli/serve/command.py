"""`esper serve`: binds the page's address, prints it, and answers until Ctrl-C."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
import webbrowser
from pathlib import Path
from types import FrameType
from typing import Final

from esper.cli.output import complain, say, say_json
from esper.errors import InvalidInput
from streams.entry import scraped
from streams.metrics import Metrics
from streams.settings import Settings

NEEDS: Final = "`esper serve` needs Starlette, uvicorn and wsproto: pip install 'esper-lite[serve]'"
MOST_MESSAGE_BYTES: Final = 1024
"""Of what a client says over its socket: it has nothing to say."""


def serve_command(data_dir: Path, *, host: str, port: int, open_page: bool, as_json: bool) -> None:
    """Serve mission control for a data folder until interrupted.

    Raises InvalidInput where the address cannot be taken, and where the packages are missing.
    """
    try:
        import uvicorn  # noqa: PLC0415 - the extra `serve`, and only this command needs it
        import wsproto  # noqa: F401, PLC0415 - uvicorn says only to a client that it is missing

        from esper.cli.serve.guard import is_loopback  # noqa: PLC0415
        from esper.cli.serve.site import Site  # noqa: PLC0415
    except ImportError:
        raise InvalidInput(NEEDS) from None

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            """At a signal to end, no question to the history is waited for."""
            site.watch.interrupt()
            super().handle_exit(sig, frame)

    settings = Settings.load(data=data_dir)
    token = settings.serve_token.get_secret_value() if settings.serve_token is not None else secrets.token_urlsafe(32)
    with _bound(host, port) as bound:
        port = bound.getsockname()[1]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        if not is_loopback(host):
            complain(
                f"the page is bound to {host}: others on the network reach it, and what they send and see is not "
                "encrypted; an `ssh -L` to loopback is"
            )
        metrics = Metrics()
        site = Site(data_dir, token, host, metrics, time.monotonic)
        if as_json:
            say_json({"url": address, "host": host, "port": port, "data_dir": str(data_dir)})
        else:
            say(f"mission control of {data_dir}: {address}#token={token}")
            say("Whoever has this address can tell runs what to do. Ctrl-C stops.")
        if open_page:
            webbrowser.open(f"{address}#token={token}")
        config = uvicorn.Config(
            site.app,
            ws="wsproto",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws_max_size=MOST_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=2,
        )
        with _found_by_prometheus(settings, port, on_loopback=is_loopback(host) or host in {"0.0.0.0", "::"}):  # noqa: S104
            Server(config).run([bound])


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InvalidInput(f"port {port} of {host} cannot be taken: {why}; take another --port or --host") from None


def _found_by_prometheus(
    settings: Settings, port: int, *, on_loopback: bool
) -> contextlib.AbstractContextManager[None]:
    """The list of targets of this process in the data folder, as of all others; none where no process runs there."""
    if not (on_loopback and settings.run_folder.is_dir()):
        return contextlib.nullcontext()
    return scraped(settings.run_folder / "serve.json", "serve", port)
