"""Which text a config means, and the cache that keeps it prepared."""

import os
import sysconfig
import threading
from pathlib import Path

import pytest

from gptjax.data import prepare
from gptjax.data.config import DataConfig
from gptjax.data.console import Console
from gptjax.data.sources import Prepared, cache_dir, find, load_corpus, python_stdlib, tokenizer_alone
from gptjax.data.split import Text
from gptjax.registry import Choice
from gptjax.types import UserError


@pytest.fixture
def folder(tmp_path):
    """Two small texts, and one that is prepared."""
    (tmp_path / "a.txt").write_text("all the first text\n" * 40)
    (tmp_path / "b.txt").write_text("and another text\n" * 40)
    prepare_into(tmp_path / "p", tmp_path / "b.txt", Choice("byte"))
    return tmp_path


def prepare_into(output, file, choice):
    prepare.prepare(Text(str(file), [file], 0.1), choice, output, Console(silent=True))


def config(folder, **changes):
    return DataConfig(cache_dir=str(folder / "cache"), **changes)


def test_the_standard_library_is_its_source_without_tests_and_packages():
    (text,) = python_stdlib(None, 0.1)
    root = Path(sysconfig.get_paths()["stdlib"])
    names = [file.relative_to(root) for file in text.files]
    assert Path("json/decoder.py") in names
    assert {name.suffix for name in names} == {".py"}
    assert not [n for n in names if {"test", "tests", "idle_test", "site-packages", "dist-packages"} & set(n.parts)]
    assert 6e6 < text.size_on_disk < 30e6
    assert not set(text.splits["train"]) & set(text.splits["valid"])


def test_a_path_selects_the_source(folder):
    def found(**changes):
        return find(config(folder, **changes))

    assert [type(part) for part in found(path=str(folder / "a.txt"))] == [Text]
    assert [type(part) for part in found(path=str(folder / "p"))] == [Prepared]
    assert [part.label for part in found()] == ["python_stdlib"]
    field = found(path=str(folder / "a.txt"), source=Choice("text", {"field": "body"}))[0].field
    assert field == "body"


def test_an_unfinished_preparation_is_no_text(folder):
    (folder / "p/manifest.json").rename(folder / "p/plan.json")
    with pytest.raises(UserError, match=r"holds no manifest\.json; run the same gptjax\.prepare again"):
        find(config(folder, path=str(folder / "p")))


def test_the_cache_may_be_another_folder(monkeypatch):
    monkeypatch.setenv("GPTJAX_CACHE", "/one")
    assert cache_dir(DataConfig()) == Path("/one")
    assert cache_dir(DataConfig(cache_dir="/other")) == Path("/other")


def test_text_is_prepared_once_and_found_by_its_content(folder, capsys):
    first = load_corpus(config(folder, path=str(folder / "a.txt")))
    assert "prepared" in capsys.readouterr().out
    os.utime(folder / "a.txt", (1, 1))
    (folder / "a.txt").rename(folder / "renamed.txt")
    second = load_corpus(config(folder, path=str(folder / "renamed.txt")))
    assert capsys.readouterr().out == ""
    assert second.fingerprint == first.fingerprint
    train, valid = (
        second.tokenizer.decode(second.split(s).tokens(0, len(second.split(s)))) for s in ("train", "valid")
    )
    assert train + valid == "all the first text\n" * 40


def test_content_split_and_tokenizer_make_another_corpus(folder):
    changes = [{}, {"valid_fraction": 0.2}, {"tokenizer": Choice("char")}, {"path": str(folder / "b.txt")}]
    made = {load_corpus(config(folder, **{"path": str(folder / "a.txt"), **change})).fingerprint for change in changes}
    assert len(made) == 4


def test_prepared_by_hand_or_in_the_cache_is_the_same_corpus(folder):
    by_hand = load_corpus(config(folder, path=str(folder / "p")))
    cached = load_corpus(config(folder, path=str(folder / "b.txt")))
    assert by_hand.fingerprint == cached.fingerprint


