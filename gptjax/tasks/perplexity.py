"""How well a model predicts the documents of a text.

Shapes: B batch, T position, D model width, E documents.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptjax.data.lines import read_lines, write_lines
from gptjax.data.sequences import Segment, scored_windows
from gptjax.tasks.language_modeling import next_token_loss, next_token_losses
from gptjax.tasks.perplexity_scores import count_words, detokenize_wikitext, perplexities
from gptjax.tasks.scores import Counts
from gptjax.tasks.seq2seq import answered
from gptjax.tasks.task import ExampleTask, Heads, Prediction
from gptjax.types import Array, Batch, Metrics, UserError

DETOKENIZERS: Mapping[str, Callable[[str], str]] = {"none": str, "wikitext": detokenize_wikitext}


class Document(NamedTuple):
    """Whole lines of a file, as it has them."""

    where: str
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perplexity(ExampleTask):
    """How well a model predicts the documents of a text, each from its beginning; scored and not learned."""

    begins: str | None = None
    """Regular expression of the lines that documents begin with: '^ = [^=]' in WikiText; None: the file is one."""
    detokenize: str = "none"
    """What undoes the tokenisation of a published text before the model reads it: none or wikitext."""

    @property
    def has_training(self) -> bool:
        """Documents are not learned; `language_modeling` learns."""
        return False

    def problems(self) -> list[str]:
        """Options that do not fit, besides."""
        found = super().problems()
        if self.detokenize not in DETOKENIZERS:
            found.append(f"detokenize={self.detokenize!r} is unknown; valid: {', '.join(DETOKENIZERS)}")
        try:
            re.compile(self.begins or "")
        except re.error as error:
            found.append(f"begins={self.begins!r} is no regular expression ({error})")
        return found

    def read(self, path: str) -> Sequence[Document]:
        """Reads a text file; lines before the first document are one of their own."""
        found: list[tuple[int, list[str]]] = []
        for line in read_lines(Path(path).expanduser()):
            if not found or (self.begins is not None and re.search(self.begins, line.text)):
                found.append((line.number, []))
            found[-1][1].append(f"{line.text}\n")
        documents = [Document(f"{path}:{number}", "".join(lines)) for number, lines in found]
        if not (documents := [document for document in documents if document.text.strip()]):
            raise UserError(f"{path} holds no text; give a file with some")
        return documents

    def plain(self, document: Document) -> str:
        """Returns what the model reads of a document."""
        return DETOKENIZERS[self.detokenize](document.text)

    def segments(self, example: Document, seq_len: int) -> list[Segment]:
        """Returns windows that score every token once, each after as many as fit before it."""
        tokenizer = self.setting.tokenizer
        assert tokenizer is not None
        ids = [*(tokenizer.begin or [tokenizer.eos_id or 0]), *tokenizer.encode(self.plain(example)).tolist()]
        return [answered(window, len(window) - count) for window, count in scored_windows(ids, 1, seq_len)]

    def metrics(self, heads: Heads, x_BTD: Array, batch: Batch) -> Metrics:
        """Returns `loss` in nats a token."""
        return {"loss": next_token_loss(heads, x_BTD, batch, self.setting.num_chunks)}

    def outputs(self, heads: Heads, x_BTD: Array, batch: Batch) -> Array:
        """Returns the negative log-probability of each target."""
        return next_token_losses(heads.unembed, x_BTD, batch.targets_BT, self.setting.num_chunks)[0]

    def predict(self, example: Document, outputs: Sequence[np.ndarray]) -> Prediction:
        """Returns the nats of a document, and how many tokens it has."""
        return Prediction(sum(float(nll.sum()) for nll in outputs), sum(map(len, outputs)))

    def counts(self, examples: Sequence[Document], predictions: Sequence[Prediction]) -> Sequence[Counts]:
        """Measures perplexity by token and by word of the file, and bits by byte of what the model reads."""
        nll_E = np.array([prediction.value for prediction in predictions])
        sizes = [(p.detail, *self._sizes(e)) for e, p in zip(examples, predictions, strict=True)]
        return [perplexities(nll_E, *zip(*sizes, strict=True))]

    def _sizes(self, document: Document) -> tuple[int, int]:
        return count_words(document.text), len(self.plain(document).encode())

    def write(self, path: Path, source: str, examples: Sequence[Document], predictions: Sequence[Prediction]) -> Path:
        """Writes a table of the documents: where each begins, its nats, tokens, words and bytes."""
        rows = [
            (e.where, f"{p.value:.4f}", p.detail, *self._sizes(e)) for e, p in zip(examples, predictions, strict=True)
        ]
        lines = ["\t".join(map(str, row)) for row in [("document", "nats", "tokens", "words", "bytes"), *rows]]
        return write_lines(path.with_name(f"{path.name}.tsv"), lines)
