"""Lines: what reading refuses and forgives, and that writing and reading are each other's inverse."""

import gzip
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptjax.data import lines
from gptjax.data.lines import read_lines, write_lines
from gptjax.data.records import read_records
from gptjax.types import UserError


def test_line_ends_and_the_byte_order_mark_are_no_part_of_lines(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbfa\r\n\r\nb\xe2\x80\xa8c\n\xef\xbb\xbfd")
    assert list(read_lines(tmp_path / "x.txt")) == [(1, "a"), (2, ""), (3, "b\u2028c"), (4, "\ufeffd")]


def test_packed_files_are_read_and_written_plain(tmp_path):
    (tmp_path / "x.txt.gz").write_bytes(gzip.compress(b"a\n") + gzip.compress(b"b\n"))
    read = [text for _, text in read_lines(tmp_path / "x.txt.gz")]
    assert read == ["a", "b"]
    assert write_lines(tmp_path / "new" / "y.txt.gz", read) == tmp_path / "new" / "y.txt"
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["y.txt"]


text = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"))


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(text, max_size=5))
def test_what_is_written_is_read(tmp_path_factory, texts):
    file = tmp_path_factory.mktemp("lines") / "x.txt"
    assert [line.text for line in read_lines(write_lines(file, texts))] == texts


def test_half_a_surrogate_pair_does_not_stop_a_file_of_predictions(tmp_path):
    assert [line.text for line in read_lines(write_lines(tmp_path / "x.txt", ["a\ud800b"]))] == ["a?b"]


def test_an_error_leaves_the_old_file(tmp_path):
    def broken():
        yield "new"
        raise KeyError

    file = write_lines(tmp_path / "x.txt", ["old"])
    with pytest.raises(KeyError):
        write_lines(file, broken())
    assert file.read_text() == "old\n"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("x.txt", b"a\nb\xff\n", ["x.txt:2", "byte 2", "0xff", "save the file as UTF-8"]),
        ("x.txt", b"a\n\xc3\n", ["x.txt:2", "no UTF-8"]),
        ("x.txt", b"a\nb\0\n", ["x.txt:2", "NUL"]),
        ("x.txt", b"a\n" + b"b" * 2000, ["x.txt:2", "longer than 1,000 bytes"]),
        ("x.txt.gz", b"no gzip", ["x.txt.gz", "damaged"]),
        ("x.txt.gz", gzip.compress(b"a\n" * 999, mtime=0)[:-9], ["x.txt.gz", "damaged"]),
        ("x.txt.gz", gzip.compress(b"a" * 99_999, mtime=0), ["x.txt.gz:1", "longer than"]),
    ],
)
def test_damage_is_named_with_its_place(tmp_path, monkeypatch, name, data, words):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1000)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        list(read_lines(tmp_path / name))
    assert all(word in str(caught.value) for word in words), caught.value


def test_what_is_no_file_is_named(tmp_path):
    for name, words in (("none.txt", "does not exist"), (".", "is no file")):
        with pytest.raises(UserError, match=words):
            list(read_lines(tmp_path / name))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_lines(tmp_path / "file" / "x.txt", ["a"])


@pytest.mark.parametrize("data", [b"\0" * 30_000_000, b"a\tb\n" * 7_500_000], ids=["one line", "many lines"])
def test_a_bomb_takes_next_to_no_memory(tmp_path, data):
    (tmp_path / "x.tsv.gz").write_bytes(gzip.compress(data))
    del data
    tracemalloc.start()
    with pytest.raises(UserError, match=r"x\.tsv\.gz unpacks to more than 50 times"):
        read_records(tmp_path / "x.tsv.gz", {"text": 0})
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_a_line_without_end_takes_no_more_memory_than_a_line_may(tmp_path):
    with open(tmp_path / "x.jsonl", "wb") as file:
        file.truncate(300_000_000)  # a sparse file of NULs
    tracemalloc.start()
    with pytest.raises(UserError, match=r"x\.jsonl:1: this line is longer"):
        read_records(tmp_path / "x.jsonl", {"text": "text"})
    assert tracemalloc.get_traced_memory()[1] < 4 * lines.MAX_LINE_BYTES
    tracemalloc.stop()
