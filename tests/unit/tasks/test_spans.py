"""Tags and spans in every scheme, what broken sequences mean, and decoding against all sequences."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptjax.data.conll import Span
from gptjax.tasks.spans import SCHEMES, decode, detect_scheme, may_follow, read_spans, tags_of, write_tags
from gptjax.types import UserError

LABELS = ("LOC", "creative-work")


@pytest.fixture(scope="module")
def seqeval():
    pytest.importorskip("seqeval.metrics", reason="seqeval is not installed")
    return pytest.importorskip("seqeval")


@st.composite
def sentences(draw):
    """A sentence's length and spans that do not overlap."""
    spans, at = [], 0
    while at < 8 and draw(st.booleans()):
        start = draw(st.integers(at, 8))
        end = draw(st.integers(start + 1, 9))
        spans.append(Span(start, end, draw(st.sampled_from(LABELS))))
        at = end
    return 9, spans


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("BIO", "B-LOC I-LOC B-LOC O B-PER B-LOC"),
        ("IOB1", "I-LOC I-LOC B-LOC O I-PER I-LOC"),
        ("BIOES", "B-LOC E-LOC S-LOC O S-PER S-LOC"),
    ],
)
def test_each_scheme_writes_what_is_published_of_it(scheme, tags):
    spans = [Span(0, 2, "LOC"), Span(2, 3, "LOC"), Span(4, 5, "PER"), Span(5, 6, "LOC")]
    assert write_tags(spans, 6, scheme) == tags.split()
    assert read_spans(tags.split()) == spans
    assert detect_scheme([tags.split(), ["O"]]) == scheme


@pytest.mark.parametrize("scheme", SCHEMES)
@given(sentence=sentences())
def test_spans_survive_their_tags(scheme, sentence):
    num_words, spans = sentence
    tags = write_tags(spans, num_words, scheme)
    assert set(tags) <= set(tags_of(LABELS, scheme))
    assert read_spans(tags) == read_spans(tags, scheme) == spans
    assert all(may_follow(one, other, scheme) for one, other in itertools.pairwise(["O", *tags, "O"]))


def test_overlapping_spans_are_a_programmers_error():
    with pytest.raises(AssertionError, match="overlaps"):
        write_tags([Span(0, 2, "LOC"), Span(1, 3, "LOC")], 3, "BIO")


@pytest.mark.parametrize(
    ("tags", "lenient", "strict"),
    [
        ("O I-LOC I-LOC", [(1, 3, "LOC")], []),
        ("B-LOC I-PER I-PER", [(0, 1, "LOC"), (1, 3, "PER")], [(0, 1, "LOC")]),
        ("B-LOC I-LOC O I-LOC", [(0, 2, "LOC"), (3, 4, "LOC")], [(0, 2, "LOC")]),
        ("B-LOC B-LOC", [(0, 1, "LOC"), (1, 2, "LOC")], [(0, 1, "LOC"), (1, 2, "LOC")]),
    ],
)
def test_broken_bio_is_read_as_conlleval_does_or_strictly(tags, lenient, strict):
    assert read_spans(tags.split()) == lenient
    assert read_spans(tags.split(), "BIO") == strict


def test_in_bioes_an_end_ends():
    tags = ["B-LOC", "E-LOC", "I-LOC", "S-LOC", "E-LOC"]
    assert [span[:2] for span in read_spans(tags)] == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert [span[:2] for span in read_spans(tags, "BIOES")] == [(0, 2), (3, 4)]


@settings(deadline=None)
@given(tags=st.lists(st.sampled_from(tags_of("xy", "BIOES")), min_size=1, max_size=9))
def test_any_tags_are_read_as_seqeval_reads_them(seqeval, tags):
    """Its default mode is ours without a scheme, its strict mode ours with one; of IOB1, what is valid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [
            (label, start, end + 1) for label, start, end in seqeval.metrics.sequence_labeling.get_entities(tags)
        ] == [(span.label, span.start, span.end) for span in read_spans(tags)]
    names = {"BIO": "IOB2", "IOB1": "IOB1", "BIOES": "IOBES"}
    for scheme, theirs in names.items():
        valid = all(may_follow(one, other, scheme) for one, other in itertools.pairwise(["O", *tags, "O"]))
        if {tag[0] for tag in tags} <= set(SCHEMES[scheme]) and (scheme != "IOB1" or valid):
            found = seqeval.scheme.Entities([tags], getattr(seqeval.scheme, theirs)).entities[0]
            assert [(one.start, one.end, one.tag) for one in found] == read_spans(tags, scheme)


def test_a_few_broken_tags_do_not_hide_the_scheme():
    bio = [["B-LOC", "I-LOC", "O", "B-PER"]] * 5
    assert detect_scheme([*bio, ["O", "I-PER"]]) == "BIO"
    assert detect_scheme([["O"]]) == "BIO"
    assert detect_scheme([["S-PER", "O"]]) == "BIOES"


@pytest.mark.parametrize("tag", ["NN", "", "B", "B-", "X-LOC", "O-LOC", "L-LOC", "BI-LOC"])
def test_a_tag_of_no_scheme_is_named(tag):
    with pytest.raises(UserError, match="name the column of tags"):
        detect_scheme([["O", tag]])


@pytest.mark.parametrize("scheme", SCHEMES)
@given(data=st.data())
def test_decoding_finds_the_best_of_all_allowed_sequences(scheme, data):
    """Against brute force; scores may be minus infinity, and tags that the training data lacked may be absent."""
    tags = ["O", *data.draw(st.lists(st.sampled_from(tags_of("xy", scheme)[1:]), unique=True, max_size=4))]
    score = st.floats(-5, 5) | st.just(-np.inf)
    rows = st.lists(st.lists(score, min_size=len(tags), max_size=len(tags)), min_size=1, max_size=4)
    scores_LT = np.array(data.draw(rows))
    scores_LT[:, 0] = np.maximum(scores_LT[:, 0], -5)  # so that some allowed sequence is possible

    def total(path):
        return sum(scores_LT[at, tag] for at, tag in enumerate(path))

    def allowed(path):
        names = ["O", *(tags[tag] for tag in path), "O"]
        return all(may_follow(one, other, scheme) for one, other in itertools.pairwise(names))

    best = max(total(path) for path in itertools.product(range(len(tags)), repeat=len(scores_LT)) if allowed(path))
    found = [tags.index(tag) for tag in decode(scores_LT, tags, scheme)]
    assert allowed(found)
    assert total(found) == pytest.approx(best)


def test_decoding_stays_allowed_whatever_the_scores_are():
    tags = tags_of("x", "BIOES")
    for scores_LT in (np.full((5, 5), -np.inf), np.full((5, 5), np.nan), np.full((5, 5), np.inf)):
        path = ["O", *decode(scores_LT, tags, "BIOES"), "O"]
        assert all(may_follow(one, other, "BIOES") for one, other in itertools.pairwise(path))
    assert decode(np.zeros((0, 5)), tags, "BIOES") == []
