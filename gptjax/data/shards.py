"""Token shards on disk: what a prepared folder holds, its checks, and the stream of tokens that is read from it.

A prepared folder holds, for each split, `train-00000.bin` (token ids, little-endian uint16 or uint32),
`train-00000.ends.bin` (int64: behind which of its tokens a document ends), and so on; `tokenizer/`; and
`manifest.json`, which is written last: without it the folder is unfinished.

Shapes: R row, L position in a stretch of tokens.
"""

import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptjax.types import UserError

FORMAT = 1
MANIFEST = "manifest.json"
ENDS_DTYPE = np.dtype("<i8")


class Tokens(NamedTuple):
    """Tokens of a stretch of text, with what they stand for."""

    ids_L: np.ndarray
    ends: np.ndarray
    """Number of tokens up to the end of each document that ends within, rising."""
    counts: Mapping[str, int]
    """documents, characters, bytes."""


def token_dtype(vocab_size: int) -> np.dtype:
    """Returns the type of ids on disk."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def write_json(path: Path, content: Any) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)


def read_json(path: Path) -> Any:
    """Reads a JSON file; raises UserError where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); prepare the text again into another folder") from None


def check_shard(folder: Path, shard: Mapping[str, Any], *, verify: bool) -> str | None:
    """Says what is wrong with the files of a shard: their sizes and, with `verify`, their hashes."""
    for name, entry in shard["files"].items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != entry["size"]:
                return f"{path} is truncated or altered: {size} bytes, and the manifest says {entry['size']}"
            if verify:
                with open(path, "rb") as stream:
                    if hashlib.file_digest(stream, "sha256").hexdigest() != entry["sha256"]:
                        return f"{path} is altered: its SHA-256 is not the manifest's"
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"
    return None


def load_manifest(folder: Path, *, verify: bool) -> dict[str, Any]:
    """Reads the manifest of a prepared folder and checks its shards; raises UserError naming the file that is wrong."""
    content = read_json(folder / MANIFEST)
    manifest = content if isinstance(content, dict) else {}
    if manifest.get("format", FORMAT) != FORMAT:
        raise UserError(f"{folder / MANIFEST} is of another format ({manifest['format']}); prepare the text again")
    if not {"format", "dtype", "splits"} <= manifest.keys():
        raise UserError(f"{folder / MANIFEST} is damaged; delete {folder} and prepare the text again")
    shards = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    with concurrent.futures.ThreadPoolExecutor() as threads:
        for problem in threads.map(lambda shard: check_shard(folder, shard, verify=verify), shards):
            if problem is not None:
                raise UserError(f"{problem}; delete {folder} and prepare the text again")
    return manifest


@dataclasses.dataclass(frozen=True)
class Shard:
    """A stretch of a stream, memory-mapped."""

    ids: np.ndarray
    ends: np.ndarray


class TokenStream:
    """The tokens of a split as one long array on disk; several prepared folders follow each other as its parts."""

    def __init__(self, label: str, parts: Sequence[Sequence[Shard]]):
        """Takes the shards of each part; `label` is what messages call the stream."""
        self.label = label
        self._shards = [shard for part in parts for shard in part]
        self._starts = np.cumsum([0, *(len(shard.ids) for shard in self._shards)])
        bounds = np.cumsum([0, *(sum(len(shard.ids) for shard in part) for part in parts)])
        self.parts = [(int(start), int(stop)) for start, stop in itertools.pairwise(bounds)]
        """First token and end of each part."""

    def __len__(self) -> int:
        return int(self._starts[-1])

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Returns the ids at start .. stop - 1, int32; raises IndexError beyond the stream."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start} to {stop} of {len(self)}")
        return self.rows(np.array([start]), stop - start)[0]

    def rows(self, starts_R: np.ndarray, length: int) -> np.ndarray:
        """Returns the ids of equally long stretches, ids_RL int32; 0 beyond the end of the stream."""
        ids_RL = np.zeros((len(starts_R), length), np.int32)
        for shard, first, rows in self._touched(starts_R, length):
            low_R = starts_R[rows] - first
            inside = (low_R >= 0) & (low_R + length <= len(shard.ids))
            ids_RL[rows[inside]] = shard.ids[low_R[inside, None] + np.arange(length)]
            for row, low in zip(rows[~inside], low_R[~inside].tolist(), strict=True):
                part = shard.ids[max(low, 0) : low + length]
                ids_RL[row, max(-low, 0) : max(-low, 0) + len(part)] = part
        return ids_RL

    def borders(self, starts_R: np.ndarray, length: int) -> np.ndarray:
        """Returns for the same stretches where a document starts behind another, borders_RL bool, column 0 never."""
        borders_RL = np.zeros((len(starts_R), length), bool)
        for shard, first, rows in self._touched(starts_R, length):
            low_R = starts_R[rows] - first
            begins = np.searchsorted(shard.ends, low_R, side="right").tolist()
            stops = np.searchsorted(shard.ends, low_R + length - 1, side="right").tolist()
            for row, low, begin, stop in zip(rows, low_R, begins, stops, strict=True):
                borders_RL[row, shard.ends[begin:stop] - low] = True
        return borders_RL

    def _touched(self, starts_R: np.ndarray, length: int) -> Iterator[tuple[Shard, int, np.ndarray]]:
        """Yields each shard that a stretch lies in or reaches into, its first token, and the rows that do."""
        low_R = np.searchsorted(self._starts, starts_R, side="right") - 1
        high_R = np.minimum(np.searchsorted(self._starts, starts_R + length, side="left"), len(self._shards))
        touched = set().union(*(range(low, high) for low, high in zip(low_R.tolist(), high_R.tolist(), strict=True)))
        for index in sorted(touched):
            rows = np.flatnonzero((low_R <= index) & (index < high_R))
            yield self._shards[index], int(self._starts[index]), rows


def open_shards(folder: Path, manifest: Mapping[str, Any], split: str) -> list[Shard]:
    """Maps the shards of a split into memory."""
    dtype = np.dtype(manifest["dtype"])
    shards = []
    for shard in manifest["splits"][split]["shards"]:
        tokens, ends = shard["files"]
        shards.append(Shard(_mapped(folder / tokens, dtype), _mapped(folder / ends, ENDS_DTYPE)))
    return shards


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    if path.stat().st_size == 0:  # no document ends in this shard
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype, mode="r"))
