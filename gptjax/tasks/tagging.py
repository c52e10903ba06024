"""Spans of words, such as names, and the roles of a predicate's arguments: a tag a word, read at one of its sub-words.

Causal attention sees no word to the right. So the words stand twice, and tags are read in the second copy, where all
have been seen (echo embeddings, Springer et al. 2024, arXiv 2402.15449). Attention that sees both ways needs one copy.

Shapes: B batch, T position, D model width, W words, L tags.
"""

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gptjax.data import conll, propbank
from gptjax.data.conll import Span, read_conll, write_conll
from gptjax.data.propbank import Proposition, read_propbank, write_propbank
from gptjax.data.sequences import Segment
from gptjax.tasks import span_scores, spans
from gptjax.tasks.scores import Counts
from gptjax.tasks.task import ExampleTask, Heads, Prediction, as_in
from gptjax.types import Array, Batch, Metrics, UserError

SUB_WORDS = {"first": 0, "last": -1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanTask(ExampleTask):
    """Cross-entropy of each word's tag; predictions are the likeliest sequence of tags that spells whole spans."""

    scheme: str = "BIO"
    """The tags that the model learns: BIO, IOB1 or BIOES, whatever the files have."""
    labels: tuple[str, ...] = ()
    """All labels of spans; empty takes those of the training file."""
    twice: bool = True
    """Whether the words stand twice, so that each tag is read with all words seen; attention both ways needs one."""
    sub_word: str = "first"
    """Which sub-word of a word its tag is read from: first or last."""

    def problems(self) -> list[str]:
        """Options that are unknown, besides."""
        found = super().problems()
        for option, valid in (("scheme", spans.SCHEMES), ("sub_word", SUB_WORDS)):
            if getattr(self, option) not in valid:
                found.append(f"{option}={getattr(self, option)!r} is unknown; valid: {', '.join(valid)}")
        return found

    @abstractmethod
    def words_of(self, example: Any) -> Sequence[str]:
        """Returns the words."""

    @abstractmethod
    def spans_of(self, example: Any) -> Sequence[Span]:
        """Returns the spans that the file says, none of which overlap."""

    @abstractmethod
    def where(self, example: Any, word: int) -> str:
        """Returns FILE:LINE of a word."""

    def marked(self, example: Any) -> int | None:
        """Returns the word that the spans are about, where there is one."""
        return None

    @functools.cached_property
    def classes(self) -> list[str]:
        """The tags in the order of the classifier's outputs."""
        if not self.labels and self.train is None:
            raise UserError(
                f"tasks.{self.name} has neither labels nor a file to learn from; set tasks.{self.name}.labels"
            )
        found = self.labels or sorted({span.label for e in self.examples("train") for span in self.spans_of(e)})
        return spans.tags_of(found, self.scheme)

    @functools.cached_property
    def _number(self) -> dict[str, int]:
        return {tag: number for number, tag in enumerate(self.classes)}

    @property
    def unembeds(self) -> bool:
        """Tags are all that is read."""
        return False

    def segments(self, example: Any, seq_len: int) -> list[Segment]:
        """Returns the words, those at the end left out where they do not fit; a tag stands at a sub-word of each."""
        words = self.words_of(example)
        copy, starts_W = self._copy(words, self.marked(example))
        tokenizer = self.setting.tokenizer
        assert tokenizer is not None
        gap = tokenizer.encode("\n").tolist() if self.twice else []
        room = (seq_len - len(tokenizer.begin) - len(gap)) // (2 if self.twice else 1)
        fitting_W = [start for start in starts_W if start < room]
        if not fitting_W:
            raise UserError(f"{self.where(example, 0)}: no word fits into model.seq_len={seq_len}; raise that")
        copy = copy[:room]
        tokens = [*tokenizer.begin, *(copy + gap if self.twice else []), *copy]
        places_W = np.array(fitting_W) + len(tokens) - len(copy)
        targets_T, read_T = np.zeros(len(tokens), np.int32), np.zeros(len(tokens), np.float32)
        tags = spans.write_tags(self.spans_of(example), len(words), self.scheme)
        for word, place in enumerate(places_W):
            if tags[word] not in self._number:
                raise UserError(
                    f"{self.where(example, word)}: the label of {tags[word]!r} is unknown to tasks.{self.name}; valid: "
                    f"{', '.join(self.classes[:20])}; mend the file, or set tasks.{self.name}.labels"
                )
            targets_T[place], read_T[place] = self._number[tags[word]], 1
        return [Segment(np.array(tokens, np.int32), targets_T, read_T)]

    def _copy(self, words: Sequence[str], marked: int | None) -> tuple[list[int], list[int]]:
        """Returns the tokens of all words, the marked one in brackets, and where each word's tag is read."""
        assert self.setting.tokenizer is not None
        unknown = [word for word in {"[", "]", *words} if word not in self._sub_words]
        encoded = self.setting.tokenizer.encode_many([f" {word}" for word in unknown])
        self._sub_words.update((word, ids.tolist() or [0]) for word, ids in zip(unknown, encoded, strict=True))
        tokens, starts_W = [], []
        for number, word in enumerate(words):
            ids = self._sub_words[word]
            tokens += self._sub_words["["] if number == marked else []
            starts_W.append(len(tokens) + (0 if self.sub_word == "first" else len(ids) - 1))
            tokens += ids
            tokens += self._sub_words["]"] if number == marked else []
        return tokens, starts_W

    @functools.cached_property
    def _sub_words(self) -> dict[str, list[int]]:
        """The tokens of the words met so far; words come again and again."""
        return {}

    def metrics(self, heads: Heads, x_BTD: Array, batch: Batch) -> Metrics:
        """Returns `loss` in nats a word."""
        logits_BTL = heads.classify(x_BTD, self.name)
        targets_BT = jnp.where(batch.loss_mask_BT > 0, batch.targets_BT, 0)
        nll_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTL, targets_BT)
        return {"loss": (jnp.sum(nll_BT * batch.loss_mask_BT), jnp.sum(batch.loss_mask_BT))}

    def outputs(self, heads: Heads, x_BTD: Array, batch: Batch) -> Array:
        """Returns the log-probability of each tag."""
        return jax.nn.log_softmax(heads.classify(x_BTD, self.name))

    def predict(self, example: Any, outputs: Sequence[np.ndarray]) -> Prediction:
        """Returns the spans of the best sequence of tags; words that did not fit are in none."""
        tags = spans.decode(outputs[0], self.classes, self.scheme)
        return Prediction(spans.read_spans(tags))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tagging(SpanTask):
    """Spans of words in CoNLL files: named entities, chunks."""

    word: int = 0
    """Column of the word, from 0, or from -1 backwards."""
    tag: int = -1
    """Column of its tag."""

    def read(self, path: str) -> Sequence[conll.Sentence]:
        """Reads a CoNLL file in any of the schemes; raises UserError for what is no tag of any."""
        sentences = read_conll(path, word=self.word, tag=self.tag)
        for sentence in sentences:
            for word, tag in enumerate(sentence.tags):
                if not spans.is_tag(tag):
                    raise UserError(
                        f"{sentence.where(word)}: {tag!r} is no tag of {', '.join(spans.SCHEMES)}, such as O or B-LOC; "
                        f"mend it, or set tasks.{self.name}.tag={self.tag} to the column of tags"
                    )
        return sentences

    def words_of(self, example: conll.Sentence) -> Sequence[str]:
        """Returns the words."""
        return example.words

    def spans_of(self, example: conll.Sentence) -> Sequence[Span]:
        """Returns the spans, read as conlleval does."""
        return spans.read_spans(example.tags)

    def where(self, example: conll.Sentence, word: int) -> str:
        """Returns FILE:LINE of a word."""
        return example.where(word)

    def counts(self, examples: Sequence[conll.Sentence], predictions: Sequence[Prediction]) -> Sequence[Counts]:
        """Measures F1, precision and recall of whole spans, together and by label."""
        return [span_scores.entities([self.spans_of(example) for example in examples], [p.value for p in predictions])]

    def write(
        self, path: Path, source: str, examples: Sequence[conll.Sentence], predictions: Sequence[Prediction]
    ) -> Path:
        """Writes the file's lines with predicted tags, in the file's own scheme."""
        scheme = spans.detect_scheme(example.tags for example in examples)
        tags = [
            spans.write_tags(prediction.value, len(example.words), scheme)
            for example, prediction in zip(examples, predictions, strict=True)
        ]
        return write_conll(as_in(path, source), examples, tags)


