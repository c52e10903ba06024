"""Scores of labels by hand and against scikit-learn, on samples of the examples too."""

import numpy as np
import pytest

from gptjax.tasks.label_scores import several_labels, single_label

LABELS = ["a", "b", "c"]
MEANS = ("macro", "micro", "weighted")


@pytest.fixture(scope="module")
def metrics():
    return pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")


def test_single_labels_by_hand():
    found = single_label(["a", "a", "b", "c"], ["a", "b", "b", "b"]).values()
    assert found == pytest.approx(
        {
            "accuracy": 0.5,
            "macro_f1": (2 / 3 + 1 / 2 + 0) / 3,
            "micro_f1": 0.5,
            "weighted_f1": (2 * 2 / 3 + 1 / 2) / 4,
            "f1/a": 2 / 3,
            "f1/b": 1 / 2,
            "f1/c": 0,
        }
    )


def test_a_text_that_is_no_label_is_wrong_and_of_no_class():
    found = single_label(["a", "b"], ["a", "I think b"], labels=LABELS).values()
    assert found["accuracy"] == 0.5
    assert found["micro_f1"] == pytest.approx(2 / 3)
    assert set(found) == {"accuracy", "macro_f1", "micro_f1", "weighted_f1", "f1/a", "f1/b", "f1/c"}
    assert several_labels([["a"], []], [["a"], ["x"]], labels=LABELS).values()["subset_accuracy"] == 0.5


def test_a_gold_label_outside_the_labels_is_a_programmers_error():
    with pytest.raises(AssertionError, match="gold label"):
        single_label(["z"], ["a"], labels=LABELS)


@pytest.mark.parametrize("seed", range(4))
def test_single_labels_are_counted_as_scikit_learn_does(metrics, seed):
    """Small corpora too, in which some classes are missing from gold, from the predictions or from both."""
    gold, predicted = np.random.default_rng(seed).choice(LABELS, (2, 5 + 20 * seed), p=[0.6, 0.3, 0.1])
    found = single_label(gold, predicted).values()
    present = sorted({*gold, *predicted})
    by_class = metrics.f1_score(gold, predicted, average=None, labels=present, zero_division=0)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(gold, predicted))
    assert [found[f"f1/{label}"] for label in present] == pytest.approx(by_class)
    for mean in MEANS:
        theirs = metrics.f1_score(gold, predicted, average=mean, zero_division=0)
        assert found[f"{mean}_f1"] == pytest.approx(theirs)


@pytest.mark.parametrize("seed", range(4))
def test_several_labels_are_counted_as_scikit_learn_does(metrics, seed):
    gold_EC, predicted_EC = np.random.default_rng(seed).random((2, 5 + 20 * seed, 3)) < [0.5, 0.3, 0.02]
    gold, predicted = ([np.array(LABELS)[held_C] for held_C in held_EC] for held_EC in (gold_EC, predicted_EC))
    found = several_labels(gold, predicted, labels=LABELS).values()
    assert found["subset_accuracy"] == pytest.approx(metrics.accuracy_score(gold_EC, predicted_EC))
    for mean in MEANS:
        theirs = metrics.f1_score(gold_EC, predicted_EC, average=mean, zero_division=0)
        assert found[f"{mean}_f1"] == pytest.approx(theirs)


def test_a_sample_scores_as_its_examples_would():
    """The sums of a sample's counts are the counts of its examples, classes that it lacks left out."""
    rng = np.random.default_rng(0)
    gold, predicted = (list(rng.choice(LABELS, 12, p=[0.8, 0.1, 0.1])) for _ in range(2))
    counts = single_label(gold, predicted)
    drawn = rng.integers(12, size=(30, 12))
    weights_RE = np.stack([np.bincount(row, minlength=12) for row in drawn]).astype(float)
    sampled = counts.measure(weights_RE @ counts.counts_EK)
    for at, row in enumerate(drawn):
        alone = single_label([gold[one] for one in row], [predicted[one] for one in row]).values()
        for name in ("accuracy", "macro_f1", "micro_f1", "weighted_f1"):
            assert sampled[name][at] == pytest.approx(alone[name])
