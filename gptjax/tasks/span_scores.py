"""Precision, recall and F1 of spans: entities as seqeval counts them, roles as the CoNLL-2005 scorer does.

A span counts where its words and its label are those of a gold span. An example is a sentence, or a predicate.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from gptjax.data.conll import Span
from gptjax.data.propbank import VERB
from gptjax.tasks.scores import Array, Counts, f1, ratio
from gptjax.tasks.spans import read_spans


def tag_spans(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], scheme: str | None = None) -> Counts:
    """Scores sentences of tags by their spans; see `spans.read_spans` for what a scheme makes of broken sequences.

    With a scheme this is seqeval's strict mode, without one its default mode, which is conlleval's. Names as for
    `entities`.
    """
    return entities([read_spans(tags, scheme) for tags in gold], [read_spans(tags, scheme) for tags in predicted])


def entities(gold: Sequence[Iterable[Span]], predicted: Sequence[Iterable[Span]]) -> Counts:
    """Scores sentences of spans.

    Names: `precision`, `recall` and `f1` over all spans (micro), `macro_f1`, the mean over the labels that occur, and
    `precision/LABEL`, `recall/LABEL`, `f1/LABEL`. What has no denominator is 0.
    """
    return _scored([list(spans) for spans in gold], [list(spans) for spans in predicted])


def roles(gold: Sequence[Iterable[Span]], predicted: Sequence[Iterable[Span]]) -> Counts:
    """Scores the roles of predicates, an example each, as srl-eval.pl does (Carreras and Màrquez 2005).

    V is left out. The pieces of a role, ARG1 and C-ARG1, are one role, which is right when all of them are; a C-
    without its beginning is a role of its own. R- are labels like others. Names as for `entities`, and `perfect`, the
    part of the predicates without a mistake. One thing differs: where two gold roles have the same first and last word,
    which only roles in pieces can, srl-eval.pl forgets the first of them.
    """
    return _scored([join_pieces(spans) for spans in gold], [join_pieces(spans) for spans in predicted], perfect=True)


def join_pieces(spans: Iterable[Span]) -> list[tuple[Hashable, ...]]:
    """Returns the roles of a predicate without its verb, each as (piece, piece.., label) with pieces (start, end).

    A C-ARG1 continues the last ARG1 before it.
    """
    found: list[list] = []
    last: dict[str, list] = {}
    for start, end, label in sorted(spans, key=lambda span: (span[0], -span[1])):
        if label in VERB:
            continue
        own = label.removeprefix("C-")
        if label != own and own in last:
            last[own].insert(-1, (start, end))
        else:
            last[own] = [(start, end), own]
            found.append(last[own])
    return [tuple(role) for role in found]


def _scored(
    gold: Sequence[Sequence[tuple[Hashable, ...]]],
    predicted: Sequence[Sequence[tuple[Hashable, ...]]],
    *,
    perfect: bool = False,
) -> Counts:
    """Counts what two lists of lists of things have in common; a thing ends with its label."""
    assert len(gold) == len(predicted)
    labels = sorted({str(thing[-1]) for things in (*gold, *predicted) for thing in things})
    index = {label: number for number, label in enumerate(labels)}
    C = len(labels)
    counts_EK = np.zeros((len(gold), 3 * C + 2))
    for example, (right, found) in enumerate(zip(gold, predicted, strict=True)):
        both = Counter(right) & Counter(found)
        for block, things in enumerate((both.elements(), found, right)):
            for thing in things:
                counts_EK[example, block * C + index[str(thing[-1])]] += 1
        counts_EK[example, -2:] = both.total() == len(right) == len(found), 1

    def measure(sums_K: Array) -> dict[str, Array]:
        right_C, found_C, gold_C = sums_K[..., :C], sums_K[..., C : 2 * C], sums_K[..., 2 * C : 3 * C]
        by_label = f1(right_C, found_C, gold_C)
        return {
            **f1(right_C.sum(-1), found_C.sum(-1), gold_C.sum(-1)),
            "macro_f1": ratio(by_label["f1"].sum(-1), (found_C + gold_C > 0).sum(-1)),
            **({"perfect": ratio(sums_K[..., -2], sums_K[..., -1])} if perfect else {}),
            **{f"{name}/{label}": value[..., at] for name, value in by_label.items() for label, at in index.items()},
        }

    return Counts(counts_EK, measure)
