"""What is told by a webhook, kept: the far end of an alert's way, where a person would be."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

MOST_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Heard:
    """One message: an alert of `rule` over `run` that fired (`active`) or cleared. Times are Unix seconds."""

    alert_id: str
    rule: str
    run: str
    active: bool
    made_at_s: float
    heard_at_s: float


class Ear:
    """A web server on this machine that hears of alerts; leaving the context ends it."""

    def __init__(self) -> None:
        self._heard: dict[str, Heard] = {}
        ear = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = min(int(self.headers.get("Content-Length", 0)), MOST_BYTES)
                ear.take(json.loads(self.rfile.read(length)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the name is the library's
                """Nothing: who is told of what is in the table."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where alerts are to be sent."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def take(self, said: dict[str, Any]) -> None:
        """Keep a message; one that comes again says nothing new."""
        heard = Heard(
            said["alert_id"],
            said["rule"],
            said["run"],
            said["state"] == "fired",
            said["at_unix_ns"] / 1e9,
            time.time(),
        )
        self._heard.setdefault(heard.alert_id, heard)

    def heard(self, rule: str = "", *, active: bool | None = None) -> list[Heard]:
        """What was heard so far, in its order."""
        return [
            each
            for each in list(self._heard.values())
            if rule in {"", each.rule} and (active is None or active == each.active)
        ]

    def forget(self) -> None:
        """Nothing was heard yet."""
        self._heard.clear()

    def close(self) -> None:
        """Hear no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
