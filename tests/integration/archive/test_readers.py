"""Many readers ask while a run writes and files are merged beneath them: no lock, no error, no wrong count."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from projections import manifest
from projections.generated import history, records

READER = Path(__file__).with_name("reader.py")


def ask_while_writing(desk, processes: int, threads: int, seconds: float) -> None:
    desk.start()
    sent = list(records(history(int(500 * seconds))))
    stop = threading.Event()

    def write() -> None:
        for start in range(0, len(sent), 100):
            if stop.is_set():
                return
            desk.publish(sent[start : start + 100])
            stop.wait(0.2)  # all the while, so that there are flushes enough to merge

    desk.publish(sent[:1], sign=True)
    desk.wait_for(lambda: desk.archived() == 1)
    sent = sent[1:]
    writer = threading.Thread(target=write)
    command = [sys.executable, str(READER), str(desk.archive), str(threads), str(seconds)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    writer.start()
    try:
        told = [json.loads(reader.communicate(timeout=seconds + 600)[0]) for reader in readers]
    finally:
        stop.set()
        for reader in readers:
            reader.kill()
        writer.join()

    assert [each["errors"] for each in told] == [[]] * processes
    assert [each["wrong"] for each in told] == [[]] * processes
    assert all(each["asked"] >= 2 * threads for each in told)
    assert max(each["most"] for each in told) > 100
    desk.wait_for(lambda: any(entry.level for entry in manifest.load(desk.archive).files), 60.0)


def test_four_readers_while_a_run_writes(desk):
    ask_while_writing(desk, processes=2, threads=2, seconds=7.0)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_fifty_readers_while_a_run_writes(desk):
    ask_while_writing(desk, processes=10, threads=5, seconds=60.0)
