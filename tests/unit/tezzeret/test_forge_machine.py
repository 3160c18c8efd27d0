"""Whether there is room for a job that can wait: five seconds of one and a half idle cores, and four gigabytes."""

from __future__ import annotations

import os

import pytest

from streams.forge.machine import IdleMonitor, memory

TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def machine(tmp_path):
    """A machine as `/proc` tells of it: sets the idle seconds since its start, and the free gigabytes."""

    def tell(idle_s, free_gib=8):
        (tmp_path / "stat").write_text(f"cpu 100 0 50 {round(idle_s * TICKS)} 0 0 0 0 0 0\ncpu0 1 2 3 4 5\n")
        (tmp_path / "meminfo").write_text(f"MemTotal: {16 * 2**20} kB\nMemAvailable: {free_gib * 2**20} kB\n")

    tell(0.0)
    tell.proc = tmp_path
    return tell


@pytest.mark.parametrize(("idle_cores", "free_gib", "room"), [(1.9, 8, True), (1.0, 8, False), (1.9, 3, False)])
def test_room_is_idle_cores_and_free_memory_for_five_seconds(machine, idle_cores, free_gib, room):
    spare = IdleMonitor(machine.proc)
    found = []
    for second in range(7):
        machine(idle_cores * second, free_gib)
        found.append(spare.has_room(float(second)))

    assert found == [False] * 5 + [room] * 2


def test_a_busy_stretch_counts_for_five_seconds_and_no_longer(machine):
    spare = IdleMonitor(machine.proc)
    idle_s, found = 0.0, []
    for second in range(20):
        idle_s += 0.2 if second < 10 else 2.0
        machine(idle_s)
        found.append(spare.has_room(float(second)))

    assert found.index(True) == 13
    assert all(found[13:])


def test_what_was_taken_is_looked_for_anew(machine):
    spare = IdleMonitor(machine.proc)
    for second in range(6):
        machine(2.0 * second)
        room = spare.has_room(float(second))
    assert room
    spare.restart()
    machine(12.0)
    assert not spare.has_room(6.0)


def test_this_machine_is_read():
    available, total = memory()
    assert 0 < available < total
    assert not IdleMonitor().has_room(0.0)
