"""Back-pressure: every client is given the newest message when it can take one, and is told how many it missed."""

from __future__ import annotations

import asyncio


class Newest:
    """The newest message, numbered. However slow its readers are and however many, it is one text in memory."""

    def __init__(self) -> None:
        self.number = 0
        self.text = "null"
        self._changed = asyncio.Event()

    def put(self, text: str) -> None:
        """Take the place of the message before, and wake whoever waits."""
        self.number += 1
        self.text = text
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def after(self, number: int) -> tuple[int, str]:
        """The newest message, once there is one behind that of this number."""
        while self.number <= number:
            await self._changed.wait()
        return self.number, self.text


def framed(number: int, seen: int, text: str) -> str:
    """A message as it is sent to a client that was sent the one numbered `seen` before; 0 is none."""
    skipped = number - seen - 1 if seen else 0
    return f'{{"number": {number}, "skipped": {skipped}, "state": {text}}}'
