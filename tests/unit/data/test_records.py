"""Records of every format: reading, writing back, and what is wrong with a file, said with its place."""

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptjax.data.records import read_aligned, read_records, write_records
from gptjax.types import UserError

COLUMNS = {"text": "text", "label": "label"}
FILES = {
    "x.tsv": 'text\tid\tlabel\nA good film\t1\tpos\nAn "odd" one\t2\tneg\n',
    "x.csv": 'text,id,label\nA good film,1,pos\n"An ""odd"" one",2,neg\n',
    "x.jsonl": '{"text": "A good film", "id": 1, "label": "pos"}\n\n'
    '{"text": "An \\"odd\\" one", "id": 2, "label": "neg"}',
}


def written(folder, name, data):
    """Writes a file of text or bytes, packed where its name says so."""
    data = data.encode() if isinstance(data, str) else data
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder / name


def values(records):
    return [dict(record.values) for record in records]


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("name", FILES)
def test_columns_are_found_by_name_and_predictions_take_their_place(tmp_path, name, packed):
    file = written(tmp_path, name + packed, FILES[name])
    records = read_records(file, COLUMNS)
    assert [(record.text("text"), record.text("label")) for record in records] == [
        ("A good film", "pos"),
        ('An "odd" one', "neg"),
    ]
    assert records[1].where == f"{file}:3"
    out = write_records(tmp_path / "out" / (name + packed), records, {"label": ["neg", "pos"]})
    assert out == tmp_path / "out" / name
    again = read_records(out, {**COLUMNS, "id": "id"})
    assert [record.text("label") for record in again] == ["neg", "pos"]
    assert [record.text("id") for record in again] == ["1", "2"]
    assert [record.text("text") for record in again] == [record.text("text") for record in records]


def test_columns_are_numbers_where_there_is_no_header(tmp_path):
    file = written(tmp_path, "x.tsv", "1\ta b\n0\tc d\n")
    assert values(read_records(file, {"text": 1, "label": 0})) == [
        {"text": ("a b",), "label": ("1",)},
        {"text": ("c d",), "label": ("0",)},
    ]
    assert values(read_records(file, {"text": "-1"}, header=True)) == [{"text": ("c d",)}]
    out = write_records(tmp_path / "y.tsv", read_records(file, {"text": 1}), {"label": ["x", "y"]})
    assert out.read_text() == "1\ta b\tx\n0\tc d\ty\n"


def test_a_new_column_gets_its_name_in_the_header(tmp_path):
    records = read_records(written(tmp_path, "x.csv", "a,b\n1,2\n"), {"text": "a"})
    assert write_records(tmp_path / "y.csv", records, {"guess": ["p"]}).read_text() == "a,b,guess\n1,2,p\n"


def test_several_columns_are_one_text_or_several(tmp_path):
    file = written(tmp_path, "x.csv", '3,Title,"Body, long"\n')
    record = read_records(file, {"text": [1, 2], "label": 0})[0]
    assert record.text("text") == "Title Body, long"
    assert record.texts("text") == ["Title", "Body, long"]
    out = write_records(tmp_path / "y.csv", [record], {"text": ["new"]})
    assert out.read_text() == '3,new,""\n'


def test_quoted_cells_may_hold_lines_and_rows_know_where_they_begin(tmp_path):
    file = written(tmp_path, "x.csv", '"a\nb",1\r\n\r\n"c""d",2\r\n')
    records = read_records(file, {"text": 0, "label": 1})
    assert [(record.text("text"), record.line) for record in records] == [("a\nb", 1), ('c"d', 4)]


def test_labels_in_a_cell_are_parted(tmp_path):
    file = written(tmp_path, "x.tsv", "a\t4,27\nb\t3\nc\t\n")
    records = read_records(file, {"text": 0, "label": 1})
    assert [record.texts("label", ",") for record in records] == [["4", "27"], ["3"], []]
    again = read_records(write_records(tmp_path / "y.tsv", records, {"label": [["1", "2"], [], ["5"]]}), {"label": 1})
    assert [record.texts("label", ",") for record in again] == [["1", "2"], [], ["5"]]


