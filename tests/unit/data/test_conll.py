"""CoNLL files: every byte but the tags survives; what is misaligned is named with its line."""

import gzip
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptjax.data.conll import read_conll, write_conll
from gptjax.tasks.spans import detect_scheme, read_spans
from gptjax.types import UserError

TABS = "West\tB-LOC\nJersey\tI-LOC\n\t\n#hash\tO\n\tO\n\n"
SPACES = "-DOCSTART- -X- O\n\nWest  NNP I-LOC\nJersey NNP B-LOC\n"
INDEXED = "# id = 1\n1\tWest\tO\t-\n2\t#x\tB-LOC\t-\n\n# id = 2\n# more\n1\tJersey\tO\t-\n\n\n"


def written(folder, data, name="x.conll"):
    (folder / name).write_bytes(data.encode())
    return folder / name


def test_words_and_tags_stand_in_the_columns_that_are_named(tmp_path):
    first, second = read_conll(written(tmp_path, TABS))
    assert (first.words, first.tags) == (("West", "Jersey"), ("B-LOC", "I-LOC"))
    assert (second.words, second.tags) == (("#hash", ""), ("O", "O"))  # no comment, and a word that is empty
    assert second.where(1).endswith("x.conll:5")
    (only,) = read_conll(written(tmp_path, SPACES))
    assert (only.words, only.tags) == (("West", "Jersey"), ("I-LOC", "B-LOC"))
    assert read_conll(written(tmp_path, SPACES), tag=1)[0].tags == ("NNP", "NNP")
    first, second = read_conll(written(tmp_path, INDEXED), word=1, tag=2)
    assert (first.words, first.tags) == (("West", "#x"), ("O", "B-LOC"))
    assert second.words == ("Jersey",)


@pytest.mark.parametrize(
    ("data", "columns"), [(TABS, {}), (SPACES, {}), (INDEXED, {"word": 1, "tag": 2}), ("a\tO", {}), ("\na b\n\n\n", {})]
)
def test_a_file_is_written_as_it_was_but_for_its_tags(tmp_path, data, columns):
    sentences = read_conll(written(tmp_path, data), **columns)
    same = write_conll(tmp_path / "y.conll.gz", sentences, [sentence.tags for sentence in sentences])
    assert same == tmp_path / "y.conll"
    assert same.read_text() == (data if data.endswith("\n") else data + "\n")
    other = [["X"] * len(sentence.tags) for sentence in sentences]
    again = read_conll(write_conll(tmp_path / "z.conll", sentences, other), **columns)
    assert [list(sentence.tags) for sentence in again] == other
    assert [sentence.words for sentence in again] == [sentence.words for sentence in sentences]


def test_words_alone_get_a_column_of_tags(tmp_path):
    sentences = read_conll(written(tmp_path, "a\nb\n\nc\n"), tag=None)
    assert sentences[0].tags == ()
    assert write_conll(tmp_path / "y", sentences, [["O", "B-x"], ["O"]]).read_text() == "a O\nb B-x\n\nc O\n"


def test_some_of_the_sentences_end_with_a_blank_line(tmp_path):
    sentences = read_conll(written(tmp_path, TABS))
    assert write_conll(tmp_path / "y", sentences[:1], [["O", "O"]]).read_text() == "West\tO\nJersey\tO\n\n"


@pytest.mark.parametrize(
    ("data", "columns", "words"),
    [
        ("a\tO\nb O\n", {}, ["x.conll:2", "1 columns where line 1 has 2", "blank line"]),
        ("a O\nb c O\n", {}, ["x.conll:2", "3 columns where line 1 has 2"]),
        ("a O\n", {"tag": 2}, ["x.conll:1", "no column 2", "has 2 between spaces"]),
        ("a O\n", {"word": -3}, ["x.conll:1", "no column -3"]),
        ("", {}, ["x.conll holds no sentence"]),
        ("\n\t\n-DOCSTART- O\n", {}, ["x.conll holds no sentence"]),
        ("# a\n\n", {"word": 1}, ["x.conll holds no sentence"]),
    ],
)
def test_what_is_misaligned_is_named_with_its_line(tmp_path, data, columns, words):
    with pytest.raises(UserError) as caught:
        read_conll(written(tmp_path, data), **columns)
    assert all(word in str(caught.value) for word in words), caught.value


def test_predictions_never_replace_the_examples(tmp_path):
    file = written(tmp_path, TABS)
    sentences = read_conll(file)
    with pytest.raises(UserError, match="write to another file"):
        write_conll(file, sentences, [sentence.tags for sentence in sentences])


@pytest.mark.parametrize("name", ["x.conll", "x.conll.gz"])
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damaged_files_are_refused_in_one_line_or_read(tmp_path_factory, name, data):
    whole = data.draw(st.sampled_from([TABS, SPACES, INDEXED])).encode()
    whole = gzip.compress(whole) if name.endswith(".gz") else whole
    cut = data.draw(st.integers(0, len(whole)))
    file = tmp_path_factory.mktemp("damaged") / name
    file.write_bytes(whole[:cut] + data.draw(st.binary(max_size=6)) + whole[cut + data.draw(st.integers(0, 6)) :])
    try:
        sentences = read_conll(file, word=data.draw(st.integers(0, 2)))
        assert all(len(sentence.words) == len(sentence.tags) > 0 for sentence in sentences)
    except UserError as error:
        said = str(error)
    else:
        said = str(file)
    assert said.startswith(str(file))
    assert "\n" not in said


DATA = Path(os.environ.get("GPTJAX_DATA", "."))


@pytest.mark.skipif("GPTJAX_DATA" not in os.environ, reason="GPTJAX_DATA names no folder with data")
@pytest.mark.parametrize(
    ("name", "count", "scheme", "num_spans"),
    [
        pytest.param("wnut17-train.conll.gz", 3394, "BIO", 1975, marks=pytest.mark.slow),
        ("wnut17-valid.conll", 1009, "BIO", 836),
        ("uner-ewt-valid.conll", 401, "BIO", 310),
        pytest.param("wikigold-train.conll", 1272, "IOB1", 2679, marks=pytest.mark.slow),
        ("wikigold-valid.conll", 169, "IOB1", 345),
        pytest.param("uner-ewt-train.conll", 1600, "BIO", 656, marks=pytest.mark.slow),
        pytest.param("btc-train.conll.gz", 5338, "BIO", 7141, marks=pytest.mark.slow),
        ("btc-valid.conll", 2001, "BIO", 3368),
    ],
)
def test_real_files_are_read_whole_and_written_to_the_byte(tmp_path, name, count, scheme, num_spans):
    sentences = read_conll(DATA / "ner" / name)
    assert len(sentences) == count
    assert detect_scheme(sentence.tags for sentence in sentences) == scheme
    assert sum(len(read_spans(sentence.tags, scheme)) for sentence in sentences) == num_spans
    data = (DATA / "ner" / name).read_bytes()
    again = write_conll(tmp_path / name, sentences, [sentence.tags for sentence in sentences])
    assert again.read_bytes() == (gzip.decompress(data) if name.endswith(".gz") else data)
