"""A local HTTP server that a test writes the answers of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Answers(BaseHTTPRequestHandler):
    """What answers, by its `respond`, and without a word on stderr."""

    def respond(self) -> None:
        """Answer the request that is here; an HTTP method of another name is none of ours."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """As all of them."""
        self.respond()

    do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815 - as the base class calls them

    def body(self) -> bytes:
        """Of the request."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, status: int, content: bytes = b"", **headers: str) -> None:
        """Send it; `_` in the name of a header is `-`."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def listening(answers: type[Answers]) -> Iterator[str]:
    """The address of a server, which is closed on leaving."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), answers)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
