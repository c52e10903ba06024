"""Text into a prepared folder: token shards, tokenizer and manifest. Knows no jax.

An interruption changes nothing in what is written in the end: finished shards are recognised, and the text that they
hold is read again, but not tokenised again.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gptjax import registry
from gptjax.data.console import Console, size
from gptjax.data.shard_writer import ShardWriter
from gptjax.data.shards import FORMAT, MANIFEST, load_manifest, read_json, token_dtype, write_json
from gptjax.data.split import SPLITS, Text
from gptjax.data.text import Tally
from gptjax.data.tokenizer import TOKENIZERS, Tokenizer, load_tokenizer
from gptjax.data.units import tokenized, units
from gptjax.registry import Choice
from gptjax.types import UserError

SHARD_TOKENS = 1 << 26
SMALL_BYTES = 1 << 25
"""Less text than this is tokenised in the process itself: starting workers would take longer."""
PLAN = "plan.json"
TOKENIZER = "tokenizer"


def prepare(
    text: Text,
    choice: Choice,
    folder: Path,
    console: Console,
    *,
    workers: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> dict[str, Any]:
    """Prepares text into a folder and returns the manifest; goes on where an earlier call of the same was interrupted.

    Raises UserError where the folder holds anything else, the text cannot be read or the disk is full.
    """
    plan = {
        "format": FORMAT,
        "text": text.identity,
        "tokenizer": tokenizer_key(choice, [text]),
        "shard_tokens": shard_tokens,
    }
    with writing(folder), _only_one(folder):
        if (folder / MANIFEST).exists():
            manifest = load_manifest(folder, verify=False)
            _refuse_other(folder, manifest["plan"], plan, "is finished, and holds")
            console.say(f"{folder} is prepared already: {describe(manifest)}")
            return manifest
        if (folder / PLAN).exists():
            _refuse_other(folder, read_json(folder / PLAN), plan, "was begun for")
        else:
            write_json(folder / PLAN, plan)
        if not (folder / TOKENIZER).exists():
            save_tokenizer(train_tokenizer(choice, [text], console), folder)
        return write_corpus(text, folder, plan, console, workers=workers, shard_tokens=shard_tokens)


def _refuse_other(folder: Path, found: Mapping[str, Any], asked: Mapping[str, Any], what: str) -> None:
    different = [name for name in asked if found.get(name) != asked[name]]
    if different:
        names = " and ".join(
            {"text": "other text", "format": "another format"}.get(n, f"another {n}") for n in different
        )
        raise UserError(f"{folder} {what} {names}; choose another --output=DIR, or delete that folder")


def tokenizer_key(choice: Choice, texts: Sequence[Text]) -> str:
    """SHA-256 of all that decides which tokenizer `train_tokenizer` makes; what stands in files is read for it."""
    resolved = registry.resolve(TOKENIZERS, choice)
    if resolved.kwargs.get("path") is not None:
        return train_tokenizer(choice, texts, Console(silent=True)).fingerprint
    return sha256([resolved.name, dict(resolved.kwargs), [text.identity for text in texts]])


def train_tokenizer(choice: Choice, texts: Sequence[Text], console: Console) -> Tokenizer:
    """Makes the chosen tokenizer; one that learns sees the training texts (or, for its alphabet, all texts)."""
    start = time.monotonic()
    tokenizer = registry.build(
        TOKENIZERS,
        choice,
        lambda: (piece for text in texts for piece in text.texts("train")),
        lambda: (piece for text in texts for piece in text.texts(*SPLITS)),
    )
    if time.monotonic() - start > 1:
        console.say(f"trained the {choice.name} tokenizer in {time.monotonic() - start:.1f} s")
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Saves a tokenizer in a folder, whole or not at all."""
    partial = folder / f".{TOKENIZER}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer.save(partial)
    os.replace(partial, folder / TOKENIZER)


