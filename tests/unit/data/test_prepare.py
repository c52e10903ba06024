"""A prepared folder: what it holds, and that interruptions and workers change nothing."""

import errno
import gzip
import json

import numpy as np
import pytest

from gptjax.data import prepare as module
from gptjax.data import units
from gptjax.data.console import Console, size
from gptjax.data.prepare import prepare
from gptjax.data.shard_writer import ShardWriter
from gptjax.data.shards import TokenStream, load_manifest, open_shards
from gptjax.data.split import Text
from gptjax.data.text import Tally, expand
from gptjax.data.tokenizer import load_tokenizer
from gptjax.registry import Choice
from gptjax.types import UserError

BYTE = Choice("byte")


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr("gptjax.data.units.UNIT_CHARS", 500)
    monkeypatch.setattr("gptjax.data.text.PIECE_CHARS", 200)


@pytest.fixture
def text(tmp_path):
    """Thirty files, one of them with bytes that are no UTF-8."""
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for index in range(30):
        words = rng.choice(["lorem ", "ipsüm\n", "dolor 🙂 "], rng.integers(5, 100))
        (tmp_path / f"in/{index}.txt").write_text("".join(words))
    (tmp_path / "in/bad.txt").write_bytes(b"ab\xff\xfecd\xe2\x82")
    return Text("in", expand([str(tmp_path / "in")]), 0.2)


def run(text, folder, choice=BYTE, **options):
    return prepare(text, choice, folder, Console(silent=True), **{"shard_tokens": 1000, **options})


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def decoded(folder, split):
    manifest = load_manifest(folder, verify=True)
    stream = TokenStream("", [open_shards(folder, manifest, split)])
    return load_tokenizer(folder / "tokenizer").decode(stream.tokens(0, len(stream)))


@pytest.mark.parametrize("choice", [BYTE, Choice("char"), Choice("bpe", {"vocab_size": 300})], ids=lambda c: c.name)
def test_the_folder_holds_the_text(text, tmp_path, choice):
    manifest = run(text, tmp_path / "out", choice)
    for split, files in text.splits.items():
        whole = "".join(file.read_bytes().decode(errors="replace") for file in files)
        assert decoded(tmp_path / "out", split) == whole
        summary = manifest["splits"][split]
        assert summary["characters"] == len(whole)
        assert summary["bytes"] == len(whole.encode())
        assert summary["documents"] == len(files)
        assert summary["tokens"] == sum(shard["tokens"] for shard in summary["shards"])
    assert manifest["replaced_bytes"] == 4
    assert not list((tmp_path / "out").glob("*-?????.json"))
    assert not (tmp_path / "out/plan.json").exists()


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_change_no_byte(text, tmp_path, workers):
    run(text, tmp_path / "one", workers=1)
    run(text, tmp_path / "many", workers=workers)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


@pytest.mark.parametrize("after", [0, 1, 4, 9, 15])
def test_an_interrupted_preparation_is_continued_to_the_same_bytes(text, tmp_path, monkeypatch, after):
    run(text, tmp_path / "whole")
    written = []

    def write(writer, tokens, original=ShardWriter.write):
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(original(writer, tokens))

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "write", write)
        with pytest.raises(KeyboardInterrupt):
            run(text, tmp_path / "torn")
    assert not (tmp_path / "torn/manifest.json").exists()
    run(text, tmp_path / "torn")
    assert contents(tmp_path / "whole") == contents(tmp_path / "torn")


def test_what_is_finished_is_not_tokenized_again(text, tmp_path, monkeypatch):
    tokenized = []

    def tokenize(tokenizer, unit, original=units.tokenize):
        tokenized.append(unit)
        return original(tokenizer, unit)

    def write(writer, tokens, original=ShardWriter.write):
        original(writer, tokens)
        if len(writer.shards) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(units, "tokenize", tokenize)
    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "write", write)
        with pytest.raises(KeyboardInterrupt):
            run(text, tmp_path / "torn")
    before = len(tokenized)
    run(text, tmp_path / "torn")
    num_units = sum(len(list(units.units(text.pieces(split, Tally())))) for split in text.splits)
    assert before > 5
    assert num_units <= len(tokenized) <= num_units + 2  # those whose tokens stood in no finished shard, twice


