"""Where text comes from, and the corpus that a run reads: prepared in the cache the first time, found there later.

A source is a function (path, valid_fraction, *, options) -> texts and prepared folders: one, or several to mix.
"""

import dataclasses
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gptjax import registry
from gptjax.cache import cache_home
from gptjax.data import prepare
from gptjax.data.config import DataConfig
from gptjax.data.console import Console
from gptjax.data.shards import MANIFEST, TokenStream, load_manifest, open_shards
from gptjax.data.split import Text
from gptjax.data.text import expand
from gptjax.data.tokenizer import TOKENIZERS, Tokenizer, load_tokenizer
from gptjax.registry import Choice
from gptjax.types import UserError


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A folder that gptjax.prepare wrote."""

    folder: Path
    weight: float = 1.0

    @property
    def label(self) -> str:
        """What messages call it."""
        return str(self.folder)


# ---- the table


def python_stdlib(path: str | None, valid_fraction: float) -> list[Text]:
    """The source of the Python standard library this runs on, without tests and installed packages: about 12 MB."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = []
    for parent, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _NOT_STDLIB]
        files += [Path(parent, name) for name in names if name.endswith(".py")]
    if len(files) < 2:
        raise UserError(f"the source of the standard library is not in {root}; set data.path to a text of your own")
    return [Text("python_stdlib", sorted(files), valid_fraction)]


_NOT_STDLIB = {"test", "tests", "idle_test", "site-packages", "dist-packages"}


def text(path: str | None, valid_fraction: float, *, field: str = "text") -> list[Text]:
    """Your own text: a file, a glob or a folder; `field` names the text in rows of .jsonl and .parquet."""
    if path is None:
        raise UserError("'text' needs a path; set data.path to a file, a glob or a folder")
    return [Text(path, expand([path]), valid_fraction, field)]


def prepared(path: str | None, valid_fraction: float) -> list[Prepared]:
    """A folder that gptjax.prepare wrote, with its own split and tokenizer."""
    if path is None:
        raise UserError("'prepared' needs a path; set data.path to a folder that gptjax.prepare wrote")
    folder = Path(path).expanduser()
    if not (folder / MANIFEST).is_file():
        unfinished = (folder / prepare.PLAN).exists()
        cure = "run the same gptjax.prepare again to finish it" if unfinished else "gptjax.prepare writes such folders"
        raise UserError(f"{path!r} holds no {MANIFEST}; {cure}")
    return [Prepared(folder)]


def mixture(
    path: str | None,
    valid_fraction: float,
    *,
    paths: tuple[str, ...] = (),
    weights: tuple[float, ...] = (),
    field: str = "text",
) -> list[Text | Prepared]:
    """Several paths (or names of sources) by weight, equal without weights; validation reads all of their splits."""
    if path is not None:
        raise UserError(f"{path!r} is set beside source 'mixture'; give all paths as data.source.paths")
    if not paths:
        raise UserError("'mixture' needs data.source.paths, such as book.txt,python_stdlib")
    weights = weights or (1.0,) * len(paths)
    if len(weights) != len(paths):
        raise UserError(f"'mixture' has {len(paths)} paths and {len(weights)} weights; give one for each")
    if min(weights) <= 0:
        raise UserError(f"'mixture' has weight {min(weights)}; every weight is more than 0")
    parts: list[Text | Prepared] = []
    for name, weight in zip(paths, weights, strict=True):
        if name == "python_stdlib":
            found = python_stdlib(None, valid_fraction)
        else:
            found = prepared(name, valid_fraction) if is_prepared(name) else text(name, valid_fraction, field=field)
        parts += [dataclasses.replace(part, weight=weight) for part in found]
    return parts


SOURCES = {
    "python_stdlib": python_stdlib,
    "text": text,
    "prepared": prepared,
    "mixture": mixture,
}


def is_prepared(path: str) -> bool:
    """Whether a path is the work of gptjax.prepare, finished or not."""
    return any((Path(path).expanduser() / name).is_file() for name in (MANIFEST, prepare.PLAN, "train-00000.bin"))


def find(cfg: DataConfig) -> Sequence[Text | Prepared]:
    """Returns the texts that a config names, unread; raises UserError where there are none.

    A path selects the source `text`, or `prepared` for a folder that is, in place of the default.
    """
    choice = cfg.source
    if cfg.path is not None and choice.name in ("python_stdlib", "text", "prepared"):
        if is_prepared(cfg.path) or choice.name == "prepared":
            choice = Choice("prepared")
        elif choice.name != "text":
            choice = Choice("text")
    return registry.build(SOURCES, choice, cfg.path, cfg.valid_fraction)


