"""Batches: the same rows on any mesh, resumed at any cursor, every sequence once an epoch."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from gptjax.data import packing, pipeline
from gptjax.data.config import DataConfig
from gptjax.data.sequences import training_windows, validation_windows
from gptjax.data.shards import Shard, TokenStream
from gptjax.data.sources import Corpus
from gptjax.sharding import Layout, MeshConfig, local_rows, make_mesh
from gptjax.types import UserError

T = 8
MESHES = [{}, {"fsdp": 4, "tensor": 2}, {"fsdp": 1, "replica": 2, "context": 4}, {"fsdp": 1, "tensor": 8}]


def rows_sharding(**mesh):
    return Layout(make_mesh(MeshConfig(**mesh)), "fsdp").sharding(("act_batch", "act_seq"))


def stream(*lengths, document=5):
    """Parts of distinct ids, in shards of 37 tokens and documents of 5."""
    first, parts = 1, []
    for length in lengths:
        ids = np.arange(first, first + length)
        ends = np.arange(document, length + 1, document)
        parts.append([Shard(ids[i : i + 37], ends[(ends > i) & (ends <= i + 37)] - i) for i in range(0, length, 37)])
        first += length
    return TokenStream("some.txt", parts)


def corpus(*lengths, weights=None):
    weights = weights or (1.0,) * len(lengths)
    labels = [f"part{i}.txt" for i in range(len(lengths))]
    streams = {"train": stream(*lengths), "valid": stream(50)}
    return Corpus(None, "", [], labels, weights, streams)  # type: ignore[arg-type]


def config(**changes):
    return DataConfig(**{"batch_size": 16, **changes})


def train_batches(cfg, data, T, seed, sharding, cursor):
    return pipeline.train_batches(cfg, training_windows(data, cfg.packing, T), T, seed, sharding, cursor)


def evaluation_batches(cfg, data, T, batch_size, sharding, limit=None):
    rows = validation_windows(Corpus(None, "", [], [], [], {"valid": data}), cfg.packing, T, limit)
    return pipeline.evaluation_batches(cfg, rows, T, batch_size, sharding)


def take(count, *, cursor=0, seed=0, sharding=None, data=None, **changes):
    """The first batches from a cursor on, as NumPy."""
    batches = train_batches(config(**changes), data or corpus(1000), T, seed, sharding or rows_sharding(), cursor)
    taken = [jax.tree.map(np.asarray, next(batches)) for _ in range(count)]
    batches.close()
    return taken


def assert_equal(ones, others):
    for one, other in zip(ones, others, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("packing_name", packing.PACKINGS)
@pytest.mark.parametrize("mesh", MESHES[1:], ids=str)
def test_the_same_rows_on_any_mesh(mesh, packing_name):
    sharding = rows_sharding(**mesh)
    batches = train_batches(config(packing=packing_name), corpus(1000), T, 0, sharding, 0)
    batch = next(batches)
    batches.close()
    assert_equal([jax.tree.map(np.asarray, batch)], take(1, packing=packing_name))
    for x_BT in batch[:5]:
        assert x_BT.shape == (16, T)
        assert x_BT.sharding.is_equivalent_to(sharding, 2)


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_resuming_at_a_cursor_is_going_on(num_threads):
    """In the middle of an epoch (124 sequences), with any number of threads, and over its end."""
    whole = take(20, num_threads=0)
    assert_equal(whole[5:], take(15, cursor=5 * 16, num_threads=num_threads))


def test_a_row_is_its_sequence_whatever_the_batch_size():
    """Row r of the batch at cursor c is sequence c + r, for a cursor that the batch size does not divide too."""
    sequences = np.concatenate([batch.tokens_BT for batch in take(6)])
    np.testing.assert_array_equal(take(1, cursor=40, batch_size=24)[0].tokens_BT, sequences[40:64])
    np.testing.assert_array_equal(take(1, cursor=13)[0].tokens_BT, sequences[13:29])


RAMP = ((8, 20), (16, 50))  # 3 batches of 8 until 24 were read, 2 of 16 until 56, then 24


def test_a_ramp_reads_the_same_sequences_in_smaller_batches_first():
    sequences = np.concatenate([batch.tokens_BT for batch in take(7)])
    ramped = [batch.tokens_BT for batch in take(7, batch_size=24, batch_ramp=RAMP)]
    assert [len(tokens_BT) for tokens_BT in ramped] == [8, 8, 8, 16, 16, 24, 24]
    np.testing.assert_array_equal(np.concatenate(ramped), sequences[:104])


@pytest.mark.parametrize("done", [2, 3, 4, 5, 6])
def test_the_cursor_says_where_on_a_ramp_a_run_is(done):
    ramp = {"batch_size": 24, "batch_ramp": RAMP}
    batches = train_batches(config(**ramp), corpus(1000), T, 0, rows_sharding(), 0)
    for _ in range(done):
        next(batches)
    cursor = batches.cursor
    batches.close()
    assert_equal(take(8, **ramp)[done:], take(8 - done, cursor=cursor, **ramp))


def test_the_cursor_is_that_of_the_next_batch():
    batches = train_batches(config(), corpus(1000), T, 0, rows_sharding(), 32)
    assert batches.cursor == 32
    next(batches)
    next(batches)
    assert batches.cursor == 64
    batches.close()


def test_an_epoch_has_every_window_once_and_the_next_in_another_order():
    data = corpus(16 * 8 * T + 1)
    taken = [batch.tokens_BT[:, 0] for batch in take(16, data=data)]
    first, second = np.concatenate(taken[:8]), np.concatenate(taken[8:])
    assert sorted(first) == sorted(second) == list(range(1, 16 * 8 * T, T))
    assert list(first) != list(second)


def test_the_seed_decides_the_order():
    assert not np.array_equal(take(1, seed=1)[0].tokens_BT, take(1, seed=2)[0].tokens_BT)


def test_a_mixture_keeps_to_its_weights_and_a_row_to_its_part():
    data = corpus(300, 700, weights=(3.0, 1.0))
    tokens = np.concatenate([batch.tokens_BT for batch in take(25, data=data)])
    targets = np.concatenate([batch.targets_BT for batch in take(25, data=data)])
    assert abs((tokens[:, 0] <= 300).sum() - 300) <= 2
    assert ((tokens <= 300).all(1) | (tokens > 300).all(1)).all()
    np.testing.assert_array_equal(targets, tokens + 1)


def test_a_process_reads_only_the_rows_of_its_devices(monkeypatch):
    """With a sharding whose addressable devices hold the second half, that half alone is read."""
    monkeypatch.setattr("gptjax.data.pipeline.local_rows", lambda *_: np.arange(8, 16))
    monkeypatch.setattr("gptjax.data.pipeline._to_global", lambda local, *_: local)
    half = take(1)[0].tokens_BT
    monkeypatch.undo()
    assert half.shape == (8, T)
    np.testing.assert_array_equal(half, take(1)[0].tokens_BT[8:])


def test_rows_of_shards_are_disjoint_and_complete():
    """What the devices of a mesh hold, put together, is the batch: each row as often as it is replicated."""
    for mesh in MESHES:
        sharding = rows_sharding(**mesh)
        batches = train_batches(config(), corpus(1000), T, 0, sharding, 0)
        tokens_BT = next(batches).tokens_BT
        batches.close()
        whole = take(1)[0].tokens_BT
        held = np.zeros(16, int)
        for shard in tokens_BT.addressable_shards:
            np.testing.assert_array_equal(shard.data, whole[shard.index])
            held[shard.index[0]] += 1
        assert len(set(held)) == 1
        np.testing.assert_array_equal(local_rows(sharding, (16, T)), np.arange(16))


@pytest.mark.parametrize("batch_size", [8, 16])
@pytest.mark.parametrize("length", [2, 8, 9, 10, 129, 130, 500])
def test_evaluation_counts_every_token_but_the_first_once(length, batch_size):
    batches = list(evaluation_batches(config(), stream(length), T, batch_size, rows_sharding()))
    targets = np.concatenate([np.asarray(b.targets_BT)[np.asarray(b.loss_mask_BT) == 1] for b in batches])
    assert targets.tolist() == list(range(2, length + 1))
    assert {b.tokens_BT.shape for b in batches} == {(batch_size, T)}
    assert len(batches) == -(-(length - 1) // (T * batch_size))


def test_evaluation_can_stop_after_some_windows():
    masks = [np.asarray(b.loss_mask_BT) for b in evaluation_batches(config(), stream(500), T, 16, rows_sharding(), 21)]
    assert [int(mask.sum()) for mask in masks] == [16 * T, 5 * T]
    assert len(list(evaluation_batches(config(), stream(50), T, 16, rows_sharding(), 1000))) == 1


def test_too_little_text_is_named_with_its_numbers():
    with pytest.raises(UserError, match=r"part1\.txt holds 8 training tokens.*model\.seq_len=8.*lower model\.seq_len"):
        train_batches(config(), corpus(100, 8), T, 0, rows_sharding(), 0)
    with pytest.raises(UserError, match=r"some\.txt holds 1 validation tokens"):
        evaluation_batches(config(), stream(1), T, 8, rows_sharding())


def test_reading_ahead_does_not_keep_a_process_alive():
    """Closed or not, the threads end with the program."""
    code = (
        "import numpy as np, jax\n"
        "from tests.unit.data.test_pipeline import config, corpus, rows_sharding, train_batches, T\n"
        "batches = train_batches(config(num_threads=3, prefetch=9), corpus(1000), T, 0, rows_sharding(), 0)\n"
        "next(batches); print('done')\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
