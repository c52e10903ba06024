"""Scores of texts: equal to what the libraries say of the whole, for any number of references; no network."""

import socket
import sys

import numpy as np
import pytest

from gptjax.tasks.text_scores import ROUGE, bleu, chrf, exact_match, rouge, sentences
from gptjax.types import UserError

PREDICTED = ["The cat sat on the mat.", "He goes to school by bus.", "It rains.", ""]
REFERENCES = [
    ["The cat sat on the mat.", "A cat was sitting on the mat."],
    ["He goes to school by bus every day.", "By bus he goes to school.", "He takes the bus to school."],
    ["It is raining heavily today."],
    ["Something was expected here."],
]
ONE_EACH = [own[:1] for own in REFERENCES]


def transposed(references):
    most = max(map(len, references))
    return [[own[at] if at < len(own) else None for own in references] for at in range(most)]


@pytest.mark.parametrize("references", [REFERENCES, ONE_EACH], ids=["several", "one"])
@pytest.mark.parametrize(
    ("score", "name", "theirs", "settings"),
    [
        (bleu, "bleu", "BLEU", {}),
        (bleu, "bleu", "BLEU", {"lowercase": True, "smooth_method": "add-k", "tokenize": "intl"}),
        (chrf, "chrf", "CHRF", {}),
        (chrf, "chrf", "CHRF", {"word_order": 2}),
    ],
)
def test_summed_counts_score_as_sacrebleu_scores_the_corpus(score, name, theirs, settings, references):
    metrics = pytest.importorskip("sacrebleu.metrics", reason="sacrebleu is not installed")
    metric = getattr(metrics, theirs)(**settings)
    whole = metric.corpus_score(PREDICTED, transposed(references)).score
    counts = score(references, PREDICTED, **settings)
    assert counts.values() == pytest.approx({name: whole})
    assert 0 < whole < 100
    assert counts.signature == str(metric.get_signature())
    # A sample of the examples scores as if it were the corpus.
    drawn = [0, 0, 1, 3]
    some = metric.corpus_score([PREDICTED[at] for at in drawn], transposed([references[at] for at in drawn])).score
    weights_RE = np.array([[2.0, 1, 0, 1], [1, 1, 1, 1]])
    assert counts.measure(weights_RE @ counts.counts_EK)[name] == pytest.approx([some, whole])


def test_rouge_is_the_mean_of_the_best_reference_of_each_example():
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")
    alone = scorer.RougeScorer(ROUGE, use_stemmer=True)
    best = [
        max(alone.score(one, text)["rouge1"].fmeasure for one in own)
        for own, text in zip(REFERENCES, PREDICTED, strict=True)
    ]
    found = rouge(REFERENCES, PREDICTED).values()
    assert set(found) == set(ROUGE)
    assert found["rouge1"] == pytest.approx(np.mean(best))


def test_rouge_by_hand_and_by_sentences():
    """Four of five words in common, in another order of sentences: only rougeLsum follows both sentences."""
    pytest.importorskip("rouge_score", reason="rouge-score is not installed")
    found = rouge([["Dogs bark. Cats sleep."]], ["Cats sleep. Dogs barked loudly."]).values()
    assert found["rouge1"] == pytest.approx(2 * (4 / 5) * 1 / (4 / 5 + 1))  # bark and barked are one stem
    assert found["rougeL"] == pytest.approx(2 * (2 / 5) * (2 / 4) / (2 / 5 + 2 / 4))
    assert found["rougeLsum"] == pytest.approx(found["rouge1"])


def test_rouge_needs_no_network(monkeypatch):
    pytest.importorskip("rouge_score", reason="rouge-score is not installed")

    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    assert rouge([["One. Two."]], ["One. Two."]).values()["rougeLsum"] == 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("At 3.5 % e.g. here\nand there", ["At 3.5 % e.g. here", "and there"]),
        ('He said "no." Then left.', ['He said "no."', "Then left."]),
        ("  \n", []),
    ],
)
def test_texts_are_cut_into_sentences(text, parts):
    assert sentences(text) == parts


def test_exact_match_ignores_runs_of_spaces_alone():
    found = exact_match([["Paris"], ["a b", "c"], ["Rome"]], [" Paris\n", "a  b", "rome"])
    assert found.values() == {"exact_match": pytest.approx(2 / 3)}
    score = found.scores()["exact_match"]
    assert 0 <= score.low < score.value < score.high <= 1


@pytest.mark.parametrize(("module", "score"), [("sacrebleu", bleu), ("sacrebleu", chrf), ("rouge_score", rouge)])
def test_a_missing_library_is_named_with_the_extra(monkeypatch, module, score):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"pip install 'gptjax\[tasks\]'"):
        score([["a"]], ["a"])
