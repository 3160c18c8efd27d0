"""The addresses of the page: what it consists of, what it asks, and what a person does by it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from esper.cli.alerts import acknowledge
from esper.cli.output import json_text
from esper.cli.serve.guard import Guard, is_loopback
from esper.cli.serve.newest import framed
from esper.cli.serve.reader import TROUBLE, Answer
from esper.cli.serve.sessions import Refused, Sessions
from esper.cli.serve.shown import pictures_view, run_view, state_view
from esper.cli.serve.watch import Watch
from esper.cli.tell import tell_run
from esper.errors import EsperError, InvalidInput
from projections.pictures import svg
from streams.metrics import Metrics

MOST_BODY_BYTES: Final = 4 * 1024
MOST_CLIENTS: Final = 100
MOST_ACTS: Final = 4
"""Commands that are waited for at a time: each holds a thread until the run has answered."""
SEND_S: Final = 30.0
"""A client that takes no message for so long is hung up on; it comes again by itself."""
PROTOCOL: Final = "esper"
"""A socket's subprotocol. Where reading needs a session, too, its key is offered beside it: no header may."""
_JSON: Final = "application/json"


class Site:
    """The page of one data folder. `token` lets a person change something; `host` is the address it is bound to."""

    def __init__(self, data_dir: Path, token: str, host: str, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._data_dir = data_dir
        self._metrics = metrics
        self._sessions = Sessions(token, clock)
        self._reading_needs_one = not is_loopback(host)
        self._acts = asyncio.Semaphore(MOST_ACTS)
        self.watch = Watch(data_dir, metrics, clock)
        self.app = Starlette(routes=self._routes(), middleware=[Middleware(Guard, host)], lifespan=self._alive)

    def _routes(self) -> list[BaseRoute]:
        return [
            *(Route(path, _file(*found)) for path, found in _FILES.items()),
            Route("/metrics", self._metrics_page),
            Route("/api/session", self._let_in, methods=["POST"]),
            Route("/api/status", self._reading(self._status)),
            Route("/api/metrics/summary", self._reading(self._summary)),
            Route("/api/runs/{run}", self._reading(self._run)),
            Route("/api/runs/{run}/state", self._reading(self._state)),
            Route("/api/runs/{run}/pictures", self._reading(self._pictures)),
            Route("/api/runs/{run}/tell", self._changing(self._tell), methods=["POST"]),
            Route("/api/alerts/{alert}/ack", self._changing(self._acknowledge), methods=["POST"]),
            WebSocketRoute("/ws/stream", self._stream),
        ]

    @asynccontextmanager
    async def _alive(self, _app: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(self.watch.run())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await self.watch.close()

    # -------------------- who may ask

    def _reading(self, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def page(request: Request) -> Response:
            try:
                if self._reading_needs_one:
                    self._sessions.check(_bearer(request))
                return await answer(request)
            except Refused as refused:
                return self._refuse(refused)
            except TROUBLE as error:
                return _wrong(404, str(error))

        return page

    def _changing(
        self, act: Callable[[Request, dict[str, Any]], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def page(request: Request) -> Response:
            try:
                self._sessions.spend(_bearer(request))
                body = await _body(request)
                async with self._acts:
                    return await act(request, body)
            except Refused as refused:
                return self._refuse(refused)
            except EsperError as error:
                return _wrong(404 if str(error).startswith("there is no ") else 409, str(error))

        return page

    def _refuse(self, refused: Refused) -> Response:
        self._metrics.count("esper_serve_refused_total", status=str(refused.status))
        return _wrong(refused.status, refused.why, refused.retry_s)

    async def _let_in(self, request: Request) -> Response:
        try:
            return JSONResponse({"session": self._sessions.begin(_bearer(request))})
        except Refused as refused:
            return self._refuse(refused)

    # -------------------- what is asked

    async def _status(self, _request: Request) -> Response:
        return _json(await self.watch.overview())

    async def _summary(self, _request: Request) -> Response:
        """Alerts, error budgets with their burn rates, and how far runs are, without the rest of the overview."""
        told = json.loads((await self.watch.overview()).text)
        live = [run for run in told["runs"] if run["status"] == "running"]
        return JSONResponse(
            {
                "alerts": [each for each in told["alerts"] if each["cleared_at"] is None],
                "alert_count": told["alert_count"],
                "budgets": told["budgets"],
                "queue_depth": told.get("queue_depth"),
                "runs_live": len(live),
                "stale": told["stale"],
            }
        )

    async def _run(self, request: Request) -> Response:
        run = request.path_params["run"]
        return _json(await self.watch.ask(("run", run), lambda history, tails: run_view(history, run, tails)))

    async def _state(self, request: Request) -> Response:
        run, at = request.path_params["run"], request.query_params.get("at")
        return _json(await self.watch.ask(("state", run, at), lambda history, _tails: state_view(history, run, at)))

    async def _pictures(self, request: Request) -> Response:
        run, asked = request.path_params["run"], request.query_params.get("width", "720")
        if not (asked.isascii() and asked.isdigit() and len(asked) < 6):
            raise InvalidInput(f"width {asked!r} is no number of pixels")
        width = int(asked)
        key = ("pictures", run, width)
        return _json(await self.watch.ask(key, lambda history, _tails: pictures_view(history, run, width)))

    async def _metrics_page(self, _request: Request) -> Response:
        return Response(self._metrics.render(), media_type="text/plain; version=0.0.4")

    # -------------------- what a person does

    async def _tell(self, request: Request, body: dict[str, Any]) -> Response:
        words = _text(body, "words")
        told = await asyncio.to_thread(tell_run, self._data_dir, request.path_params["run"], words)
        return Response(json_text(told.to_json()), media_type=_JSON)

    async def _acknowledge(self, request: Request, body: dict[str, Any]) -> Response:
        word, by, note = request.path_params["alert"], _text(body, "by"), _text(body, "note")
        alert, who = await asyncio.to_thread(acknowledge, self._data_dir, word, by=by, note=note)
        return JSONResponse({"alert_id": alert["id"], "rule": alert["rule"], "run_id": alert["run_id"], "by": who})

    # -------------------- what is told

    async def _stream(self, socket: WebSocket) -> None:
        """Send each new overview, as fast as the client takes them: what comes meanwhile is skipped."""
        if self.watch.clients >= MOST_CLIENTS or not self._may_listen(socket):
            await socket.close(1008)
            return
        await socket.accept(PROTOCOL if PROTOCOL in socket.scope["subprotocols"] else None)
        self.watch.joined()
        sending = asyncio.create_task(self._send_all(socket))
        listening = asyncio.create_task(_hung_up(socket))
        try:
            await asyncio.wait((sending, listening), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.watch.left()
            for task in (sending, listening):
                task.cancel()
            await asyncio.gather(sending, listening, return_exceptions=True)
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await socket.close(1008)

    def _may_listen(self, socket: WebSocket) -> bool:
        if not self._reading_needs_one:
            return True
        for key in socket.scope["subprotocols"]:
            with contextlib.suppress(Refused):
                self._sessions.check(key)
                return True
        return False

    async def _send_all(self, socket: WebSocket) -> None:
        seen = 0
        while True:
            number, text = await self.watch.newest.after(seen)
            async with asyncio.timeout(SEND_S):
                await socket.send_text(framed(number, seen, text))
            self._metrics.count("esper_serve_messages_total")
            self._metrics.count("esper_serve_skipped_total", max(0, number - seen - 1) if seen else 0)
            seen = number


async def _hung_up(socket: WebSocket) -> None:
    """Return once the client has gone, or says anything: it has nothing to say."""
    with contextlib.suppress(WebSocketDisconnect, KeyError):
        await socket.receive_text()


def _bearer(request: Request) -> str:
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else ""


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object that a request brings; raises Refused for anything else, and for more than 4 KiB."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != _JSON:
        raise Refused(415, f"say it as {_JSON}")
    found = b""
    async for chunk in request.stream():
        found += chunk
        if len(found) > MOST_BODY_BYTES:
            raise Refused(413, f"more than {MOST_BODY_BYTES} bytes")
    try:
        body = json.loads(found)
    except (ValueError, RecursionError):
        raise Refused(400, "that is no JSON") from None
    if not isinstance(body, dict):
        raise Refused(400, "that is no JSON object")
    return body


def _text(body: dict[str, Any], name: str) -> str:
    found = body.get(name, "")
    if not isinstance(found, str):
        raise Refused(400, f"{name} is no text")
    return found


def _json(answer: Answer) -> Response:
    return Response(answer.text, media_type=_JSON)


def _wrong(status: int, why: str, retry_s: float = 0.0) -> Response:
    return JSONResponse({"error": why}, status, {"Retry-After": str(retry_s)} if retry_s else None)


def _file(kind: str, read: Callable[[], str]) -> Callable[[Request], Awaitable[Response]]:
    async def page(_request: Request) -> Response:
        return Response(read(), media_type=kind)

    return page


def _page(name: str) -> Callable[[], str]:
    return lambda: resources.files("esper.cli.serve").joinpath("page", name).read_text("utf-8")


def _report_css() -> str:
    """The report's own style: both look alike, by the same lines."""
    return resources.files("projections.report").joinpath("page.css").read_text("utf-8") + svg.style()


_FILES: Final = {
    "/": ("text/html", _page("index.html")),
    "/page.js": ("text/javascript", _page("page.js")),
    "/page.css": ("text/css", _page("page.css")),
    "/favicon.svg": ("image/svg+xml", _page("favicon.svg")),
    "/report.css": ("text/css", _report_css),
}
