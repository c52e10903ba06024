"""Files of roles: brackets to spans and back; what does not close or align is named with its line."""

import gzip
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptjax.data.conll import Span
from gptjax.data.propbank import read_propbank, write_propbank
from gptjax.types import UserError

FILE = """# doc 0
0\tHe\tPRP\t-\t-\t(ARG0*)\t(ARG0*)
1\tgave\tVBD\tgive\tgive.01\t(V*)\t*
2\tit\tPRP\t-\t-\t(ARG1*)\t*
3\tup\tRP\t-\t-\t(C-V*)\t*
4\tto\tTO\t-\t-\t(ARGM-PRP*\t*
5\tsleep\tVB\tsleep\tsleep.01\t*)\t(V*)

# doc 1
0\tNo\tUH\t-\t-

"""
NESTED = "0\ta\tX\t-\t-\t(ARG1(ARG2*\n1\tb\tX\tb\tb.01\t(V*)\n2\tc\tX\t-\t-\t*)\n3\td\tX\t-\t-\t*)\n"


def written(folder, data, name="x.conll"):
    (folder / name).write_bytes(data.encode())
    return folder / name


def roles(sentences):
    return [[proposition.roles for proposition in sentence.propositions] for sentence in sentences]


def test_each_predicate_has_its_roles(tmp_path):
    first, second = read_propbank(written(tmp_path, FILE))
    assert first.words == ("He", "gave", "it", "up", "to", "sleep")
    assert first.tags[0] == "PRP"
    give, sleep = first.propositions
    assert (give.predicate, give.lemma, give.roleset) == (1, "give", "give.01")
    assert give.roles == (Span(0, 1, "ARG0"), Span(2, 3, "ARG1"), Span(4, 6, "ARGM-PRP"))
    assert give.verb == (Span(1, 2, "V"), Span(3, 4, "C-V"))
    assert (sleep.predicate, sleep.roles) == (5, (Span(0, 1, "ARG0"),))
    assert (second.words, second.propositions) == (("No",), ())
    assert second.where() == f"{tmp_path}/x.conll:10"


@pytest.mark.parametrize("data", [FILE, NESTED])
def test_a_file_is_written_as_it_was_but_for_its_roles(tmp_path, data):
    sentences = read_propbank(written(tmp_path, data))
    assert write_propbank(tmp_path / "y.conll", sentences, roles(sentences)).read_text() == data
    none = write_propbank(tmp_path / "y.conll", sentences, [[() for _ in one.propositions] for one in sentences])
    assert "ARG" not in none.read_text()
    assert none.read_text().count("(V*)") == data.count("(V*)")


def test_spans_may_lie_within_each_other(tmp_path):
    (sentence,) = read_propbank(written(tmp_path, NESTED))
    assert sentence.propositions[0].roles == (Span(0, 4, "ARG1"), Span(0, 3, "ARG2"))


def test_a_role_that_crosses_the_verb_takes_its_place(tmp_path):
    """V of two words shrinks to the predicate, and a C-V goes, so that brackets nest."""
    verb = "0\ta\tX\tb\tb.01\t(V*\n1\tb\tX\t-\t-\t*)\n2\tc\tX\t-\t-\t*\n3\td\tX\t-\t-\t(C-V*)\n"
    (sentence,) = read_propbank(written(tmp_path, verb))
    assert sentence.propositions[0].verb == (Span(0, 2, "V"), Span(3, 4, "C-V"))
    out = write_propbank(tmp_path / "y.conll", [sentence], [[[Span(1, 4, "ARG1")]]])
    assert [line.split("\t")[5] for line in out.read_text().splitlines()] == ["(V*)", "(ARG1*", "*", "(C-V*))"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("(ARGM-PRP*", "(ARGM-PRP", ["x.conll:6", "'(ARGM-PRP'", "no cell of roles"]),
        ("(ARGM-PRP*", "*", ["x.conll:7", "'*)'", "nothing opens"]),
        ("sleep.01\t*)", "sleep.01\t*", ["x.conll:6", "(ARGM-PRP* is not closed"]),
        ("(ARG1*)\t*", "(ARG1*)", ["x.conll:4", "6 columns", "2 predicates", "needs 7"]),
        ("\tsleep.01", "\t-", ["x.conll:2", "7 columns", "1 predicates", "needs 6"]),
        ("0\tNo\tUH\t-\t-", "0\tNo\tUH", ["x.conll:10", "3 columns", "roleset"]),
        (FILE, "# nothing\n", ["x.conll holds no sentence"]),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, old, new, words):
    assert old in FILE
    with pytest.raises(UserError) as caught:
        read_propbank(written(tmp_path, FILE.replace(old, new)))
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("name", ["x.conll", "x.conll.gz"])
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damaged_files_are_refused_in_one_line_or_read(tmp_path_factory, name, data):
    whole = FILE.encode()
    whole = gzip.compress(whole) if name.endswith(".gz") else whole
    cut = data.draw(st.integers(0, len(whole)))
    splice = data.draw(st.binary(max_size=6) | st.sampled_from([b"*)", b"(A*", b"\t", b"\n", b"\n\n"]))
    file = tmp_path_factory.mktemp("damaged") / name
    file.write_bytes(whole[:cut] + splice + whole[cut + data.draw(st.integers(0, 6)) :])
    try:
        sentences = read_propbank(file)
        again = read_propbank(write_propbank(file.with_name("y.conll"), sentences, roles(sentences)))
        assert roles(again) == roles(sentences)
    except UserError as error:
        said = str(error)
    else:
        said = str(file)
    assert said.startswith(str(file))
    assert "\n" not in said


spans = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 6), st.sampled_from(["ARG0", "R-ARG1"])).filter(lambda s: s[0] < s[1])
)


@settings(max_examples=30, deadline=None)
@given(drawn=spans)
def test_roles_survive_their_brackets(tmp_path_factory, drawn):
    """Any spans that do not overlap, beside the verb or over it."""
    folder = tmp_path_factory.mktemp("roles")
    found = []
    for start, end, label in drawn:
        if all(end <= other.start or other.end <= start for other in found):
            found.append(Span(start, end, label))
    sentence, _ = read_propbank(written(folder, FILE))
    out = write_propbank(folder / "y.conll", [sentence], [[found, ()]])
    assert sorted(read_propbank(out)[0].propositions[0].roles) == sorted(found)


DATA = Path(os.environ.get("GPTJAX_DATA", "."))


@pytest.mark.skipif("GPTJAX_DATA" not in os.environ, reason="GPTJAX_DATA names no folder with data")
@pytest.mark.parametrize(
    ("name", "count", "num_predicates"),
    [
        ("ewt-propbank-valid.conll.gz", 1959, 4956),
        pytest.param("ewt-propbank-train.conll.gz", 12492, 40390, marks=pytest.mark.slow),
    ],
)
def test_real_files_are_read_whole_and_written_to_the_byte(tmp_path, name, count, num_predicates):
    file = DATA / "srl" / name
    sentences = read_propbank(file)
    assert (len(sentences), sum(len(sentence.propositions) for sentence in sentences)) == (count, num_predicates)
    again = write_propbank(tmp_path / "y.conll", sentences, roles(sentences))
    assert again.read_bytes() == gzip.decompress(file.read_bytes())
