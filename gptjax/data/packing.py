"""How the rows of a batch are cut out of a token stream. NumPy alone; knows no devices and no order.

Row w is the window of T inputs from token w * T on, and its targets are the same tokens one further: random access, and
every token but the first is a target once. The two ways of packing differ only in what a row may see.

Shapes: B batch, T position.
"""

from collections.abc import Sequence

import numpy as np

from gptjax.data.shards import TokenStream
from gptjax.types import Batch


def num_windows(num_tokens: int, seq_len: int, *, partial: bool = False) -> int:
    """Returns how many windows a stretch of tokens holds; with `partial`, a last shorter one counts too."""
    return max(0, (num_tokens - 1 + (seq_len - 1) * partial) // seq_len)


def windows(stream: TokenStream, starts: Sequence[int], seq_len: int) -> Batch:
    """Cuts rows that are one segment each: documents flow into each other, as in GPT-2.

    A row that reaches beyond the stream is padded: loss mask and segment 0 there, and so is a row that starts beyond.
    """
    starts_B = np.asarray(starts)
    ids_BL = stream.rows(starts_B, seq_len + 1)
    t_T = np.arange(seq_len, dtype=np.int32)
    within_BT = starts_B[:, None] + t_T + 1 < len(stream)
    tokens_BT = np.where(within_BT, ids_BL[:, :-1], 0)
    targets_BT = np.where(within_BT, ids_BL[:, 1:], 0)
    positions_BT = np.where(within_BT, t_T, 0)
    return Batch(
        tokens_BT,
        targets_BT,
        loss_mask_BT=within_BT.astype(np.float32),
        segment_ids_BT=within_BT.astype(np.int32),
        positions_BT=positions_BT,
        labels={},
    )


def documents(stream: TokenStream, starts: Sequence[int], seq_len: int) -> Batch:
    """Cuts the same rows into a segment for each document: none attends to another, none is predicted from another.

    A document that a row cuts goes on as the first segment of the next row, with positions from 0 again: what went
    before cannot be seen there.
    """
    batch = windows(stream, starts, seq_len)
    border_BL = stream.borders(np.asarray(starts), seq_len + 1)
    border_BT, within_BT = border_BL[:, :-1], batch.segment_ids_BT
    t_T = np.arange(seq_len, dtype=np.int32)
    first_BT = np.maximum.accumulate(np.where(border_BT, t_T, 0), axis=1)
    return batch._replace(
        loss_mask_BT=batch.loss_mask_BT * ~border_BL[:, 1:],
        segment_ids_BT=(1 + np.cumsum(border_BT, axis=1, dtype=np.int32)) * within_BT,
        positions_BT=(t_T - first_BT) * within_BT,
    )


PACKINGS = {"windows": windows, "documents": documents}