def test_a_finished_folder_is_left_alone(text, tmp_path, capsys):
    run(text, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    prepare(text, BYTE, tmp_path / "out", Console(), shard_tokens=1000)
    assert "is prepared already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


def test_another_text_or_tokenizer_is_refused(text, tmp_path):
    run(text, tmp_path / "out")
    with pytest.raises(UserError, match=r"out is finished, and holds another tokenizer; choose another --output"):
        run(text, tmp_path / "out", Choice("char"))
    (tmp_path / "in/new.txt").write_text("more")
    other = Text("in", expand([str(tmp_path / "in")]), 0.2)
    with pytest.raises(UserError, match="holds other text"):
        run(other, tmp_path / "out")
    (tmp_path / "out/manifest.json").unlink()
    (tmp_path / "out/plan.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(UserError, match="was begun for"):
        run(text, tmp_path / "out")


def test_a_folder_with_other_files_is_refused(text, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"holds other files \(thesis\.tex\)"):
        run(text, tmp_path / "out")
    assert contents(tmp_path / "out") == {"thesis.tex": b"precious"}


def test_a_second_process_is_refused(text, tmp_path, monkeypatch):
    def meanwhile(*args, original=module.write_corpus, **kwargs):
        with pytest.raises(UserError, match="another process is preparing"):
            run(text, tmp_path / "out")
        return original(*args, **kwargs)

    monkeypatch.setattr(module, "write_corpus", meanwhile)
    run(text, tmp_path / "out")
    assert (tmp_path / "out/manifest.json").exists()


def test_replaced_bytes_are_a_warning_for_each_file(text, tmp_path, capsys):
    prepare(text, BYTE, tmp_path / "out", Console())
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warnings == [f"warning: {tmp_path}/in/bad.txt: 4 bytes are no UTF-8 and were replaced by U+FFFD"]


def test_bytes_of_one_file_are_counted_once(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xff" + b"line\n" * 500 + b"\xff")
    manifest = run(Text("x", [tmp_path / "x.txt"], 0.1), tmp_path / "out")
    assert manifest["replaced_bytes"] == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "holds 0 characters; add text"), (b"x", "holds 1 characters: the training split is left without any")],
)
def test_nothing_to_train_on(tmp_path, content, words):
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"small {words}"):
        run(Text("small", [tmp_path / "x.txt"], 0.1), tmp_path / "out")


def test_an_empty_validation_split_is_named(tmp_path):
    (tmp_path / "x.txt.gz").write_bytes(gzip.compress(b"x"))
    (tmp_path / "y.txt").write_bytes(b"")
    text = Text("two files", [tmp_path / "x.txt.gz", tmp_path / "y.txt"], 0.5)
    side = "training" if "y" in text.splits["train"][0].name else "validation"
    with pytest.raises(UserError, match=f"two files holds 1 characters: the {side} split is left"):
        run(text, tmp_path / "out")


def test_a_full_disk_is_a_plain_error_and_goes_on_later(text, tmp_path, monkeypatch):
    calls = []

    def write(writer, tokens, original=ShardWriter.write):
        calls.append(tokens)
        if len(calls) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(writer, tokens)

    monkeypatch.setattr(ShardWriter, "write", write)
    with pytest.raises(UserError, match=r"out cannot be written \(No space left on device\); make room"):
        run(text, tmp_path / "out")
    run(text, tmp_path / "out")
    run(text, tmp_path / "again")
    assert contents(tmp_path / "out") == contents(tmp_path / "again")


def test_the_fingerprint_is_of_content_split_and_tokenizer_alone(text, tmp_path):
    prints = {
        run(text, tmp_path / "a")["fingerprint"],
        run(text, tmp_path / "b", shard_tokens=77)["fingerprint"],
        run(text, tmp_path / "c", workers=2)["fingerprint"],
    }
    assert len(prints) == 1
    assert run(text, tmp_path / "d", Choice("char"))["fingerprint"] not in prints
    assert run(Text("in", text.files, 0.5), tmp_path / "e")["fingerprint"] not in prints


@pytest.mark.parametrize(
    ("num_bytes", "words"), [(0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (5 * 10**13, "50.0 TB")]
)
def test_sizes_in_words(num_bytes, words):
    assert size(num_bytes) == words


def test_long_tasks_speak_now_and_then_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr("gptjax.data.console._SECONDS_BETWEEN_LINES", -1)
    with Console().progress("preparing x", 5000) as advance:
        advance(1000)
        advance(1500)
    assert capsys.readouterr().out == "preparing x: 1.0 kB of 5.0 kB\npreparing x: 2.5 kB of 5.0 kB\n"
