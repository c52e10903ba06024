"""Figures of language models that no tokenizer changes: perplexity by word and bits by byte; and WikiText's plain text.

WikiText is published as tokens. A model of plain text reads it detokenised, and is scored by the tokens of the
original, so that its perplexity by word compares with published ones.
"""

import math
import re
from collections.abc import Sequence

import numpy as np

from gptjax.tasks.scores import Array, Counts, ratio

_RULES = [
    (r" @([-,.])@ ", r"\1"),  # within a word or a number: red @-@ tipped, 3 @,@ 462, 0 @.@ 7
    (r" (['’](?:s|t|m|d|re|ve|ll)\b)", r"\1"),  # clitics: lobster 's, can 't
    (r"(?<=s) ' ", "' "),  # the genitive of plurals: Linnaeus ' concept
    (r" ([,.;:!?%)\]])", r"\1"),
    (r"([(\[$£]) ", r"\1"),
    (r'" ([^"]*?) "', r'"\1"'),  # quotes come in pairs
    (r"(?<!=)((?:= )+=)(?!=)", lambda match: match[0].replace(" ", "")),  # levels of headings: = = = to ===
]


def detokenize_wikitext(text: str) -> str:
    """Returns WikiText as people would write it, line by line; every line of it stays a line, without spaces around it.

    Undone are @-@, @,@ and @.@, and the spaces before punctuation, clitics, closing and after opening brackets, inside
    double quotes and after $ and £, and between the signs of a heading. <unk> stays, and so do spaces around dashes and
    single quotes, which cannot be told from those that belong there.
    """
    lines = []
    for line in text.split("\n"):
        for pattern, replacement in _RULES:
            line = re.sub(pattern, replacement, line)
        lines.append(line.strip())
    return "\n".join(lines)


def count_words(text: str, *, line_ends: bool = True) -> int:
    """Returns the number of words of WikiText as published: what spaces part, and one <eos> a line unless left out."""
    return len(text.split()) + (text.count("\n") if line_ends else 0)


def perplexities(nll_E: Array, tokens_E: Sequence[int], words_E: Sequence[int], bytes_E: Sequence[int]) -> Counts:
    """Scores texts, an example each, by their negative log likelihood in nats.

    Names: `loss` in nats per token, `perplexity` by token, `word_perplexity` and `bits_per_byte`. Sums are divided by
    the sums of tokens, words and bytes: no mean of means.
    """

    def measure(sums_K: Array) -> dict[str, Array]:
        nll, tokens, words, num_bytes = (sums_K[..., at] for at in range(4))
        return {
            "loss": ratio(nll, tokens),
            "perplexity": np.exp(ratio(nll, tokens)),
            "word_perplexity": np.exp(ratio(nll, words)),
            "bits_per_byte": ratio(nll / math.log(2), num_bytes),
        }

    return Counts(np.stack([nll_E, tokens_E, words_E, bytes_E], axis=1).astype(np.float64), measure)
