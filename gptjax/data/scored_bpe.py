"""SentencePiece's byte-pair encoding, whose merges follow the scores of what they make, for the `tokenizers` library.

A text gets a space in front; of all neighbours that are a token together, those with the best score are joined, the
leftmost first, until none are left (Kudo and Richardson 2018, arXiv 1808.06226). Characters that are no token become
their bytes.
"""

from collections.abc import Mapping, Sequence

import tokenizers
from tokenizers import decoders, models, normalizers

from gptjax.data.spelling import BYTE
from gptjax.types import UserError

SPACE = "\u2581"
"""How SentencePiece writes a space."""


def scored_bpe(
    tokens: Sequence[str],
    scores: Sequence[float],
    *,
    special: Sequence[str],
    unknown: str | None = None,
    space: str = SPACE,
    prefix: bool = True,
) -> tokenizers.Tokenizer:
    """Returns a tokenizer whose token number i is tokens[i]; raises UserError where two are the same.

    `special` ones are never made of text, `unknown` stands for a byte that has no token, `space` is how tokens write a
    space, and `prefix` says whether a text gets one in front. The library ranks a merge by what is joined, not by what
    it makes: of two ways to the same token, the one with the longer left part comes first, wherever they stand.
    """
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        twice = next(i for i, token in enumerate(tokens) if ids[token] != i)
        raise UserError(f"tokens {twice} and {ids[tokens[twice]]} are both {tokens[twice]!r}; get the tokenizer again")
    score_of = {
        token: score
        for token, score in zip(tokens, scores, strict=True)
        if token not in special and not BYTE.fullmatch(token)
    }
    model = models.BPE(vocab=ids, merges=_merges(score_of), byte_fallback=True, fuse_unk=True, unk_token=unknown)
    library = tokenizers.Tokenizer(model)
    marks = [normalizers.Prepend(space)] if prefix else []
    marks += [normalizers.Replace(" ", space)] if space != " " else []
    library.normalizer = normalizers.Sequence(marks)
    steps = [decoders.Replace(space, " ")] if space != " " else []
    steps += [decoders.ByteFallback(), decoders.Fuse()]
    steps += [decoders.Strip(" ", 1, 0)] if prefix else []
    library.decoder = decoders.Sequence(steps)
    library.add_special_tokens(list(special))
    return library


def _merges(score_of: Mapping[str, float]) -> list[tuple[str, str]]:
    """Returns the pairs that make a token, the best score first."""
    pairs = [
        (token[:cut], token[cut:])
        for token in score_of
        for cut in range(1, len(token))
        if token[:cut] in score_of and token[cut:] in score_of
    ]
    return sorted(pairs, key=lambda pair: (-score_of["".join(pair)], -len(pair[0])))