def test_json_fields_lead_into_objects_and_lists_and_keep_their_kind(tmp_path):
    row = {"a": {"b": [{"c": "x", "d": 1}]}, "refs": ["r", "s"], "n": 3, "ok": True, "a.z": "dotted", "labels": [4, 27]}
    file = written(tmp_path, "x.jsonl", json.dumps(row))
    columns = {
        "c": "a.b.0.c",
        "refs": "refs",
        "n": "n",
        "ok": "ok",
        "z": "a.z",
        "labels": "labels",
        "both": ["n", "refs"],
    }
    records = read_records(file, columns)
    assert values(records)[0] == {
        "c": ("x",),
        "refs": ("r", "s"),
        "n": ("3",),
        "ok": ("true",),
        "z": ("dotted",),
        "labels": ("4", "27"),
        "both": ("3", "r", "s"),
    }
    new = {"c": ["y"], "refs": ["one"], "n": ["4"], "z": ["Z"], "labels": [["1"]], "extra": ["e"]}
    again = json.loads(write_records(tmp_path / "y.jsonl", records, new).read_text())
    assert again == {
        "a": {"b": [{"c": "y", "d": 1}]},
        "refs": ["one"],
        "n": 4,
        "ok": True,
        "a.z": "Z",
        "labels": [1],
        "extra": "e",
    }
    assert json.loads(write_records(tmp_path / "y.jsonl", records, {"n": ["four"]}).read_text())["n"] == "four"


def test_parts_of_a_line_have_names(tmp_path):
    file = written(tmp_path, "x.txt", "HUM:ind Who was that ?\nLOC:city Where ?\n")
    columns = {"line": "line", "word": "word", "label": "class", "text": "rest"}
    assert values(read_records(file, columns))[0] == {
        "line": ("HUM:ind Who was that ?",),
        "word": ("HUM:ind",),
        "label": ("HUM",),
        "text": ("Who was that ?",),
    }
    records = read_records(file, {"label": "class", "text": "rest"})
    out = write_records(tmp_path / "y.txt", records, {"label": ["DESC", "NUM"]})
    assert out.read_text() == "DESC Who was that ?\nNUM Where ?\n"
    out = write_records(tmp_path / "y.txt", records, {"text": ["new", "text"]})
    assert out.read_text() == "HUM:ind new\nLOC:city text\n"


def test_lines_of_two_files_belong_together(tmp_path):
    english, german = written(tmp_path, "x.en.gz", "a\n\nc\n"), written(tmp_path, "x.de", "A\nB\nC\n")
    records = read_aligned({"source": english, "target": german})
    assert [(record.text("source"), record.text("target")) for record in records] == [("a", "A"), ("", "B"), ("c", "C")]
    out = write_records(tmp_path / "guess.de", records, {"target": ["x", "y\nz", ""]})
    assert out.read_text() == "x\ny z\n\n"
    assert len(read_aligned({"source": english, "target": out})) == 3
    german.write_text("A\nB\n")
    with pytest.raises(UserError, match=r"x\.en\.gz has 3 lines, .*x\.de has 2 lines"):
        read_aligned({"source": english, "target": german})
    for file in (english, german):
        file.write_bytes(gzip.compress(b"") if file.suffix == ".gz" else b"")
    with pytest.raises(UserError, match="holds no line"):
        read_aligned({"source": english, "target": german})


def test_predictions_never_replace_the_examples(tmp_path):
    file = written(tmp_path, "x.tsv", "a\t1\n")
    (tmp_path / "link.tsv").symlink_to(file)
    for path in (file, tmp_path / "link.tsv"):
        with pytest.raises(UserError, match="write to another file"):
            write_records(path, read_records(file, {"label": 1}), {"label": ["2"]})


