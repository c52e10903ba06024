"""Rotary pairs in two orders: adjacent channels (GGUF's Llama, llama2.c) and two halves (Hugging Face, gptjax)."""

import numpy as np


def halves(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Returns the rows of a projection (or a bias) with each head's pairs, adjacent until now, as halves."""
    pairs = rows.reshape(num_heads, rows.shape[0] // num_heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
