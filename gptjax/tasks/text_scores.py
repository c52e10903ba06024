"""Scores of texts against one or several references: BLEU and chrF by sacrebleu, ROUGE by rouge-score, exact match.

The libraries do the counting, so that figures compare with published ones; they are imported when they are needed.
`references` are those of each example, any number but none; texts are plain, as people write them.

Shapes: E examples, K counts; a leading R of resamples may be before K.
"""

import importlib
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from gptjax.tasks.scores import Array, Counts, ratio
from gptjax.types import UserError

References = Sequence[Sequence[str]]

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def bleu(references: References, predicted: Sequence[str], **settings: Any) -> Counts:
    """BLEU from 0 to 100 (Papineni et al. 2002, Post 2018), by the name `bleu`; `settings` are those of sacrebleu.

    Of several references, n-grams match any, and the length is compared with the nearest.
    """
    return _sacrebleu("bleu", _library("sacrebleu.metrics").BLEU(**{"force": True, **settings}), references, predicted)


def chrf(references: References, predicted: Sequence[str], **settings: Any) -> Counts:
    """chrF2 from 0 to 100 (Popović 2015), by the name `chrf`; `word_order=2` in the settings makes it chrF++.

    Of several references, the one with the best score counts for an example.
    """
    return _sacrebleu("chrf", _library("sacrebleu.metrics").CHRF(**settings), references, predicted)


def _sacrebleu(name: str, metric: Any, references: References, predicted: Sequence[str]) -> Counts:
    assert all(references), "each example has a reference"
    most = max(len(own) for own in references)
    columns = [[own[at] if at < len(own) else None for own in references] for at in range(most)]
    # The two methods by which sacrebleu's own paired tests resample; a test compares them with its corpus_score.
    counts_EK = np.array(metric._extract_corpus_statistics(predicted, columns), np.float64)

    def measure(sums_K: Array) -> dict[str, Array]:
        flat_RK = sums_K.reshape(-1, sums_K.shape[-1]).round().astype(np.int64)
        values = [metric._compute_score_from_stats(counts_K.tolist()).score for counts_K in flat_RK]
        return {name: np.array(values).reshape(sums_K.shape[:-1])}

    return Counts(counts_EK, measure, str(metric.get_signature()))


def rouge(references: References, predicted: Sequence[str], *, use_stemmer: bool = True) -> Counts:
    """ROUGE F1 from 0 to 1 (Lin 2004): `rouge1`, `rouge2`, `rougeL` and `rougeLsum`, means over examples.

    Words are runs of a-z and 0-9 in lower case, stemmed by Porter's rules. Of several references the best counts, for
    each name apart. For `rougeLsum` texts are cut into sentences by `sentences`, one a line as rouge-score wants them.
    """
    scorer = _library("rouge_score.rouge_scorer").RougeScorer(ROUGE, use_stemmer=use_stemmer)
    found = []
    for own, text in zip(references, predicted, strict=True):
        scored = scorer.score_multi(["\n".join(sentences(one)) for one in own], "\n".join(sentences(text)))
        found.append([*(scored[name].fmeasure for name in ROUGE), 1.0])
    return Counts(np.array(found), lambda sums_K: _means(sums_K, ROUGE), f"stemmer:{use_stemmer}|refs:best")


def sentences(text: str) -> list[str]:
    """Cuts a text after a line end, and after . ! or ? where a space and no small letter follows.

    Needs no trained splitter, whose data would have to be fetched. "e.g. this" stays whole; "Dr. Who" does not.
    """
    ends = r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))\s+(?=[^a-zß-ÿ\s])"
    return [part for line in text.split("\n") for part in re.split(ends, line.strip()) if part]


def exact_match(references: References, predicted: Sequence[str]) -> Counts:
    """The part of the predictions that equal a reference, by the name `exact_match`; runs of spaces count as one."""
    found = [
        [float(_spaced(text) in {_spaced(one) for one in own}), 1.0]
        for own, text in zip(references, predicted, strict=True)
    ]
    return Counts(np.array(found), lambda sums_K: _means(sums_K, ("exact_match",)))


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _means(sums_K: Array, names: Sequence[str]) -> dict[str, Array]:
    """Returns sums by name, divided by the number of examples, which stands last."""
    return {name: ratio(sums_K[..., at], sums_K[..., -1]) for at, name in enumerate(names)}


def _library(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = module.partition(".")[0].replace("_", "-")
        raise UserError(f"{name} is needed for this score ({error}); pip install 'gptjax[tasks]'") from None


MEASURES = {"bleu": bleu, "chrf": chrf, "rouge": rouge, "exact_match": exact_match}
"""What predicted texts are compared with references by, by name."""


def unknown(measures: Sequence[str]) -> list[str]:
    """Returns what is wrong with an option `measures`."""
    return [f"measures holds {name!r}; valid: {', '.join(MEASURES)}" for name in measures if name not in MEASURES]