class Predicate(NamedTuple):
    """A predicate of a sentence, and which of its predicates it is."""

    sentence: propbank.Sentence
    proposition: Proposition


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roles(SpanTask):
    """Roles of a given predicate's arguments, in files like those of CoNLL-2005; the predicate stands in brackets.

    Of roles within each other the outer one is learned.
    """

    def read(self, path: str) -> Sequence[Predicate]:
        """Reads each predicate of a file as an example."""
        sentences = read_propbank(path)
        return [Predicate(sentence, proposition) for sentence in sentences for proposition in sentence.propositions]

    def words_of(self, example: Predicate) -> Sequence[str]:
        """Returns the words."""
        return example.sentence.words

    def spans_of(self, example: Predicate) -> Sequence[Span]:
        """Returns the outer roles."""
        return outer(example.proposition.roles)

    def where(self, example: Predicate, word: int) -> str:
        """Returns FILE:LINE of a word."""
        return example.sentence.where(word)

    def marked(self, example: Predicate) -> int:
        """Returns the predicate."""
        return example.proposition.predicate

    def counts(self, examples: Sequence[Predicate], predictions: Sequence[Prediction]) -> Sequence[Counts]:
        """Measures F1, precision and recall of roles as the CoNLL-2005 scorer counts, together and by role."""
        return [span_scores.roles([example.proposition.roles for example in examples], [p.value for p in predictions])]

    def write(self, path: Path, source: str, examples: Sequence[Predicate], predictions: Sequence[Prediction]) -> Path:
        """Writes the file's sentences with predicted roles in each predicate's column."""
        sentences, roles, left = [], [], list(predictions)
        for sentence in read_propbank(source):
            if sentence.propositions and not left:  # only the first examples were scored
                break
            count = len(sentence.propositions)
            found, left = [prediction.value for prediction in left[:count]], left[count:]
            sentences.append(sentence)
            roles.append(found + [[] for _ in range(count - len(found))])
        return write_propbank(as_in(path, source), sentences, roles)


def outer(found: Iterable[Span]) -> list[Span]:
    """Returns the spans that lie within no other and overlap none before them."""
    kept: list[Span] = []
    for span in sorted(found, key=lambda span: (span.start, -span.end)):
        if not kept or span.start >= kept[-1].end:
            kept.append(span)
    return kept