@pytest.mark.parametrize(
    ("name", "data", "columns", "words"),
    [
        ("x.tsv", "a\t1\nb\n", {"label": 1}, ["x.tsv:2", "1 columns where line 1 has 2"]),
        ("x.tsv", "a\t1\nb\t2\t3\n", {"label": 1}, ["x.tsv:2", "3 columns where line 1 has 2"]),
        ("x.tsv", "a\t1\n", {"label": 2}, ["x.tsv:1", "no column 2", "has 2, counted from 0"]),
        ("x.tsv", "text\tlabel\na\t1\n", {"label": "lable"}, ["x.tsv:1", "no column 'lable'", "text, label"]),
        ("x.csv", "a,a\n1,2\n", {"label": "a"}, ["x.csv:1", "more than one column 'a'"]),
        ("x.tsv", "text\tlabel\n", {"label": "label"}, ["x.tsv holds no example"]),
        ("x.tsv", "", {"label": "label"}, ["x.tsv holds no example"]),
        ("x.csv", 'a,1\n"b,2\n', {"label": 1}, ["x.csv:2", "no CSV", "quote"]),
        ("x.csv", 'a,1\n"b"c,2\n', {"label": 1}, ["x.csv:2", "no CSV"]),
        ("x.csv", b"a,1\nb\xff,2\n", {"label": 1}, ["x.csv:2", "no UTF-8"]),
        ("x.jsonl", '{"a": 1}\n{"a": ', {"label": "a"}, ["x.jsonl:2", "no JSON"]),
        ("x.jsonl", '{"a": 1}\n[1]', {"label": "a"}, ["x.jsonl:2", "no object"]),
        ("x.jsonl", '{"a": 1}\n{"b": 1, "c": 2}', {"label": "a"}, ["x.jsonl:2", "no field 'a'", "b, c"]),
        ("x.jsonl", '{"a": {"b": []}}', {"label": "a.b.0"}, ["x.jsonl:1", "no field 'a.b.0'"]),
        ("x.jsonl", '{"a": null}', {"label": "a"}, ["x.jsonl:1", "holds null"]),
        ("x.jsonl", '{"a": [["b"]]}', {"label": "a"}, ["x.jsonl:1", "holds [["]),
        ("x.jsonl", '{"a": "\\ud800"}', {"label": "a"}, ["x.jsonl:1", "surrogate"]),
        ("x.jsonl", "[" * 100_000, {"label": "a"}, ["x.jsonl:1", "cannot be read as JSON"]),
        ("x.jsonl", '{"a": ' + "1" * 5000 + "}", {"label": "a"}, ["x.jsonl:1", "cannot be read as JSON"]),
        ("x.txt", "HUM:ind\n", {"label": "class"}, ["x.txt:1", "one word"]),
        ("x.txt", "HUM:ind a\n", {"label": "label"}, ["x.txt:1", "line, word, class, rest"]),
        ("x.xml", "<a>", {"label": 0}, ["x.xml", "'.xml'", ".tsv, .csv, .jsonl, .txt"]),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_cure(tmp_path, name, data, columns, words):
    with pytest.raises(UserError) as caught:
        read_records(written(tmp_path, name, data), columns)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_a_name_without_a_header_is_refused(tmp_path):
    with pytest.raises(UserError, match="no header that could name a column 'label'"):
        read_records(written(tmp_path, "x.tsv", "a\t1\n"), {"label": "label"}, header=False)


# ---- properties

anything = st.text(st.characters(codec="utf-8"), max_size=12)


@pytest.mark.parametrize("name", ["x.tsv", "x.csv", "x.jsonl"])
@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.tuples(anything, anything, anything), min_size=1, max_size=4), guess=anything)
def test_any_text_survives_writing_but_for_what_ends_a_line(tmp_path_factory, name, rows, guess):
    """In .jsonl all of it; in .csv, line ends become one kind, and NUL a space; in .tsv, these and tabs do."""
    folder = tmp_path_factory.mktemp("rows")
    columns = {"a": "a", "b": "b"} if name == "x.jsonl" else {"a": 0, "b": 1}
    begin = {"x.tsv": "-\t-\t-\n", "x.csv": "-,-,-\n", "x.jsonl": '{"a": "-", "b": "-", "c": "-"}\n'}[name]
    seed = read_records(written(folder, name, begin * len(rows)), {**columns, "c": "c" if name == "x.jsonl" else 2})
    texts = {key: [row[at] for row in rows] for at, key in enumerate("abc")}
    first = read_records(write_records(folder / f"1{name}", seed, texts), columns)
    again = read_records(write_records(folder / f"2{name}", first, {"b": [guess] * len(rows)}), columns)
    for one, other, row in zip(first, again, rows, strict=True):
        assert one.text("a") == other.text("a") == kept(row[0], name)
        assert one.text("b") == kept(row[1], name)
        assert other.text("b") == kept(guess, name)


def kept(text, name):
    """What of a text a format can hold."""
    if name == "x.jsonl":
        return text
    if name == "x.csv":
        text = text.replace("\0", " ")
        while "\r\n" in text:
            text = text.replace("\r\n", "\n")
        return text
    for run in ("\t", "\r", "\n", "\0"):
        text = text.replace(run, "\n")
    while "\n\n" in text:
        text = text.replace("\n\n", "\n")
    return text.replace("\n", " ")


