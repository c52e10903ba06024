"""The split, to the letter of the design."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptjax.data.split import Text, split_files
from gptjax.data.text import Tally


def write(folder, **files):
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(content, newline="")
    return [folder / name for name in files]


def read(text, split):
    return "".join(piece.text for piece in text.pieces(split, Tally()))


@given(
    content=st.text(min_size=10, max_size=300, alphabet="aß語🙂\n"), fraction=st.sampled_from([0.1, 0.25, 0.5, 0.01])
)
def test_the_last_part_of_one_files_characters_validates(tmp_path_factory, content, fraction):
    text = Text("x", write(tmp_path_factory.mktemp("one"), **{"x.txt": content}), fraction)
    cut = int(len(content) * (1 - fraction))
    assert read(text, "train") == content[:cut]
    assert read(text, "valid") == content[cut:]


def test_one_file_is_cut_as_nanogpt_cuts_it(tmp_path):
    """The first 90 % of tiny Shakespeare's characters, rounded down."""
    content = "x" * 1_115_394
    text = Text("x", write(tmp_path, **{"x.txt": content}), 0.1)
    assert len(read(text, "train")) == int(len(content) * 0.9) == 1_003_854


def test_a_row_that_the_cut_falls_into_ends_on_both_sides(tmp_path):
    rows = "".join(f'{{"text": "{"x" * 10}"}}\n' for _ in range(10))
    text = Text("x", write(tmp_path, **{"x.jsonl": rows}), 0.25)
    lengths = {s: [(len(p.text), p.ends) for p in text.pieces(s, Tally())] for s in ("train", "valid")}
    assert lengths == {"train": [(10, True)] * 7 + [(5, True)], "valid": [(5, True)] + [(10, True)] * 2}


def test_a_cut_between_two_pieces_still_ends_the_training_document(tmp_path, monkeypatch):
    monkeypatch.setattr("gptjax.data.text.PIECE_CHARS", 10)
    text = Text("x", write(tmp_path, **{"x.txt": "x" * 40}), 0.5)
    assert [p.ends for p in text.pieces("train", Tally())] == [False, True]


def test_several_files_are_split_by_the_hash_of_their_relative_path(tmp_path):
    files = write(tmp_path, **{f"d{i % 3}/f{i}.txt": str(i) for i in range(60)})
    valid = {
        file
        for file in files
        if int(hashlib.sha256(str(file.relative_to(tmp_path)).encode()).hexdigest()[:16], 16) / 2**64 < 0.25
    }
    splits = split_files(files, 0.25)
    assert 5 < len(valid) < 25
    assert set(splits["valid"]) == valid
    assert set(splits["train"]) == set(files) - valid


@given(names=st.sets(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join), min_size=2))
def test_no_file_is_on_both_sides_and_none_is_empty_wherever_the_files_lie(names):
    for fraction in (0.001, 0.5, 0.999):
        here = split_files([Path("/here", f"{name}.t") for name in names], fraction)
        there = split_files([Path("/some/where/else", f"{name}.t") for name in reversed(sorted(names))], fraction)
        assert not set(here["train"]) & set(here["valid"])
        assert here["train"]
        assert here["valid"]
        for side in ("train", "valid"):
            names_here = [file.relative_to("/here") for file in here[side]]
            assert names_here == [file.relative_to("/some/where/else") for file in there[side]]


def test_identity_is_content_and_split_alone(tmp_path):
    def identity(folder, fraction=0.1, **files):
        return Text("x", write(tmp_path / folder, **files), fraction).identity

    same = {"a.txt": "one", "b/c.txt": "two"}
    assert identity("1", **same) == identity("2", **same)
    assert identity("1", **same) != identity("3", **{**same, "a.txt": "other"})
    assert identity("4", **{"a.txt": "one"}) == identity("5", **{"renamed.txt": "one"})
    assert identity("4", **{"a.txt": "one"}) != identity("5", 0.2, **{"renamed.txt": "one"})


def test_a_file_that_has_gone_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.txt cannot be read"):
        _ = Text("x", [tmp_path / "gone.txt"], 0.1).identity
