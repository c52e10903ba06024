"""The writing of one split's token shards, in order and so that an interrupted one goes on. Knows no text."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from gptjax.data.shards import ENDS_DTYPE, Tokens, check_shard, read_json, write_json


@dataclasses.dataclass
class _Open:
    """The shard that is being written."""

    name: str
    stream: IO[bytes]
    sha256: Any = dataclasses.field(default_factory=hashlib.sha256)
    ends: list[np.ndarray] = dataclasses.field(default_factory=list)
    num_tokens: int = 0


class ShardWriter:
    """Cuts the tokens of a split into shards of equal length (but the last), and goes on where another stopped.

    Beside each finished shard stands a note: its hashes, and the unit of work and the token in it that come next.
    """

    def __init__(self, folder: Path, split: str, dtype: np.dtype, shard_tokens: int):
        """Looks for finished shards of the same work in the folder."""
        self._folder, self._split, self._dtype, self._shard_tokens = folder, split, dtype, shard_tokens
        self.shards: list[dict[str, Any]] = []
        self.counts: dict[str, int] = {"documents": 0, "characters": 0, "bytes": 0}
        self.replaced: dict[str, int] = {}
        """Bytes that were no UTF-8, by file; known when the split is finished."""
        self.next_unit = 0
        """The first unit of work that is wanted."""
        self.finished = False
        """Whether nothing is left to do."""
        self._skip = 0  # tokens of that unit which stand in a finished shard
        self._open: _Open | None = None
        while not self.finished and self._note(len(self.shards)).exists():
            note = read_json(self._note(len(self.shards)))
            if check_shard(folder, note["shard"], verify=True) is not None:
                break
            self.shards.append(note["shard"])
            self.next_unit, self._skip = note["next"]
            self.counts, self.replaced, self.finished = note["counts"], note["replaced"], note["finished"]

    def write(self, tokens: Tokens) -> None:
        """Appends the tokens of the next unit."""
        start, self._skip = self._skip, 0
        while start < len(tokens.ids_L):
            if self._open is None:
                name = f"{self._split}-{len(self.shards):05}"
                self._open = _Open(name, open(self._folder / f"{name}.bin", "wb"))  # noqa: SIM115 (closed in _close)
            shard = self._open
            stop = min(start + self._shard_tokens - shard.num_tokens, len(tokens.ids_L))
            block = tokens.ids_L[start:stop].astype(self._dtype, copy=False).tobytes()
            shard.stream.write(block)
            shard.sha256.update(block)
            ends = tokens.ends[(tokens.ends > start) & (tokens.ends <= stop)]
            shard.ends.append(ends - start + shard.num_tokens)
            shard.num_tokens += stop - start
            start = stop
            if shard.num_tokens == self._shard_tokens:
                self._close(shard, stop)
        self.next_unit += 1
        self.counts = {name: count + tokens.counts[name] for name, count in self.counts.items()}

    def finish(self, replaced: Mapping[str, int]) -> None:
        """Closes the last shard; `replaced` counts the bytes of each file that were no UTF-8."""
        self.finished, self.replaced = True, dict(replaced)
        if self._open is not None:
            self._close(self._open, 0)

    def summary(self) -> dict[str, Any]:
        """Returns the split's part of the manifest."""
        return {"tokens": sum(shard["tokens"] for shard in self.shards), **self.counts, "shards": self.shards}

    def forget(self) -> None:
        """Removes the notes, once there is a manifest."""
        for index in range(len(self.shards)):
            self._note(index).unlink(missing_ok=True)

    def _note(self, index: int) -> Path:
        return self._folder / f"{self._split}-{index:05}.json"

    def _close(self, shard: _Open, done: int) -> None:
        """Closes a shard that holds the first `done` tokens of the next unit."""
        shard.stream.close()
        ends = np.concatenate(shard.ends).astype(ENDS_DTYPE).tobytes()
        (self._folder / f"{shard.name}.ends.bin").write_bytes(ends)
        files = {
            f"{shard.name}.bin": _entry(shard.num_tokens * self._dtype.itemsize, shard.sha256),
            f"{shard.name}.ends.bin": _entry(len(ends), hashlib.sha256(ends)),
        }
        entry = {"tokens": shard.num_tokens, "files": files}
        note = {
            "shard": entry,
            "next": (self.next_unit, done),
            "counts": self.counts,
            "replaced": self.replaced,
            "finished": self.finished,
        }
        write_json(self._note(len(self.shards)), note)
        self.shards.append(entry)
        self._open = None


def _entry(size: int, digest: Any) -> dict[str, Any]:
    return {"size": size, "sha256": digest.hexdigest()}
