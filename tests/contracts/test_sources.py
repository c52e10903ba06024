"""What every source in the table owes: determinism, a fair split, exact resumption, the same rows on any mesh."""

import dataclasses

import jax
import numpy as np
import pytest

from gptjax.data import pipeline, prepare
from gptjax.data.config import DataConfig
from gptjax.data.console import Console
from gptjax.data.sequences import training_windows, validation_windows
from gptjax.data.sources import SOURCES, Prepared, find, load_corpus
from gptjax.data.split import Text
from gptjax.registry import Choice
from gptjax.sharding import Layout, MeshConfig, local_rows, make_mesh

T, B = 16, 8
sources = pytest.mark.parametrize("name", SOURCES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Some text, and a cache that all tests here share."""
    folder = tmp_path_factory.mktemp("sources")
    for index in range(12):
        (folder / f"{index}.txt").write_text(f"document {index} says {index * 7}\n" * (20 + index))
    output = folder / "prepared"
    prepare.prepare(Text("text", [folder / "0.txt"], 0.1), Choice("byte"), output, Console(silent=True))
    return folder


def config(name, folder):
    """A config that selects a source; a new entry of the table that needs more than a path says it here."""
    paths = {"text": str(folder / "*.txt"), "prepared": str(folder / "prepared")}
    options = {"mixture": {"paths": (str(folder / "*.txt"), str(folder / "prepared")), "weights": (1.0, 3.0)}}
    source = Choice(name, options.get(name, {}))
    return DataConfig(source=source, path=paths.get(name), batch_size=B, cache_dir=str(folder / "cache"))


def sharding(**mesh):
    return Layout(make_mesh(MeshConfig(**mesh)), "fsdp").sharding(("act_batch", "act_seq"))


def train_batches(cfg, corpus, where, cursor):
    return pipeline.train_batches(cfg, training_windows(corpus, cfg.packing, T), T, 0, where, cursor)


def take(cfg, corpus, count, cursor=0, where=None):
    batches = train_batches(cfg, corpus, where or sharding(), cursor)
    taken = [jax.tree.map(np.asarray, next(batches)) for _ in range(count)]
    batches.close()
    return taken


@sources
def test_it_is_found_and_the_config_is_valid(name, folder):
    cfg = config(name, folder)
    assert cfg.validate() == []
    assert all(isinstance(part, Text | Prepared) for part in find(cfg))


@sources
def test_it_is_the_same_corpus_each_time(name, folder):
    cfg = config(name, folder)
    one, other = load_corpus(cfg), load_corpus(cfg)
    assert one.fingerprint == other.fingerprint
    assert one.tokenizer.fingerprint == other.tokenizer.fingerprint
    for batch, again in zip(take(cfg, one, 3), take(cfg, other, 3), strict=True):
        jax.tree.map(np.testing.assert_array_equal, batch, again)


@sources
def test_no_file_is_in_both_splits_and_neither_is_empty(name, folder):
    cfg = config(name, folder)
    corpus = load_corpus(cfg)
    assert min(len(corpus.split("train")), len(corpus.split("valid"))) > T
    for part in find(cfg):
        if isinstance(part, Text) and len(part.files) > 1:
            assert not set(part.splits["train"]) & set(part.splits["valid"])
            assert sorted(part.splits["train"] + part.splits["valid"]) == sorted(part.files)


@sources
@pytest.mark.parametrize("packing", ["windows", "documents"])
def test_resuming_within_an_epoch_is_going_on(name, packing, folder):
    cfg = dataclasses.replace(config(name, folder), packing=packing)
    corpus = load_corpus(cfg)
    whole = take(cfg, corpus, 6)
    for batch, again in zip(whole[2:], take(cfg, corpus, 4, cursor=2 * B), strict=True):
        jax.tree.map(np.testing.assert_array_equal, batch, again)


@sources
@pytest.mark.parametrize("mesh", [{"fsdp": 4, "tensor": 2}, {"fsdp": 2, "context": 2, "tensor": 2}], ids=str)
def test_the_shards_of_a_batch_are_the_batch(name, mesh, folder):
    """On any mesh a device holds just its rows, and the rows together are those of the plain data-parallel one."""
    cfg = config(name, folder)
    corpus = load_corpus(cfg)
    where = sharding(**mesh)
    (whole,) = take(cfg, corpus, 1)
    batches = train_batches(cfg, corpus, where, 0)
    batch = next(batches)
    batches.close()
    for x_BT, whole_BT in zip(batch[:5], whole[:5], strict=True):
        for shard in x_BT.addressable_shards:
            np.testing.assert_array_equal(shard.data, whole_BT[shard.index])
    assert local_rows(where, (B, T)).tolist() == list(range(B))


@sources
def test_evaluation_covers_the_validation_split_once(name, folder):
    cfg = config(name, folder)
    corpus, limit = load_corpus(cfg), 40
    stream, rows = corpus.split("valid"), validation_windows(corpus, cfg.packing, T, limit)
    batches = list(pipeline.evaluation_batches(cfg, rows, T, B, sharding()))
    targets = np.concatenate([np.asarray(b.targets_BT)[np.asarray(b.loss_mask_BT) == 1] for b in batches])
    np.testing.assert_array_equal(targets, stream.tokens(1, min(len(stream), limit * T + 1)))
