"""A real Chromium, driven over a pipe by the DevTools protocol: pages, keys, pictures, and what it asked for."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import time
from collections import deque

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LIMIT_S = 200.0


class Browser:
    """One page of a headless browser with a profile of its own. Used as a context manager."""

    def __init__(self, profile):
        self._profile = profile
        self._number = 0
        self._told = b""
        self.events = deque(maxlen=5_000)

    def __enter__(self):
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        ends = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 32) for each in (to_read, to_write)]
        nowhere = [(os.POSIX_SPAWN_OPEN, each, os.devnull, os.O_WRONLY, 0) for each in (1, 2)]
        # The browser reads commands from descriptor 3 and writes answers to 4.
        given = [(os.POSIX_SPAWN_DUP2, end, number) for end, number in zip(ends, (3, 4), strict=True)]
        self._pid = os.posix_spawn(BROWSER, [BROWSER, *self._options()], os.environ, file_actions=[*nowhere, *given])
        for each in (to_read, to_write, *ends):
            os.close(each)
        target = self._ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._ask("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError, AssertionError):
            self._ask("Browser.close", {})
        os.waitpid(self._pid, 0)
        os.close(self._write)
        os.close(self._read)

    def _options(self):
        quiet = ("no-first-run", "no-sandbox", "disable-gpu", "hide-scrollbars", "disable-dev-shm-usage")
        return [
            "--headless=new",
            "--remote-debugging-pipe",
            f"--user-data-dir={self._profile}",
            *(f"--{each}" for each in quiet),
            "--disable-background-networking",
        ]

    def ask(self, method, **parameters):
        """The answer of the page to a command."""
        return self._ask(method, parameters, self._session)

    def look(self, width, height=900, *, dark=False):
        """A window of this size, in a dark or a light room."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address):
        """Go there."""
        self.ask("Page.navigate", url=address)

    def value(self, script):
        """What a script says on the page; raises AssertionError where it fails."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script):
        """What a script says once that is something true."""
        deadline = time.monotonic() + LIMIT_S
        while not (found := self.value(script)):
            assert time.monotonic() < deadline, f"never: {script}; {self.troubles()}"
            time.sleep(0.05)
        return found

    def press(self, key, code=0, *, shift=False):
        """Press a key and let it go."""
        held = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        text = {"text": "\r"} if key == "Enter" else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **held, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **held)

    def picture(self, path, *, whole=True):
        """A picture of the page, all of it or what the window shows."""
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def asked(self):
        """The addresses that were asked since the page was opened."""
        return [
            each["params"]["request"]["url"] for each in self.events if each["method"] == "Network.requestWillBeSent"
        ]

    def troubles(self):
        """What the browser complained of: errors, and what the page's policy kept it from."""
        logged = [each["params"]["entry"] for each in self.events if each["method"] == "Log.entryAdded"]
        thrown = [each["params"] for each in self.events if each["method"] == "Runtime.exceptionThrown"]
        return [each["text"] for each in logged if each["level"] == "error"] + [str(each) for each in thrown]

    def _ask(self, method, parameters, session=None):
        self._number += 1
        said = {"id": self._number, "method": method, "params": parameters}
        os.write(self._write, json.dumps(said | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            for message in self._messages():
                if message.get("id") == self._number:
                    assert "error" not in message, message["error"]
                    return message["result"]
                if "method" in message:
                    self.events.append(message)

    def _messages(self):
        """The next messages; they are waited for."""
        assert select.select([self._read], [], [], LIMIT_S)[0], "the browser does not answer"
        found = os.read(self._read, 2**20)
        assert found, "the browser has ended"
        *messages, self._told = (self._told + found).split(b"\0")
        return [json.loads(each) for each in messages]
