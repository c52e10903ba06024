"""Streams over shards of any length, the writer that an interruption does not harm, and damage."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptjax.data.shard_writer import ShardWriter
from gptjax.data.shards import Shard, Tokens, TokenStream, check_shard, load_manifest, open_shards, token_dtype
from gptjax.types import UserError

U2 = np.dtype("<u2")


def unit(ids, ends=()):
    return Tokens(np.array(ids, U2), np.array(ends, int), {"documents": len(ends), "characters": len(ids), "bytes": 1})


def write(folder, units, shard_tokens, stop_after=None):
    """Writes a split, or dies after some units; returns the writer."""
    writer = ShardWriter(folder, "train", U2, shard_tokens)
    for index, one in enumerate(units):
        if stop_after is not None and index >= stop_after:
            return writer
        if index >= writer.next_unit:
            writer.write(one)
    if not writer.finished:
        writer.finish({"f": 3})
    return writer


def stream_of(folder, writer):
    manifest = {"dtype": "<u2", "splits": {"train": writer.summary()}}
    return TokenStream("x", [open_shards(folder, manifest, "train")])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@st.composite
def split(draw):
    """Ids, where documents end, and how both are cut into parts of shards."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    ids = np.arange(sum(lengths)) + 100
    ends = np.array(sorted(draw(st.sets(st.integers(1, len(ids))))), int)
    shards, first = [], 0
    for length in lengths:
        inside = ends[(ends > first) & (ends <= first + length)] - first
        shards.append(Shard(ids[first : first + length].astype(U2), inside))
        first += length
    middle = draw(st.integers(0, len(shards)))
    return ids, ends, TokenStream("x", [shards[:middle], shards[middle:]])


@given(split=split(), data=st.data())
def test_rows_and_borders_are_those_of_the_plain_array(split, data):
    ids, ends, stream = split
    assert len(stream) == len(ids)
    starts = np.array(data.draw(st.lists(st.integers(0, len(ids) + 3), max_size=5)), int)
    length = data.draw(st.integers(1, len(ids) + 5))
    padded = np.concatenate([ids, np.zeros(2 * length + 10, int)])
    is_border = np.zeros(len(padded), bool)
    is_border[ends] = True
    rows, borders = stream.rows(starts, length), stream.borders(starts, length)
    assert rows.dtype == np.int32
    for row, start in enumerate(starts):
        np.testing.assert_array_equal(rows[row], padded[start : start + length])
        np.testing.assert_array_equal(borders[row, 1:], is_border[start + 1 : start + length])
        assert not borders[row, 0]


@given(split=split())
def test_parts_follow_each_other(split):
    ids, _, stream = split
    (a, b), (c, d) = stream.parts
    assert (a, b, d) == (0, c, len(ids))
    np.testing.assert_array_equal(stream.tokens(0, len(ids)), ids)
    with pytest.raises(IndexError):
        stream.tokens(0, len(ids) + 1)


UNITS = [unit(range(10), [3, 10]), unit(range(10, 17), [2]), unit(range(17, 30), [1, 2, 13]), unit([30, 31], [2])]


@pytest.mark.parametrize("shard_tokens", [1, 4, 10, 16, 32, 100])
def test_shards_hold_the_units_in_order(tmp_path, shard_tokens):
    writer = write(tmp_path, UNITS, shard_tokens)
    stream = stream_of(tmp_path, writer)
    np.testing.assert_array_equal(stream.tokens(0, 32), np.arange(32))
    assert np.flatnonzero(stream.borders(np.array([0]), 33)[0]).tolist() == [3, 10, 12, 18, 19, 30, 32]
    assert [s["tokens"] for s in writer.shards[:-1]] == [shard_tokens] * (len(writer.shards) - 1)
    assert writer.counts == {"documents": 7, "characters": 32, "bytes": 4}


@pytest.mark.parametrize("shard_tokens", [1, 4, 10, 16, 32, 100])
@pytest.mark.parametrize("stop_after", [0, 1, 2, 3, 4])
def test_an_interrupted_writer_is_continued_to_the_same_bytes(tmp_path, shard_tokens, stop_after):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = write(tmp_path / "a", UNITS, shard_tokens)
    stopped = write(tmp_path / "b", UNITS, shard_tokens, stop_after)
    again = ShardWriter(tmp_path / "b", "train", U2, shard_tokens)
    assert again.shards == stopped.shards
    continued = write(tmp_path / "b", UNITS, shard_tokens)
    assert continued.summary() == whole.summary()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_finished_split_is_recognised_and_a_damaged_shard_written_again(tmp_path):
    write(tmp_path, UNITS, 10)
    before = contents(tmp_path)
    again = ShardWriter(tmp_path, "train", U2, 10)
    assert again.finished
    assert again.replaced == {"f": 3}
    (tmp_path / "train-00001.bin").write_bytes(b"\0" * 20)
    again = ShardWriter(tmp_path, "train", U2, 10)
    assert (len(again.shards), again.finished) == (1, False)
    write(tmp_path, UNITS, 10)
    assert contents(tmp_path) == before


def test_the_type_of_ids_follows_the_vocabulary():
    assert [token_dtype(size).str for size in (257, 65536, 65537)] == ["<u2", "<u2", "<u4"]


def manifest(folder):
    writer = write(folder, UNITS, 10)
    content = {"format": 1, "dtype": "<u2", "splits": {"train": writer.summary()}}
    (folder / "manifest.json").write_text(json.dumps(content))
    return content


def test_truncation_is_always_found_and_alteration_where_asked_for(tmp_path):
    content = manifest(tmp_path)
    assert load_manifest(tmp_path, verify=True) == content
    path = tmp_path / "train-00002.bin"
    good = path.read_bytes()
    path.write_bytes(good[:-2])
    with pytest.raises(UserError, match=r"train-00002\.bin is truncated.*18 bytes.*20.*delete"):
        load_manifest(tmp_path, verify=False)
    path.write_bytes(good[:-1] + b"\x77")
    load_manifest(tmp_path, verify=False)
    with pytest.raises(UserError, match=r"train-00002\.bin is altered"):
        load_manifest(tmp_path, verify=True)
    path.unlink()
    with pytest.raises(UserError, match=r"train-00002\.bin cannot be read"):
        load_manifest(tmp_path, verify=False)


@pytest.mark.parametrize(("content", "words"), [("{", "cannot be read"), ('{"format": 0}', "another format")])
def test_a_manifest_that_is_none(tmp_path, content, words):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=words):
        load_manifest(tmp_path, verify=True)


def test_an_entry_without_problem(tmp_path):
    shard = write(tmp_path, UNITS, 100).shards[0]
    assert check_shard(tmp_path, shard, verify=True) is None
