"""The order of the sequences: which window comes at which place, for one text or several by weight."""

import zlib
from collections.abc import Sequence

import grain


def order(counts: Sequence[int], weights: Sequence[float], seed: int) -> grain.MapDataset[int]:
    """Returns an endless sequence of window numbers that is a pure function of the seed and the place.

    Each text has its own permutation of its `counts` windows, a new one each time that it is used up; windows of the
    second text are numbered from the end of the first's on, and so forth. Texts take turns as even as their weights
    allow, which are kept to within a hundredth of the smallest.
    """
    texts = []
    first = 0
    for index, count in enumerate(counts):
        # grain takes seed + epoch for each epoch: a hash keeps neighbouring seeds, and texts, from sharing any order.
        text_seed = zlib.crc32(f"{seed}/{index}".encode())
        texts.append(grain.MapDataset.range(first, first + count).shuffle(text_seed).repeat())
        first += count
    return texts[0] if len(texts) == 1 else grain.MapDataset.mix(texts, weights)
