"""The kernels in memory: least recently used leave first, none stays too long, and the sum is never above the limit."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import InvalidInput
from esper.urza.artifact import Expected, Kernel, Refusal
from esper.urza.cache import KernelCache, Memory


def kernel(size):
    return Kernel("sha256:x", b"", {}, bytes(size), b"")


@pytest.mark.requirement("R-KAS-32", "R-URZA-9")
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 10))))
def test_it_keeps_what_a_plain_model_keeps(steps):
    """A size of 0 asks, any other puts."""
    memory, model = Memory(10, 3_600.0, lambda: 0.0), OrderedDict[str, int]()
    for name, size in steps:
        if size == 0:
            found = memory.get(name)
            assert (found.nbytes if found else None) == model.get(name)
            if name in model:
                model.move_to_end(name)
            continue
        memory[name] = kernel(size)
        model.pop(name, None)
        while sum(model.values()) + size > 10:
            model.popitem(last=False)
        model[name] = size

        assert memory.currsize == sum(model.values()) <= 10
        assert len(memory) == len(model)


@pytest.mark.requirement("R-KAS-40", "R-URZA-15")
def test_what_stayed_its_time_is_gone_and_counted(objects, forge, clock):
    kernels = KernelCache(objects, clock, ttl_s=3_600.0)
    first, second = (Expected.of_version(forge.make(seed=seed)) for seed in (1.0, 2.0))
    kernels.fetch(first)
    clock.now_s += 3_599.0
    kernels.fetch(second)
    assert kernels.in_memory(first) is not None
    clock.now_s += 1.0

    assert kernels.in_memory(first) is None
    assert (kernels.memory.expired, kernels.memory.evictions, len(kernels.memory)) == (1, 0, 1)
    assert kernels.nbytes > 0
    clock.now_s += 3_600.0
    kernels.expire()
    assert (kernels.memory.expired, len(kernels.memory), kernels.nbytes) == (2, 0, 0)


def test_what_makes_room_is_counted(objects, forge, clock):
    first, second = (Expected.of_version(forge.make(seed=seed)) for seed in (1.0, 2.0))
    size = KernelCache(objects, clock).fetch(first).kernel.nbytes
    kernels = KernelCache(objects, clock, limit_bytes=size + 10)

    kernels.fetch(first)
    kernels.fetch(second)

    assert (kernels.memory.evictions, kernels.in_memory(first)) == (1, None)
    assert kernels.fetch(second).cached


def test_a_kernel_larger_than_the_whole_cache_is_served_and_not_kept(objects, forge, clock):
    kernels = KernelCache(objects, clock, limit_bytes=10)
    expected = Expected.of_version(forge.make())

    assert [(isinstance(kernels.fetch(expected).kernel, Kernel), len(kernels.memory)) for _ in "ab"] == [(True, 0)] * 2


def test_a_copy_that_went_bad_is_evicted_once_and_counted(objects, forge, clock):
    kernels = KernelCache(objects, clock)
    expected = Expected.of_version(forge.make())
    good = kernels.fetch(expected).kernel
    kernels.memory[expected.artifact_ref] = Kernel(good.artifact_ref, good.content, good.manifest, b"bad", b"")

    assert isinstance(kernels.fetch(expected).kernel, Refusal)
    assert (kernels.memory.evictions, len(kernels.memory)) == (1, 0)
    assert kernels.fetch(expected).kernel == good


def test_a_cache_without_room_or_time_is_refused(objects, clock):
    with pytest.raises(InvalidInput):
        KernelCache(objects, clock, limit_bytes=0)
    with pytest.raises(InvalidInput):
        KernelCache(objects, clock, ttl_s=0.0)
