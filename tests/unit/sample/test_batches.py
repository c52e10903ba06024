"""Batches hold every row, are of one size and begin with the longest."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from gptjax.sample.batches import batches


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 9))
def test_every_row_stands_in_a_batch_of_one_size_by_its_length(lengths, size):
    found = list(batches(lengths, size))
    numbers = list(chain.from_iterable(found))
    assert sorted(set(numbers)) == list(range(len(lengths)))
    assert [lengths[i] for i in numbers] == sorted((lengths[i] for i in numbers), reverse=True)
    assert len({len(rows) for rows in found}) <= 1
    assert len(numbers) < max(2 * len(lengths), len(lengths) + size) or not lengths
