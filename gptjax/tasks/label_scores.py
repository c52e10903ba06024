"""Accuracy and F1 of labels, one or several an example, as scikit-learn counts them.

Shapes: E examples, C classes; a leading R of resamples may be before C.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from gptjax.tasks.scores import Array, Counts, f1, ratio


def single_label(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str] | None = None) -> Counts:
    """Scores one label an example.

    Names: `accuracy`; `macro_f1`, the mean over the classes that occur in gold or predictions; `micro_f1`, which equals
    accuracy; `weighted_f1`, the mean weighted by how often a class is gold; and `f1/LABEL` for each. An F1 whose
    denominator is 0 is 0.
    """
    return several_labels([[label] for label in gold], [[label] for label in predicted], labels, single=True)


def several_labels(
    gold: Sequence[Iterable[str]],
    predicted: Sequence[Iterable[str]],
    labels: Sequence[str] | None = None,
    *,
    single: bool = False,
) -> Counts:
    """Scores any number of labels an example; the classes are `labels`, by default those that occur.

    What is predicted and is none of them, such as another text where a label was asked for, is wrong and of no class.
    Names: `micro_f1` over all decisions, `macro_f1` over classes, `weighted_f1`, `subset_accuracy` (all labels of an
    example right; `accuracy` where there is a single one) and `f1/LABEL`. The mean of `macro_f1` is over the given
    classes where an example may have several, as published for GoEmotions, and over those that occur where it has one.
    """
    gold_sets, predicted_sets = [set(one) for one in gold], [set(one) for one in predicted]
    if labels is None:
        labels = sorted(set().union(*gold_sets, *predicted_sets))
    index = {label: number for number, label in enumerate(labels)}
    assert set().union(*gold_sets) <= set(index), "a gold label is none of the labels"
    gold_EC, predicted_EC = _indicators(gold_sets, index), _indicators(predicted_sets, index)
    exact_E1 = np.array([[one == other] for one, other in zip(gold_sets, predicted_sets, strict=True)])
    ones_E1 = np.ones_like(exact_E1)
    counts_EK = np.concatenate([gold_EC & predicted_EC, predicted_EC, gold_EC, exact_E1, ones_E1], axis=1)

    def measure(sums_K: Array) -> dict[str, Array]:
        C = len(index)
        right_C, predicted_C, gold_C = sums_K[..., :C], sums_K[..., C : 2 * C], sums_K[..., 2 * C : 3 * C]
        f1_C = f1(right_C, predicted_C, gold_C)["f1"]
        counted_C = (predicted_C + gold_C > 0) if single else np.ones_like(f1_C)
        return {
            "accuracy" if single else "subset_accuracy": ratio(sums_K[..., -2], sums_K[..., -1]),
            "macro_f1": ratio(f1_C.sum(-1), counted_C.sum(-1)),
            "micro_f1": f1(right_C.sum(-1), predicted_C.sum(-1), gold_C.sum(-1))["f1"],
            "weighted_f1": ratio((f1_C * gold_C).sum(-1), gold_C.sum(-1)),
            **{f"f1/{label}": f1_C[..., number] for label, number in index.items()},
        }

    return Counts(counts_EK, measure)


def _indicators(sets: Sequence[set[str]], index: dict[str, int]) -> Array:
    held_EC = np.zeros((len(sets), len(index)), bool)
    for example, labels in enumerate(sets):
        held_EC[example, [index[label] for label in labels if label in index]] = True
    return held_EC