def write_corpus(
    text: Text,
    folder: Path,
    plan: Mapping[str, Any],
    console: Console,
    *,
    workers: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> dict[str, Any]:
    """Writes shards and manifest beside the tokenizer that stands in the folder; returns the manifest."""
    start = time.monotonic()
    tokenizer = load_tokenizer(folder / TOKENIZER)
    dtype = token_dtype(tokenizer.vocab_size)
    if workers is None:
        workers = 1 if text.size_on_disk < SMALL_BYTES else len(os.sched_getaffinity(0))
    writers = {split: ShardWriter(folder, split, dtype, shard_tokens) for split in SPLITS}
    with (
        console.progress(f"preparing {text.label}", None if text.is_packed else text.size_on_disk) as advance,
        tokenized(folder / TOKENIZER, tokenizer, workers) as tokens_of,
    ):
        for split, writer in writers.items():
            if writer.finished:
                continue
            tally = Tally()
            for tokens in tokens_of(units(text.pieces(split, tally)), writer.next_unit):
                writer.write(tokens)
                advance(tokens.counts["bytes"])
            writer.finish({str(file): count for file, count in tally.replaced.items()})
    # One file is read for both splits, and for the second one to its end: the later count is the whole one.
    replaced = writers["train"].replaced | writers["valid"].replaced
    for file, count in replaced.items():
        console.warn(f"{file}: {count:,} bytes are no UTF-8 and were replaced by U+FFFD")
    manifest = {
        "format": FORMAT,
        "fingerprint": fingerprint(text, tokenizer),
        "plan": plan,
        "tokenizer": {"vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint},
        "dtype": dtype.str,
        "replaced_bytes": sum(replaced.values()),
        "splits": {split: writer.summary() for split, writer in writers.items()},
    }
    _refuse_empty(text, manifest)
    write_json(folder / MANIFEST, manifest)
    (folder / PLAN).unlink(missing_ok=True)
    for writer in writers.values():
        writer.forget()
    console.say(f"prepared {text.label} in {time.monotonic() - start:.1f} s: {describe(manifest)}")
    return manifest


def fingerprint(text: Text, tokenizer: Tokenizer) -> str:
    """SHA-256 of content, split and tokenizer."""
    return sha256([FORMAT, text.identity, tokenizer.fingerprint])


def sha256(content: Any) -> str:
    """Hashes lists, numbers and texts by their JSON."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def describe(manifest: Mapping[str, Any]) -> str:
    """Returns what a manifest counts, in words."""
    train, valid = (manifest["splits"][split] for split in SPLITS)
    return (
        f"{train['tokens']:,} training and {valid['tokens']:,} validation tokens of "
        f"{size(train['bytes'] + valid['bytes'])} in {train['documents'] + valid['documents']:,} documents"
    )


def _refuse_empty(text: Text, manifest: Mapping[str, Any]) -> None:
    for split, title in zip(SPLITS, ("training", "validation"), strict=True):
        if manifest["splits"][split]["tokens"] == 0:
            num_chars = sum(manifest["splits"][split]["characters"] for split in SPLITS)
            cure = f"the {title} split is left without any; add text or change data.valid_fraction"
            raise UserError(f"{text.label} holds {num_chars:,} characters{f': {cure}' if num_chars else '; add text'}")


# ---- the disk


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Makes a folder, and turns what the operating system has against writing there into a UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        cure = "make room, or choose another folder" if error.errno in _FULL else "choose another folder"
        raise UserError(f"{folder} cannot be written ({error.strerror or error}); {cure}") from None


_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Holds a folder for this process; the lock ends with the process, however it ends."""
    found = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    if found and not {PLAN, MANIFEST} & set(found):
        raise UserError(f"{folder} holds other files ({found[0]}); choose another --output=DIR")
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(f"another process is preparing {folder}; wait for it, or choose another --output=DIR") from None
    finally:
        os.close(lock)
