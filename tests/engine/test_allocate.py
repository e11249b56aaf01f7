"""Which entries a budget buys."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.engine.allocate import best, by_score


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.lists(st.integers(0, 40), min_size=1, max_size=4),
    st.integers(1, 6),
    st.integers(0, 99),
)
def test_the_best_are_those_that_a_stable_sort_puts_first(length, counts, levels, seed):
    counts = [min(count, length) for count in counts]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, levels, (len(counts), length), generator=generator).float()
    scores = drawn.masked_fill(drawn == 0, float("-inf")).masked_fill(drawn == 1, float("inf"))
    expected = torch.zeros(scores.shape, dtype=torch.bool)
    for row, (order, count) in enumerate(zip(by_score(scores), counts, strict=True)):
        expected[row, order[:count]] = True
    assert torch.equal(best(scores, counts), expected)
