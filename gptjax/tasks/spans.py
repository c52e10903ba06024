"""Schemes of tags: spans of words as BIO, IOB1 or BIOES tags and back, and the best allowed sequence of tags.

| scheme | New York and Rome beside each other, both LOC     | a span begins with      |
|--------|---------------------------------------------------|-------------------------|
| BIO    | B-LOC I-LOC B-LOC                                 | B                       |
| IOB1   | I-LOC I-LOC B-LOC                                 | I; B after its own kind |
| BIOES  | B-LOC E-LOC S-LOC                                 | B, or S if it is a word |

BIO is also called IOB2, BIOES IOBES. Shapes: L words, T tags.
"""

import functools
from collections.abc import Iterable, Sequence

import numpy as np

from gptjax.data.conll import Span
from gptjax.types import UserError

SCHEMES = {"BIO": "OBI", "IOB1": "OBI", "BIOES": "OBIES"}
"""The prefixes of each."""
OUTSIDE = "O"


def split_tag(tag: str) -> tuple[str, str]:
    """Returns prefix and label: ("B", "creative-work") of "B-creative-work", ("O", "") of "O"."""
    prefix, _, label = tag.partition("-")
    return prefix, label


def is_tag(tag: str) -> bool:
    """Whether a tag is one of any scheme."""
    prefix, label = split_tag(tag)
    return len(prefix) == 1 and prefix in SCHEMES["BIOES"] and (prefix == OUTSIDE) == (not label)


def may_follow(previous: str, tag: str, scheme: str) -> bool:
    """Whether a tag may stand after another; before the first word and after the last there is an O."""
    (before, label), (prefix, own) = split_tag(previous), split_tag(tag)
    inside = before in ("B", "I")
    if scheme == "BIOES":
        goes_on = prefix in ("I", "E")
        return goes_on == inside and (not goes_on or label == own)
    needs_same = {"BIO": "I", "IOB1": "B"}[scheme]
    return prefix != needs_same or (inside and label == own)


def read_spans(tags: Sequence[str], scheme: str | None = None) -> list[Span]:
    """Returns the spans of a sentence, whatever its tags are.

    Without a scheme they are read as conlleval does (CoNLL-2000 to 2003): a span begins at B or S, and at any other tag
    after O or after another label; it ends before the next one, before O and after E. With a scheme only those spans
    count that the scheme would write so, which is seqeval's strict mode: in BIO an I after O begins nothing. IOB1 is
    read as without a scheme: all that it never writes is a B where I would do, and that begins a span all the same.
    """
    spans: list[Span] = []
    start, open_label, before = 0, None, OUTSIDE
    for at, tag in enumerate([*tags, OUTSIDE]):
        prefix, label = split_tag(tag)
        if open_label is not None and (prefix in "OBS" or before in "ES" or label != open_label):
            spans.append(Span(start, at, open_label))
            open_label = None
        if prefix != "O" and open_label is None:
            start, open_label = at, label
        before = prefix
    if scheme in (None, "IOB1"):
        return spans
    return [span for span in spans if list(tags[span.start : span.end]) == _tags_of(span, scheme)]


def write_tags(spans: Iterable[Span], num_words: int, scheme: str) -> list[str]:
    """Returns the tags of a sentence; spans must not overlap."""
    tags = [OUTSIDE] * num_words
    for span in sorted(spans):
        assert set(tags[span.start : span.end]) == {OUTSIDE}, f"{span} overlaps another span"
        tags[span.start : span.end] = _tags_of(span, scheme)
        if scheme == "IOB1" and span.start and split_tag(tags[span.start - 1])[1] == span.label:
            tags[span.start] = f"B-{span.label}"
    return tags


def _tags_of(span: Span, scheme: str) -> list[str]:
    """Returns the tags of a span that no other touches."""
    length = span.end - span.start
    prefixes = ["I" if scheme == "IOB1" else "B", *"I" * (length - 1)]
    if scheme == "BIOES":
        prefixes[-1] = "E" if length > 1 else "S"
    return [f"{prefix}-{span.label}" for prefix in prefixes]


def tags_of(labels: Iterable[str], scheme: str) -> list[str]:
    """Returns all tags of a scheme: O, then those of each label."""
    return [OUTSIDE, *(f"{prefix}-{label}" for label in labels for prefix in SCHEMES[scheme] if prefix != OUTSIDE)]


def detect_scheme(sentences: Iterable[Sequence[str]]) -> str:
    """Returns the scheme of sentences of tags: the one with the fewest tags that it would not write, BIO if all are O.

    Raises UserError for a tag of no scheme.
    """
    wrong = dict.fromkeys(SCHEMES, 0)
    for tags in sentences:
        previous = OUTSIDE
        for tag in [*tags, OUTSIDE]:
            if not is_tag(tag):
                raise UserError(
                    f"{tag!r} is no tag of {', '.join(SCHEMES)}, such as O or B-LOC; name the column of tags"
                )
            for scheme, prefixes in SCHEMES.items():
                wrong[scheme] += split_tag(tag)[0] not in prefixes or not may_follow(previous, tag, scheme)
            previous = tag
    return min(SCHEMES, key=lambda scheme: wrong[scheme])


def decode(scores_LT: np.ndarray, tags: Sequence[str], scheme: str) -> list[str]:
    """Returns the allowed sequence of tags with the greatest sum of scores, such as log probabilities (Viterbi 1967).

    `tags` names the columns of the scores and has O among it. Of equal sequences, one is returned.
    """
    L, T = scores_LT.shape
    if not L:
        return []
    penalty_TT, first_T, last_T = _penalties(tuple(tags), scheme)
    # What is forbidden stays far below what is merely impossible to the model, so that it is never chosen.
    scores_LT = np.nan_to_num(np.asarray(scores_LT, np.float64), nan=-1e12, posinf=1e12, neginf=-1e12)
    best_T = scores_LT[0] + first_T
    came_LT = np.zeros((L, T), np.int64)
    for at in range(1, L):
        through_TT = best_T[:, None] + penalty_TT
        came_LT[at] = through_TT.argmax(0)
        best_T = through_TT[came_LT[at], np.arange(T)] + scores_LT[at]
    tag = int((best_T + last_T).argmax())
    path = [tag]
    for at in range(L - 1, 0, -1):
        tag = int(came_LT[at, tag])
        path.append(tag)
    return [tags[tag] for tag in reversed(path)]


@functools.lru_cache(maxsize=8)  # of a hundred tags of roles, it takes longer than decoding a sentence
def _penalties(tags: tuple[str, ...], scheme: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what is added where a tag follows another (row before column), comes first, and comes last."""

    def penalty(previous: str, tag: str) -> float:
        return 0.0 if may_follow(previous, tag, scheme) else -1e30

    return (
        np.array([[penalty(previous, tag) for tag in tags] for previous in tags]),
        np.array([penalty(OUTSIDE, tag) for tag in tags]),
        np.array([penalty(tag, OUTSIDE) for tag in tags]),
    )
