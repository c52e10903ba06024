"""What a model answers to conversations, as text that grows. Owns no terminal."""

import dataclasses
from collections.abc import Iterator, Sequence

from gptjax.data.chat import Chat, Message
from gptjax.data.tokenizer import Tokenizer
from gptjax.model.config import ModelConfig
from gptjax.sample.config import SampleConfig
from gptjax.sample.generate import Text, stream_rows
from gptjax.types import Params


@dataclasses.dataclass(frozen=True)
class Assistant:
    """A model with its way to write conversations and the rules of its answers."""

    cfg: ModelConfig
    params: Params
    tokenizer: Tokenizer
    chat: Chat
    sample_cfg: SampleConfig
    seed: int

    def num_tokens(self, messages: Sequence[Message]) -> int:
        """Returns how long a conversation is, up to where the answer begins."""
        return len(self.chat.prompt(messages))

    def stream(self, conversations: Sequence[Sequence[Message]]) -> Iterator[list[str]]:
        """Yields the next piece of the answer to each conversation; answers have no white space in front."""
        stop = (*self.sample_cfg.stop, *self.chat.stop)
        rows = [self.chat.prompt(messages) for messages in conversations]
        texts = [Text(self.tokenizer, stop, continued=True) for _ in rows]
        begun = [False] * len(rows)
        pieces = stream_rows(
            self.cfg, self.params, self.tokenizer, rows, texts, self.sample_cfg, self.seed, ends=self.chat.ends
        )
        for row_pieces in pieces:
            shown = [piece if begins else piece.lstrip() for piece, begins in zip(row_pieces, begun, strict=True)]
            begun = [begins or bool(piece) for piece, begins in zip(shown, begun, strict=True)]
            yield shown