@pytest.mark.parametrize("name", ["x.tsv", "x.csv", "x.jsonl", "x.txt", "x.tsv.gz", "x.csv.gz"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_are_refused_in_one_line_or_read(tmp_path_factory, name, data):
    """Random bytes, cut and spliced files: never another exception than UserError, which begins with the file."""
    whole = FILES.get(name.removesuffix(".gz"), "HUM:ind Who ?\nLOC Where ?\n").encode()
    whole = gzip.compress(whole) if name.endswith(".gz") else whole
    cut = data.draw(st.integers(0, len(whole)))
    file = tmp_path_factory.mktemp("damaged") / name
    file.write_bytes(whole[:cut] + data.draw(st.binary(max_size=8)) + whole[cut + data.draw(st.integers(0, 8)) :])
    columns = data.draw(st.sampled_from([{"a": 0, "b": 2}, COLUMNS, {"a": "class", "b": "rest"}]))
    try:
        for record in read_records(file, columns):
            assert all(isinstance(record.text(key), str) for key in columns)
    except UserError as error:
        said = str(error)
    else:
        said = str(file)
    assert said.startswith(str(file))
    assert "\n" not in said


# ---- real files

DATA = Path(os.environ.get("GPTJAX_DATA", "."))
needs_data = pytest.mark.skipif("GPTJAX_DATA" not in os.environ, reason="GPTJAX_DATA names no folder with data")
LARGE = [
    ("sentiment/sst2-train.tsv.gz", {"text": 0, "label": 1}, 6920),
    ("sentiment/rt-polarity-train.tsv.gz", {"text": 0, "label": 1}, 8122),
    ("sentiment/goemotions-train.tsv.gz", {"text": 0, "label": 1}, 43410),
    ("classification/agnews-train.csv.gz", {"text": [1, 2], "label": 0}, 9429),
    ("classification/trec-train.txt", {"text": "rest", "label": "class"}, 4942),
    ("classification/subjectivity-train.tsv.gz", {"text": 0, "label": 1}, 8000),
    ("mt/tatoeba-en-de-train.tsv.gz", {"source": 0, "target": 1}, 47391),
    ("summarization/scitldr-train.jsonl.gz", {"source": "source", "target": "target"}, 1992),
    ("summarization/aeslc-train.jsonl.gz", {"source": "body", "target": "subject"}, 6000),
    ("knowledge/wn18rr-train.tsv.gz", {"head": 0, "relation": 1, "tail": 2}, 86835),
]
SMALL = [
    ("sentiment/sst2-valid.tsv", {"text": 0, "label": 1}, 872),
    ("sentiment/goemotions-valid.tsv.gz", {"text": 0, "label": 1}, 5426),
    ("classification/agnews-valid.csv", {"text": [1, 2], "label": 0}, 1000),
    ("classification/trec-valid.txt", {"text": "rest", "label": "class"}, 500),
    ("classification/subjectivity-valid.tsv", {"text": 0, "label": 1}, 999),
    ("mt/tatoeba-en-de-valid.tsv", {"source": 0, "target": 1}, 1300),
    ("summarization/scitldr-valid.jsonl.gz", {"source": "source", "target": "target"}, 619),
    ("summarization/dialogsum-valid.jsonl", {"source": "dialogue", "target": "summary"}, 100),
    ("summarization/aeslc-valid.jsonl.gz", {"source": "body", "target": ["subject", "annotations"]}, 1644),
    ("instruct/self-instruct-seed-tasks.jsonl", {"source": "instruction", "target": "instances.0.output"}, 175),
    ("instruct/dolly-hhrlhf-valid.jsonl", {"source": "prompt", "target": "response"}, 100),
    ("eval/hellaswag-dev.jsonl", {"text": "ctx", "choices": "endings", "label": "label"}, 300),
    ("eval/mmlu-dev.jsonl", {"text": "question", "choices": "choices", "label": "answer"}, 285),
]
REAL = [*SMALL, *(pytest.param(*one, marks=pytest.mark.slow) for one in LARGE)]


@needs_data
@pytest.mark.parametrize(("name", "columns", "count"), REAL)
def test_real_files_are_read_whole_and_written_as_they_were(tmp_path, name, columns, count):
    records = read_records(DATA / name, columns)
    assert len(records) == count
    assert all(record.texts(key) for record in records for key in columns)
    same = {key: [record.values[key] for record in records] for key, column in columns.items() if column != [1, 2]}
    singles = {key: [own[0] if len(own) == 1 else own for own in found] for key, found in same.items()}
    singles.pop("target", None)  # whose further references would be emptied
    again = read_records(write_records(tmp_path / Path(name).name, records, singles), columns)
    assert values(again) == values(records)


@needs_data
def test_real_translations_are_aligned():
    records = read_aligned({key: DATA / f"mt/multi30k-valid.{end}.gz" for key, end in (("a", "en"), ("b", "de"))})
    assert len(records) == 1014
