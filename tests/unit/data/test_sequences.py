"""Rows by number: labelled examples side by side, whole, each seen by itself.

Shapes: R rows, T position.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptjax.data.sequences import OfTask, Packed, Segment

T = 16


def segment(length, first=1):
    tokens_T = np.arange(first, first + length, dtype=np.int32)
    mask_T = np.zeros(length, np.float32)
    mask_T[-1] = 1
    return Segment(tokens_T, tokens_T + 100, mask_T, {"own": tokens_T * 0.5})


def packed(lengths, together=1):
    segments = [segment(length, 1 + 20 * n) for n, length in enumerate(lengths)]
    return Packed("file", 1.0, segments, T, {"own": ((), "float32")}, together)


@given(st.lists(st.integers(1, T), min_size=1, max_size=30))
def test_every_example_stands_whole_in_one_row(lengths):
    """With positions from 0, a segment of its own, its targets and labels; what is left of a row is padding."""
    rows = packed(lengths)
    batch = rows.read(np.arange(len(rows)))
    assert sum(map(int, (batch.segment_ids_BT > 0).sum(1))) == sum(lengths)
    for n, ((row, start, stop), length) in enumerate(zip(rows.places, lengths, strict=True)):
        expected = segment(length, 1 + 20 * n)
        np.testing.assert_array_equal(batch.tokens_BT[row, start:stop], expected.tokens_T)
        np.testing.assert_array_equal(batch.targets_BT[row, start:stop], expected.targets_T)
        np.testing.assert_array_equal(batch.loss_mask_BT[row, start:stop], expected.loss_mask_T)
        np.testing.assert_array_equal(batch.labels["own"][row, start:stop], expected.labels["own"])
        np.testing.assert_array_equal(batch.positions_BT[row, start:stop], np.arange(length))
        assert len(set(batch.segment_ids_BT[row, start:stop])) == 1
    ids = [(place.row, batch.segment_ids_BT[place.row, place.start]) for place in rows.places]
    assert len(set(ids)) == len(lengths)
    assert batch.loss_mask_BT.sum() == len(lengths)


@given(st.lists(st.integers(1, T // 2), min_size=2, max_size=20).filter(lambda lengths: len(lengths) % 2 == 0))
def test_pairs_are_never_parted(lengths):
    places = packed(lengths, together=2).places
    assert all(one.row == other.row for one, other in zip(places[::2], places[1::2], strict=True))


def test_rows_beyond_the_last_are_padding():
    rows = packed([5, 9, 4])
    batch = rows.read(np.array([7, 1]))
    assert not batch.segment_ids_BT[0].any()
    assert not batch.loss_mask_BT[0].any()
    assert batch.segment_ids_BT[1].any()


def test_an_example_that_is_too_long_is_a_bug():
    """Tasks say so with file and line before."""
    with pytest.raises(AssertionError):
        packed([T + 1])


def test_other_labels_of_the_same_rows():
    rows = packed([5, 9, 4])
    changed = rows.labelled("own", [np.full(length, n, np.float32) for n, length in enumerate((5, 9, 4), 1)])
    batch = changed.read(np.arange(len(changed)))
    for n, (row, start, stop) in enumerate(changed.places, 1):
        assert set(batch.labels["own"][row, start:stop]) == {n}
    assert changed.places == rows.places


def test_rows_of_a_task_among_others_have_their_arrays_too():
    """Zeros in those, its number everywhere; its own as they were."""
    rows = OfTask(packed([5, 9]), 3, 0.5, {"own": ((), "float32"), "other": ((2,), "int32")})
    batch = rows.read(np.array([0]))
    assert (rows.weight, rows.label, len(rows)) == (0.5, "file", 1)
    assert batch.labels.keys() == {"own", "other", "task"}
    assert set(batch.labels["task"].ravel()) == {3}
    assert batch.labels["other"].shape == (1, T, 2)
    assert not batch.labels["other"].any()
    assert batch.labels["own"].any()
