"""Batches of similar lengths and of one size, so that few programs are compiled. Knows numbers of rows alone."""

from collections.abc import Iterator, Sequence


def batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yields the numbers of all rows, by their lengths; the last row stands again where the last batch is not full.

    The longest come first: what may not fit into memory is known at once. Few rows make a smaller batch.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    size = min(size, 1 << (len(lengths) - 1).bit_length())
    for at in range(0, len(order), size):
        rows = order[at : at + size]
        yield rows + rows[-1:] * (size - len(rows))
