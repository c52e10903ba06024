"""Finding files, and reading every kind of them in pieces."""

import gzip
import json

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from gptjax.data import text
from gptjax.data.text import PIECE_CHARS, Tally, expand, pieces
from gptjax.types import UserError

TEXTS = ["first\r\ndocument\n", "ß, 語 and 🙂", "\ufeffwith a mark\n\n"]


def documents(file, field="text", tally=None):
    """Reads a file whole: the text of each document."""
    read, parts = [], []
    for piece in pieces(file, field, tally or Tally()):
        assert piece.text
        assert len(piece.text) <= PIECE_CHARS
        parts.append(piece.text)
        if piece.ends:
            read.append("".join(parts))
            parts = []
    assert not parts
    return read


def jsonl(field="text"):
    return "".join(json.dumps({field: one, "id": 1}, ensure_ascii=bool(i % 2)) + "\n" for i, one in enumerate(TEXTS))


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", [".txt", ".jsonl"])
def test_every_packing_of_every_kind_is_read_to_the_byte(tmp_path, kind, suffix):
    data = ("".join(TEXTS) if kind == ".txt" else jsonl()).encode()
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    file = tmp_path / f"x{kind}{suffix}"
    file.write_bytes(pack(data[:11]) + pack(data[11:]))  # .gz and .zst may hold several members
    assert documents(file) == (["".join(TEXTS)] if kind == ".txt" else TEXTS)


def test_parquet_rows_are_documents(tmp_path):
    file = tmp_path / "x.parquet"
    parquet.write_table(pa.table({"n": [1, 2, 3, 4], "body": [*TEXTS, None]}), file)
    assert documents(file, "body") == TEXTS


def test_empty_documents_are_left_out(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": ""}\n\n{"text": "a"}\n{"text": ""}')
    (tmp_path / "x.txt").write_text("")
    assert documents(tmp_path / "x.jsonl") == ["a"]
    assert documents(tmp_path / "x.txt") == []


def test_long_documents_are_cut_behind_a_line_end_where_there_is_one(tmp_path):
    lines, solid = "0123456\n" * (PIECE_CHARS // 4), "x" * (3 * PIECE_CHARS)
    (tmp_path / "lines.txt").write_text(lines)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": solid}) + "\n" + json.dumps({"text": "y"}))
    cut = list(pieces(tmp_path / "lines.txt", "text", Tally()))
    assert len(cut) == 2
    assert all(piece.text.endswith("\n") for piece in cut)
    assert documents(tmp_path / "lines.txt") == [lines]
    assert documents(tmp_path / "rows.jsonl") == [solid, "y"]


@given(data=st.binary(max_size=60), block=st.integers(1, 9))
def test_invalid_bytes_are_replaced_as_python_does_and_counted(tmp_path_factory, data, block):
    """However the file is cut into blocks: the count is what is missing when invalid bytes are left out."""
    file = tmp_path_factory.mktemp("bytes") / "x.txt"
    file.write_bytes(data)
    tally = Tally()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_READ_BYTES", block)
        assert "".join(documents(file, tally=tally)) == data.decode(errors="replace")
    assert sum(tally.replaced.values()) == len(data) - len(data.decode(errors="ignore").encode())


def test_halves_of_surrogate_pairs_in_json_are_replaced_and_counted(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "a\\ud800b \\ud83d\\ude42"}')
    tally = Tally()
    assert documents(tmp_path / "x.jsonl", tally=tally) == ["a\ufffdb 🙂"]
    assert tally.replaced == {tmp_path / "x.jsonl": 3}


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"body": "b", "id": 2}', ["x.jsonl:2", "no field 'text'", "body, id"]),
        ("x.jsonl", b'{"text": "a"}\n\n{"text": ', ["x.jsonl:3", "no JSON"]),
        ("x.jsonl", b'{"text": 3}', ["x.jsonl:1", "holds 3, which is no text"]),
        ("x.jsonl", b"[1]", ["x.jsonl:1", "no object"]),
        ("x.txt.gz", b"no gzip at all", ["x.txt.gz is damaged"]),
        ("x.txt.gz", gzip.compress(b"hello " * 999, mtime=0)[:-9], ["x.txt.gz is damaged"]),
        ("x.txt.zst", b"no zstd at all", ["x.txt.zst is damaged"]),
        ("x.txt.zst", zstandard.compress(b"hello " * 999)[:-3], ["x.txt.zst is damaged", "middle"]),
        ("x.parquet", b"PAR1 no parquet", ["x.parquet is damaged"]),
    ],
)
def test_damage_is_named(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        documents(tmp_path / name)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(("column", "words"), [("body", "its columns are body"), ("text", "holds int64")])
def test_a_parquet_column_that_is_missing_or_no_text_is_named(tmp_path, column, words):
    parquet.write_table(pa.table({column: [1]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=words):
        documents(tmp_path / "x.parquet")


@pytest.mark.parametrize(("name", "module"), [("x.zst", "zstandard"), ("x.parquet", "pyarrow")])
def test_a_missing_library_is_named_with_the_extra(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=rf"needs {module}.*pip install 'gptjax\[tasks\]'"):
        documents(tmp_path / name)


def test_files_globs_and_folders(tmp_path):
    for name in ("a.txt", "b/c.md", "b/d/e.txt.gz", ".hidden/x.txt", "b/.x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"text")
    (tmp_path / "b/image.bin").write_bytes(b"\0\1")

    def names(*patterns):
        return sorted(str(file.relative_to(tmp_path)) for file in expand([f"{tmp_path}/{p}" for p in patterns]))

    assert names("") == ["a.txt", "b/c.md", "b/d/e.txt.gz"]
    assert names("**/*.txt") == ["a.txt"]
    assert names("b/*") == ["b/c.md", "b/image.bin"]
    assert names("a.txt", "*.txt", "b/c.md", "b/image.bin") == ["a.txt", "b/c.md", "b/image.bin"]


@pytest.mark.parametrize(
    ("path", "words"), [("none.txt", "does not exist"), ("*.none", "matches no file"), ("empty", "without a text file")]
)
def test_paths_that_stand_for_nothing(tmp_path, monkeypatch, path, words):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"^'{path.replace('*', '.')}' .*{words}"):
        expand([path])


def test_a_file_whose_name_is_a_pattern_is_that_file(tmp_path):
    (tmp_path / "a[1].txt").write_text("x")
    assert expand([str(tmp_path / "a[1].txt")]) == [tmp_path / "a[1].txt"]
