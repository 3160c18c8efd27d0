"""A kernel that was compiled in one process serves in another: nothing is compiled there, and a run comes twice."""

from __future__ import annotations

import pytest

from tests.forked import fork_server

COMPILER = ("torch._dynamo", "torch._inductor.compile_fx", "swap_processes")


@pytest.fixture
def process(tmp_path, monkeypatch):
    """Runs one of swap_processes.py in a process of its own, with a folder of its own for what torch compiles.

    The processes have the compiler imported when they begin, and nothing compiled.
    """
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # else its import starts a pool of compilers
    with fork_server(*COMPILER) as forks:

        def run(function, *arguments, name):
            where = (str(tmp_path), str(tmp_path / name))
            return forks.start(f"swap_processes:{function}", *where, *arguments, log=tmp_path / "log").last_word()

        yield run


@pytest.mark.timeout(900)
def test_a_compiled_kernel_takes_over_in_another_process_and_the_same_run_comes_again(process, tmp_path):
    ref = process("forge", name="forge")["ref"]

    first = process("trainer", ref, "compiled", name="trainer")
    record = first["record"][0]
    again = process("trainer", ref, "recorded", *record, name="replay")
    eager = process("trainer", ref, "eager", name="eager")

    ((before, after, from_ref, size),) = first["swaps"]
    assert (before, after, from_ref) == ("eager", "compiled", ref)
    assert size <= 1e-5
    assert first["roots"] == again["roots"] != eager["roots"]
    assert first["loss"] == pytest.approx(eager["loss"], abs=1e-4)
    assert eager["swaps"] == []
    assert list((tmp_path / "trainer").rglob("*.main.so")) != []
    assert first["others_s"] < 1.0, "a compiler ran"