# ---- the corpus


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Prepared text, ready to be read: one tokenizer, and a stream of tokens for each split."""

    tokenizer: Tokenizer
    fingerprint: str
    """SHA-256 of content, split, tokenizer and weights."""
    manifests: Sequence[dict[str, Any]]
    """What each part says of itself."""
    labels: Sequence[str]
    weights: Sequence[float]
    streams: dict[str, TokenStream]

    def split(self, name: str) -> TokenStream:
        """Returns the tokens of `train` or `valid`, the parts of a mixture one after the other."""
        return self.streams[name]


def load_corpus(cfg: DataConfig) -> Corpus:
    """Opens the text that a config names; what is not prepared yet is prepared into the cache, which says so."""
    from gptjax import distributed  # imports jax, which gptjax.prepare does without

    console = Console(silent=not distributed.is_primary())
    parts = find(cfg)
    root = cache_dir(cfg)
    folders = [part.folder for part in parts if isinstance(part, Prepared)]
    texts = [part for part in parts if isinstance(part, Text)]
    if folders:
        tokenizer = load_tokenizer(folders[0] / prepare.TOKENIZER)
        console.say(f"the tokenizer is that of {folders[0]} ({tokenizer.vocab_size:,} tokens)")
    else:
        tokenizer = _cached_tokenizer(cfg.tokenizer, texts, root, console)
    folders = [p.folder if isinstance(p, Prepared) else _cached_text(p, tokenizer, root, console) for p in parts]
    return open_corpus(folders, parts, verify=cfg.verify)


def tokenizer_alone(cfg: DataConfig) -> Tokenizer:
    """Returns the tokenizer of a config where no task reads text; one that learns from text does so all the same.

    Raises UserError where none was named for it.
    """
    choice = registry.resolve(TOKENIZERS, cfg.tokenizer)
    if choice.name in ("char", "bpe") and choice.kwargs.get("path") is None:
        if (cfg.path, cfg.source) != (None, Choice("python_stdlib")):
            return load_corpus(cfg).tokenizer
        raise UserError(
            f"data.tokenizer.name={choice.name!r} learns from text, and no task reads any; set data.path to a text for "
            f"it, or data.tokenizer.name=saved and data.tokenizer.path to the tokenizer/ of a run or an imported model"
        )
    return prepare.train_tokenizer(choice, [], Console(silent=True))


def open_corpus(folders: Sequence[Path], parts: Sequence[Text | Prepared], *, verify: bool) -> Corpus:
    """Opens prepared folders as one corpus; raises UserError where a file is damaged or their tokenizers differ."""
    manifests = [load_manifest(folder, verify=verify) for folder in folders]
    for folder, manifest in zip(folders, manifests, strict=True):
        if manifest["tokenizer"] != manifests[0]["tokenizer"]:
            raise UserError(f"{folder} and {folders[0]} have different tokenizers; prepare both with the same one")
    tokenizer = load_tokenizer(folders[0] / prepare.TOKENIZER)
    if tokenizer.fingerprint != manifests[0]["tokenizer"]["fingerprint"]:
        raise UserError(
            f"{folders[0] / prepare.TOKENIZER} is altered: it is not the manifest's; prepare the text again"
        )
    labels, weights = [part.label for part in parts], [part.weight for part in parts]
    identity = [[m["fingerprint"], w / sum(weights)] for m, w in zip(manifests, weights, strict=True)]
    return Corpus(
        tokenizer=tokenizer,
        fingerprint=manifests[0]["fingerprint"] if len(parts) == 1 else prepare.sha256(identity),
        manifests=manifests,
        labels=labels,
        weights=weights,
        streams={
            split: TokenStream(
                ", ".join(labels), [open_shards(f, m, split) for f, m in zip(folders, manifests, strict=True)]
            )
            for split in prepare.SPLITS
        },
    )


# ---- the cache


def cache_dir(cfg: DataConfig) -> Path:
    """Returns the folder that prepared text is kept in."""
    return cache_home() if cfg.cache_dir is None else Path(cfg.cache_dir).expanduser()


def _cached_tokenizer(choice: Choice, texts: Sequence[Text], root: Path, console: Console) -> Tokenizer:
    key = prepare.tokenizer_key(choice, texts)
    folder = _cached(
        root / "tokenizers" / key,
        lambda folder: prepare.save_tokenizer(prepare.train_tokenizer(choice, texts, console), folder),
    )
    return load_tokenizer(folder / prepare.TOKENIZER)


def _cached_text(part: Text, tokenizer: Tokenizer, root: Path, console: Console) -> Path:
    def make(folder: Path) -> None:
        prepare.save_tokenizer(tokenizer, folder)
        prepare.write_corpus(part, folder, {"text": part.identity}, console)

    return _cached(root / "corpora" / prepare.fingerprint(part, tokenizer), make)


def _cached(folder: Path, make: Callable[[Path], None]) -> Path:
    """Returns a folder of the cache, made first if it is missing; several processes may do so at once."""
    if folder.exists():
        return folder
    with prepare.writing(folder.parent):
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            make(partial)
            try:
                os.rename(partial, folder)
            except OSError:
                if not folder.exists():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder
