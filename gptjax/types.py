"""What every part of the project agrees on: the batch, the user's error and the streams of randomness.

Shapes: B batch (sequences), T position in the sequence.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import jax

Array = Any  # a jax.Array, a tracer or a NumPy array
Params = Any  # a tree of arrays
Metrics = Mapping[str, tuple[Array, Array]]  # name -> (sum, count): a mean is taken once, on the host


class UserError(ValueError):
    """A mistake that the user can mend; entry points print it as plain lines and exit with 2, without a traceback."""

    @classmethod
    def join(cls, subject: str, problems: Sequence[str]) -> "UserError":
        """Makes one error of several problems, so that they are mended in one go: a line each below the subject."""
        if len(problems) == 1:
            return cls(problems[0])
        return cls("\n  ".join([f"{subject} ({len(problems)} problems):", *problems]))


class Batch(NamedTuple):
    """The only contract between data, tasks, training and evaluation; one row is one sequence of T tokens."""

    tokens_BT: Array
    """Input token ids, int32."""
    targets_BT: Array
    """The token to predict at each position, int32; some valid id also where it does not count."""
    loss_mask_BT: Array
    """1.0 where the target counts, else 0.0, float32."""
    segment_ids_BT: Array
    """Documents packed into a row are numbered from 1, 0 is padding, int32; attention stays within a segment."""
    positions_BT: Array
    """Position within the segment, from 0, int32."""
    labels: Mapping[str, Array]
    """Targets of other tasks, by name: per sequence or per token; empty for language modelling."""


def stream_key(seed: int, stream: str, step: "int | jax.Array") -> "jax.Array":
    """Returns the random key of a named stream at a step, so that no key is kept in the training state.

    The name enters by CRC-32 because Python's `hash` differs from one process to the next.
    """
    import jax

    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))
    return jax.random.fold_in(key, step)
