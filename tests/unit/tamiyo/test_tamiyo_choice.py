"""Picking from logits, mask and draw."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import ContractViolation
from esper.tamiyo.decide import pick

LOGITS = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30)
DRAWS = st.floats(0, 1, exclude_max=True)


@given(LOGITS, DRAWS, st.booleans(), st.data())
def test_only_unmasked_actions_are_taken_and_the_same_arguments_give_the_same(logits, draw, greedy, data):
    mask = data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits)).filter(any))
    index = pick(logits, mask, draw, greedy=greedy)
    assert mask[index]
    assert index == pick(logits, mask, draw, greedy=greedy)
    if greedy:
        assert logits[index] == max(logit for logit, allowed in zip(logits, mask, strict=True) if allowed)


@given(LOGITS, DRAWS)
def test_a_masked_logit_does_not_matter(logits, draw):
    mask = [True] * len(logits) + [False]
    for greedy in (True, False):
        assert pick([*logits, 1e30], mask, draw, greedy=greedy) == pick([*logits, -1e30], mask, draw, greedy=greedy)


def test_sampling_follows_the_softmax():
    logits, mask = [math.log(1), math.log(3), 9.0, math.log(4)], [True, True, False, True]
    taken = [pick(logits, mask, (draw + 0.5) / 8000, greedy=False) for draw in range(8000)]
    assert [taken.count(index) for index in range(4)] == pytest.approx([1000, 3000, 0, 4000], abs=1)


@pytest.mark.parametrize(
    ("logits", "mask", "draw"),
    [
        ([1.0], [False], 0.5),
        ([1.0, 2.0], [True], 0.5),
        ([1.0], [True], 1.0),
        ([1.0], [True], -0.1),
        ([math.nan], [True], 0.5),
        ([math.inf], [True], 0.5),
        ([], [], 0.5),
    ],
)
def test_what_cannot_be_picked_from_is_refused(logits, mask, draw):
    with pytest.raises(ContractViolation):
        pick(logits, mask, draw, greedy=False)
