"""Scores of entities against seqeval, and of roles against examples worked by hand."""

import numpy as np
import pytest

from gptjax.data.conll import Span
from gptjax.tasks.span_scores import entities, join_pieces, roles, tag_spans
from gptjax.tasks.spans import tags_of


@pytest.fixture(scope="module")
def seqeval():
    pytest.importorskip("seqeval.metrics", reason="seqeval is not installed")
    return pytest.importorskip("seqeval")


def test_entities_by_hand():
    """Two of three found spans are right, of four gold ones: the wrong label and the wrong end both count twice."""
    gold = [[Span(0, 2, "LOC"), Span(3, 4, "PER")], [Span(0, 1, "LOC"), Span(1, 3, "PER")]]
    predicted = [[Span(0, 2, "LOC"), Span(3, 4, "LOC")], [Span(1, 3, "PER")]]
    found = entities(gold, predicted).values()
    assert found == pytest.approx(
        {
            "precision": 2 / 3,
            "recall": 2 / 4,
            "f1": 4 / 7,
            "macro_f1": (1 / 2 + 2 / 3) / 2,
            "precision/LOC": 1 / 2,
            "recall/LOC": 1 / 2,
            "f1/LOC": 1 / 2,
            "precision/PER": 1,
            "recall/PER": 1 / 2,
            "f1/PER": 2 / 3,
        }
    )


def test_nothing_found_and_nothing_there_is_zero():
    assert entities([[]], [[]]).values() == {"precision": 0, "recall": 0, "f1": 0, "macro_f1": 0}


@pytest.mark.parametrize("scheme", [None, "BIO", "BIOES"])
def test_tags_are_scored_as_seqeval_does(seqeval, scheme):
    """On tags drawn at random, most of whose sequences no scheme would write."""
    rng = np.random.default_rng(0)
    tags = tags_of("xy", scheme or "BIO")
    gold, predicted = ([list(rng.choice(tags, 5)) for _ in range(40)] for _ in range(2))
    found = tag_spans(gold, predicted, scheme).values()
    strict = {"mode": "strict", "scheme": {"BIO": seqeval.scheme.IOB2, "BIOES": seqeval.scheme.IOBES}.get(scheme)}
    report = seqeval.metrics.classification_report
    theirs = report(gold, predicted, output_dict=True, zero_division=0, **(strict if scheme else {}))
    for name, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
        assert found[name] == pytest.approx(theirs["micro avg"][key])
        assert found[f"{name}/x"] == pytest.approx(theirs["x"][key])
    assert found["macro_f1"] == pytest.approx(theirs["macro avg"]["f1-score"])
    assert 0 < found["f1"] < 1


GOLD_ROLES = [
    # He | gave | it | up | to | her: up continues the verb
    [Span(0, 1, "ARG0"), Span(1, 2, "V"), Span(2, 3, "ARG1"), Span(3, 4, "C-V"), Span(4, 6, "ARG2")],
    # The fight | , | he | said | , | is over: ARG1 in two pieces around the verb
    [Span(0, 2, "ARG1"), Span(3, 4, "ARG0"), Span(4, 5, "V"), Span(6, 8, "C-ARG1")],
    # that | sells: a relative pronoun
    [Span(0, 1, "R-ARG0"), Span(1, 2, "V")],
]


def test_roles_by_hand_as_the_conll_2005_scorer_counts_them():
    """Gold holds 3 + 2 + 1 roles: V and C-V are none, and the pieces of ARG1 are one."""
    predicted = [
        [Span(0, 1, "ARG0"), Span(2, 3, "ARG1"), Span(4, 6, "ARGM-DIR")],  # 2 right, 1 excess, 1 missed
        [Span(0, 2, "ARG1"), Span(3, 4, "ARG0")],  # ARG0 right; half an ARG1 is one excess, and one missed
        [Span(0, 1, "R-ARG0"), Span(1, 2, "V")],  # all right: perfect
    ]
    found = roles(GOLD_ROLES, predicted).values()
    assert found["precision"] == pytest.approx(4 / 6)
    assert found["recall"] == pytest.approx(4 / 6)
    assert found["f1"] == pytest.approx(4 / 6)
    assert found["perfect"] == pytest.approx(1 / 3)
    assert (found["precision/ARG1"], found["recall/ARG1"]) == (1 / 2, 1 / 2)
    assert (found["f1/ARG0"], found["f1/ARG2"], found["f1/ARGM-DIR"], found["f1/R-ARG0"]) == (1, 0, 0, 1)
    assert not {name for name in found if "V" in name or "C-" in name}
    assert roles(GOLD_ROLES, GOLD_ROLES).values()["perfect"] == 1
    more = [[*spans, Span(8, 9, "ARGM-NEG")] for spans in GOLD_ROLES]
    assert roles(GOLD_ROLES, more).values()["perfect"] == roles(more, GOLD_ROLES).values()["perfect"] == 0


@pytest.mark.parametrize(
    ("spans", "joined"),
    [
        ([(0, 1, "A"), (2, 3, "C-A"), (4, 5, "C-A")], [((0, 1), (2, 3), (4, 5), "A")]),
        ([(4, 5, "C-A"), (0, 1, "A")], [((0, 1), (4, 5), "A")]),  # in any order
        ([(0, 1, "A"), (2, 3, "A"), (4, 5, "C-A")], [((0, 1), "A"), ((2, 3), (4, 5), "A")]),  # the last before it
        ([(0, 1, "C-A"), (2, 3, "C-A")], [((0, 1), (2, 3), "A")]),  # none before it: a role of its own
        ([(0, 1, "A"), (2, 3, "R-A"), (4, 5, "V"), (6, 7, "C-V")], [((0, 1), "A"), ((2, 3), "R-A")]),
    ],
)
def test_pieces_of_a_role_are_joined(spans, joined):
    assert join_pieces([Span(*span) for span in spans]) == joined
