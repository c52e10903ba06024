"""What a row holds under each way of packing, against the plain reading of the definition.

Shapes: B row, T position.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptjax.data.config import PACKINGS as NAMES
from gptjax.data.packing import PACKINGS, num_windows
from gptjax.data.shards import Shard, TokenStream


@st.composite
def streams(draw):
    """A stream of distinct ids, and the document that each token belongs to."""
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=8))
    ids = np.arange(sum(lengths)) + 1
    return TokenStream("x", [[Shard(ids, np.cumsum(lengths))]]), np.repeat(np.arange(len(lengths)), lengths)


def rows(stream, packing, seq_len):
    """All windows of a stream, the last one partial, and one that starts beyond it."""
    count = num_windows(len(stream), seq_len, partial=True)
    return PACKINGS[packing](stream, [*(w * seq_len for w in range(count)), len(stream)], seq_len)


def test_the_config_names_every_packing():
    assert set(NAMES) == set(PACKINGS)


@pytest.mark.parametrize(
    ("num_tokens", "full", "partial"), [(0, 0, 0), (1, 0, 0), (2, 0, 1), (4, 0, 1), (5, 1, 1), (6, 1, 2), (9, 2, 2)]
)
def test_windows_of_four(num_tokens, full, partial):
    assert num_windows(num_tokens, 4) == full
    assert num_windows(num_tokens, 4, partial=True) == partial


@pytest.mark.parametrize("packing", PACKINGS)
@given(case=streams(), seq_len=st.integers(1, 15))
def test_the_target_is_the_next_token_and_padding_is_blank(packing, case, seq_len):
    stream, _ = case
    batch = rows(stream, packing, seq_len)
    counts = batch.loss_mask_BT == 1
    np.testing.assert_array_equal(batch.targets_BT[counts], batch.tokens_BT[counts] + 1)
    padding = batch.segment_ids_BT == 0
    for x_BT in batch[:5]:
        assert not x_BT[padding].any()
        assert not x_BT[-1].any()
    assert [x_BT.dtype.name for x_BT in batch[:5]] == ["int32", "int32", "float32", "int32", "int32"]
    assert not batch.labels


@given(case=streams(), seq_len=st.integers(1, 15))
def test_windows_count_every_token_but_the_first_as_a_target_once(case, seq_len):
    stream, _ = case
    batch = rows(stream, "windows", seq_len)
    assert sorted(batch.targets_BT[batch.loss_mask_BT == 1]) == list(range(2, len(stream) + 1))
    within = batch.loss_mask_BT == 1
    assert (batch.segment_ids_BT == within).all()
    assert (batch.positions_BT == np.arange(seq_len) * within).all()


@given(case=streams(), seq_len=st.integers(1, 15))
def test_documents_count_every_token_but_each_first_as_a_target_once(case, seq_len):
    stream, document = case
    batch = rows(stream, "documents", seq_len)
    wanted = [token for token in range(2, len(stream) + 1) if document[token - 1] == document[token - 2]]
    assert sorted(batch.targets_BT[batch.loss_mask_BT == 1]) == wanted


@given(case=streams(), seq_len=st.integers(1, 15))
def test_segments_are_the_documents_of_a_row(case, seq_len):
    """Numbered from 1 without gaps; two tokens of a row share one exactly if they share a document."""
    stream, document = case
    batch = rows(stream, "documents", seq_len)
    for tokens, segments, positions in zip(batch.tokens_BT, batch.segment_ids_BT, batch.positions_BT, strict=True):
        real = segments > 0
        expected = document[tokens[real] - 1]
        np.testing.assert_array_equal(segments[real] - 1, expected - expected[0] if real.any() else [])
        for segment in set(segments[real]):
            inside = positions[segments == segment]
            np.testing.assert_array_equal(inside, np.arange(len(inside)))
