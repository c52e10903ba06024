"""Which text is trained on and how it is cut into sequences. Knows no jax and no grain."""

import dataclasses
from typing import Any

from gptjax import registry
from gptjax.registry import Choice, choice_field
from gptjax.types import UserError

PACKINGS = ("windows", "documents")


def _local(default: Any) -> Any:
    """A field that says how or where this machine works, and so is no part of a run's identity."""
    return dataclasses.field(default=default, metadata={"fingerprint": False})


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The text, its tokens and its batches. What the text *is* enters a run's identity as the corpus' fingerprint."""

    source: Choice = choice_field("gptjax.data.sources:SOURCES", "python_stdlib")
    """Where text comes from, where no path is given."""
    path: str | None = _local(None)
    """Your own text: a file, a glob, a folder (source `text`), or a folder that gptjax.prepare wrote (`prepared`)."""
    valid_fraction: float = 0.1
    """Part that is held out for validation: of the characters of one file, or of the number of several files."""
    tokenizer: Choice = choice_field("gptjax.data.tokenizer:TOKENIZERS", "byte")
    """How text becomes tokens; text that is prepared already has its own."""
    packing: str = "windows"
    """How the stream is cut: windows (documents flow into each other) or documents (each keeps to itself)."""
    batch_size: int = 32
    """Sequences in a batch, over all devices and micro-batches."""
    batch_ramp: tuple[tuple[int, int], ...] = ()
    """Smaller batches first: '((8, 4000), (16, 12000))' takes 8 sequences until 4,000 were read, 16 until 12,000."""
    verify: bool = _local(True)
    """Compare every shard with its SHA-256 at the start; sizes are always checked."""
    cache_dir: str | None = _local(None)
    """Where prepared text is kept; None is $GPTJAX_CACHE, $XDG_CACHE_HOME/gptjax or ~/.cache/gptjax."""
    num_threads: int = _local(2)
    """Threads that read ahead; 0 reads only when asked."""
    prefetch: int = _local(4)
    """Batches that are read ahead at most."""

    def validate(self) -> list[str]:
        """Returns every problem as "field=value is wrong; do this" (the text is looked for, but not read)."""
        problems = []
        if not 0 < self.valid_fraction < 1:
            problems.append(f"valid_fraction={self.valid_fraction} is not between 0 and 1; 0.1 is usual")
        if self.packing not in PACKINGS:
            problems.append(f"packing={self.packing!r} is unknown; {registry.did_you_mean(self.packing, PACKINGS)}")
        if self.batch_size < 1:
            problems.append(f"batch_size={self.batch_size} is less than 1; choose a number of sequences")
        previous = 0
        for size, until in self.batch_ramp:
            if not 1 <= size <= self.batch_size or until <= previous:
                problems.append(
                    f"batch_ramp: ({size}, {until}) is no size from 1 to batch_size={self.batch_size} with a number of "
                    f"sequences above {previous}"
                )
            previous = until
        if not 0 <= self.num_threads <= 256:
            problems.append(f"num_threads={self.num_threads} is not between 0 (no threads) and 256; 2 is usual")
        if not 1 <= self.prefetch <= 1024:
            problems.append(f"prefetch={self.prefetch} is not between 1 and 1024 batches; 4 is usual")
        if self.cache_dir == "":
            problems.append("cache_dir='' is empty; give a folder, or None for the usual one")
        try:
            registry.resolve("gptjax.data.tokenizer:TOKENIZERS", self.tokenizer)
        except UserError as error:
            problems.append(f"tokenizer: {error}")
        from gptjax.data.sources import find  # late: configs are loaded where no text is looked for

        try:
            find(self)
        except UserError as error:
            problems.append(f"source: {error}" if self.path is None else f"path={error}")
        return problems

    @property
    def batch_sizes(self) -> list[int]:
        """The sizes that batches have along a run, the full one last."""
        return list(dict.fromkeys([*(size for size, _ in self.batch_ramp if size != self.batch_size), self.batch_size]))

    def batch_at(self, cursor: int, index: int) -> tuple[int, int]:
        """Returns the first sequence and the size of the batch that is `index` batches after the one at a cursor."""
        for size, until in self.batch_ramp:
            count = max(0, -(-(until - cursor) // size))
            if index < count:
                return cursor + index * size, size
            cursor, index = cursor + count * size, index - count
        return cursor + index * self.batch_size, self.batch_size
