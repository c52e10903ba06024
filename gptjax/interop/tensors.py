"""Tensors of a file and the parameters that they hold: one layout into the other.

Dims are letters. A space stands between those of a tensor: "HC D" has heads and channels in one dim, two dims here.

Letters: D model width, F feed-forward width, H query heads, K key/value heads, C head channels, V vocabulary, T
position.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from gptjax.model.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a file, and the parameter that it holds, or the several that lie side by side in its last dim."""

    name: str
    """{} is the number of the layer."""
    dims: str
    """Its own dims, as in "HC D"."""
    paths: tuple[str, ...]
    own: str
    """The dims of the parameter (of one layer)."""

    def shape(self, cfg: ModelConfig) -> tuple[int, ...]:
        """Returns its shape in a model of this config."""
        *others, last = (math.prod(sizes(cfg)[letter] for letter in group) for group in self.dims.split())
        return (*others, last * len(self.paths))

    def unpack(self, cfg: ModelConfig, array: np.ndarray, path: str) -> np.ndarray:
        """Returns a view of the tensor as the parameter at a path."""
        letters = self.dims.replace(" ", "")
        part = np.split(array, len(self.paths), axis=-1)[self.paths.index(path)]
        whole = part.reshape([sizes(cfg)[letter] for letter in letters])
        return whole.transpose([letters.index(letter) for letter in self.own])

    def pack(self, cfg: ModelConfig, params: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the tensor that holds these parameters; one that is not there is zeros, as a bias may be."""
        letters, size = self.dims.replace(" ", ""), sizes(cfg)
        parts = []
        for path in self.paths:
            zeros = np.broadcast_to(np.float32(0), [size[letter] for letter in self.own])
            whole = params.get(path, zeros).transpose([self.own.index(letter) for letter in letters])
            parts.append(whole.reshape([math.prod(size[letter] for letter in group) for group in self.dims.split()]))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def sizes(cfg: ModelConfig) -> dict[str, int]:
    """Returns what each letter counts in a resolved config."""
    counts = dict(D=cfg.d_model, F=cfg.d_ff, H=cfg.num_heads, K=cfg.num_kv_heads, C=cfg.d_head, V=cfg.vocab_size)
    return {**counts, "T": cfg.seq_len}  # type: ignore[dict-item]
