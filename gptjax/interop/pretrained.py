"""What every reader of other people's files gives: a model as a Hugging Face folder would hold it. Knows no format."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from gptjax.data.tokenizer import Tokenizer


class Pretrained(ABC):
    """A model in somebody else's files, under Hugging Face's names and in its layout."""

    source: str
    """What messages call it."""
    config: Mapping[str, Any]
    """The fields of config.json: model_type, hidden_size, ..."""

    @abstractmethod
    def names(self) -> frozenset[str]:
        """Returns the names of all tensors."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor, without reading it."""

    @abstractmethod
    def read(self, name: str) -> np.ndarray:
        """Returns a tensor in float32: matrices are (out, in), rotary pairs are halves; none but it is in memory."""

    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """Returns the tokenizer that the model was trained with."""