def test_two_at_once_lose_nothing(folder):
    """Whoever comes second finds, or throws away, the same work; nothing half made is left."""
    results, barrier = [], threading.Barrier(2)

    def load():
        barrier.wait()
        results.append(load_corpus(config(folder, path=str(folder / "a.txt"))).fingerprint)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert len(set(results)) == 1
    assert not list((folder / "cache").rglob(".partial*"))


def test_a_failed_preparation_leaves_nothing(folder):
    (folder / "bad.jsonl").write_text('{"text": "x"}\n' * 5 + "{")
    with pytest.raises(UserError, match=r"bad\.jsonl:6"):
        load_corpus(config(folder, path=str(folder / "bad.jsonl")))
    assert not list((folder / "cache").rglob("*.bin"))


def test_a_damaged_cache_names_file_and_cure(folder):
    cfg = config(folder, path=str(folder / "a.txt"))
    load_corpus(cfg)
    (shard,) = (folder / "cache").rglob("train-00000.bin")
    shard.write_bytes(shard.read_bytes()[:-1] + b"\7")
    with pytest.raises(UserError, match=rf"{shard} is altered.*delete {shard.parent} and prepare"):
        load_corpus(cfg)


def test_another_tokenizer_in_a_prepared_folder_is_refused(folder):
    (folder / "p/tokenizer/tokenizer_config.json").write_text('{"kind": "char", "characters": "abc"}')
    with pytest.raises(UserError, match=r"p/tokenizer is altered"):
        load_corpus(config(folder, path=str(folder / "p")))


@pytest.mark.parametrize("content", ["[]", '{"format": 1}'])
def test_a_manifest_that_is_none_is_named(folder, content):
    (folder / "p/manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"p/manifest\.json is damaged"):
        load_corpus(config(folder, path=str(folder / "p")))


def test_a_cache_that_cannot_be_written(folder):
    (folder / "file").write_text("")
    with pytest.raises(UserError, match=r"file/.* cannot be written"):
        load_corpus(DataConfig(path=str(folder / "a.txt"), cache_dir=str(folder / "file")))


def test_a_mixture_has_one_tokenizer_and_both_splits_of_each_part(folder):
    paths = (str(folder / "a.txt"), str(folder / "b.txt"))
    source = Choice("mixture", {"paths": paths, "weights": (2.0, 1.0)})
    corpus = load_corpus(config(folder, source=source, tokenizer=Choice("bpe", {"vocab_size": 300})))
    assert corpus.weights == [2.0, 1.0]
    assert corpus.labels == list(paths)
    stream = corpus.split("valid")
    (_, middle), (_, stop) = stream.parts
    decode = corpus.tokenizer.decode
    assert decode(stream.tokens(0, middle)) == ("all the first text\n" * 40)[-76:]
    assert decode(stream.tokens(middle, stop)) == ("and another text\n" * 40)[-68:]
    heavier = load_corpus(config(folder, source=Choice("mixture", {"paths": paths}), tokenizer=Choice("byte")))
    assert heavier.fingerprint != corpus.fingerprint


def test_a_mixture_with_prepared_text_takes_its_tokenizer(folder, capsys):
    source = Choice("mixture", {"paths": (str(folder / "a.txt"), str(folder / "p"))})
    corpus = load_corpus(config(folder, source=source, tokenizer=Choice("char")))
    assert corpus.tokenizer.vocab_size == 257
    assert f"the tokenizer is that of {folder / 'p'}" in capsys.readouterr().out


def test_prepared_texts_of_different_tokenizers_do_not_mix(folder):
    prepare_into(folder / "q", folder / "a.txt", Choice("char"))
    source = Choice("mixture", {"paths": (str(folder / "p"), str(folder / "q"))})
    with pytest.raises(UserError, match="different tokenizers"):
        load_corpus(config(folder, source=source))


def test_a_tokenizer_learns_from_a_text_that_no_task_reads_if_one_was_named(folder):
    cfg = config(folder, path=str(folder / "a.txt"), tokenizer=Choice("char"))
    assert tokenizer_alone(cfg).fingerprint == load_corpus(cfg).tokenizer.fingerprint
    with pytest.raises(UserError, match=r"and no task reads any; set data\.path to a text"):
        tokenizer_alone(config(folder, tokenizer=Choice("char")))
    assert tokenizer_alone(config(folder)).vocab_size == 257
