"""The cache by bytes: least recently used first, nothing for too long, and the sum never above the limit."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import InvalidInput
from esper.urza.cache import Cache


@dataclass(frozen=True)
class Item:
    """Something of a size."""

    nbytes: int


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 12))))
def test_it_keeps_what_a_plain_model_keeps(steps):
    """A size of 0 asks, any other puts."""
    cache, model = Cache[Item](lambda: 0.0, limit_bytes=10), OrderedDict[str, int]()
    for name, size in steps:
        if size == 0:
            found = cache.get(name)
            assert (found.nbytes if found else None) == model.get(name)
            if name in model:
                model.move_to_end(name)
            continue
        cache.put(name, Item(size))
        model.pop(name, None)
        while size <= 10 and sum(model.values()) + size > 10:
            model.popitem(last=False)
        if size <= 10:
            model[name] = size

        assert cache.nbytes == sum(model.values()) <= 10
        assert len(cache) == len(model)


def test_what_stayed_its_time_is_gone(clock):
    cache = Cache[Item](clock, ttl_s=3_600.0)
    cache.put("a", Item(1))
    clock.now_s += 3_599.0
    cache.put("b", Item(1))
    assert cache.get("a") is not None
    clock.now_s += 1.0

    assert cache.get("a") is None
    assert (cache.expired, cache.hits, cache.misses, len(cache)) == (1, 1, 1, 1)
    clock.now_s += 3_600.0
    cache.sweep()
    assert (cache.expired, len(cache), cache.nbytes) == (2, 0, 0)


def test_evicting_forgets_one_and_counts_it(clock):
    cache = Cache[Item](clock)
    cache.put("a", Item(5))

    cache.evict("a")
    cache.evict("a")

    assert (cache.evictions, cache.nbytes, cache.get("a")) == (1, 0, None)


def test_a_cache_without_room_or_time_is_refused(clock):
    with pytest.raises(InvalidInput):
        Cache[Item](clock, limit_bytes=0)
    with pytest.raises(InvalidInput):
        Cache[Item](clock, ttl_s=0.0)
