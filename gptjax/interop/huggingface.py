"""Folders as `transformers` writes them: config.json, safetensors in one file or in shards, and a tokenizer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.data import bpe
from gptjax.data.tokenizer import END_OF_TEXT, Tokenizer
from gptjax.interop import safetensors
from gptjax.interop.pretrained import Pretrained
from gptjax.types import UserError

CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""How files that run code when they are loaded usually end."""


class HuggingFaceModel(Pretrained):
    """A model in such a folder; opening reads the config and the headers of the weights."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.source = str(folder)
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}")
        self.config = read_json(folder / CONFIG)
        self._entries: dict[str, safetensors.Entry] = {}
        for file, names in self._files().items():
            header = safetensors.read_header(file)
            if names is not None and (missing := names - header.keys()):
                raise UserError(
                    f"{folder / INDEX} says that {file.name} holds {sorted(missing)[0]!r:.80}, which it does not; "
                    f"get both again"
                )
            self._entries |= header if names is None else {name: header[name] for name in names}

    def names(self) -> frozenset[str]:
        """Returns the names of all tensors."""
        return frozenset(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape that the header gives."""
        return self._entries[name].shape

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor in float32."""
        return safetensors.read_tensor(name, self._entries[name])

    def tokenizer(self) -> Tokenizer:
        """Returns the tokenizer, with the special tokens and the chat template that the files beside it name."""
        eos, bos = self._special("eos"), self._special("bos")
        special = [token for token in (END_OF_TEXT, eos, bos) if token is not None]
        begins = bos if self._begins() else None
        return bpe.read(self._folder, special, eos=eos, bos=begins, chat_template=self._template())

    def _files(self) -> dict[Path, set[str] | None]:
        """Returns the files of the weights, and of shards which tensors the index expects there."""
        index = self._folder / INDEX
        if (single := self._folder / WEIGHTS).is_file() and not index.is_file():
            return {single: None}
        if not index.is_file():
            raise UserError(f"{self._folder} holds no {WEIGHTS}{pickles(self._folder)}")
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
            raise UserError(f"{index} has no weight_map of names to files; get it again")
        files: dict[Path, set[str] | None] = {}
        for name, file in weight_map.items():
            names = files.setdefault(self._folder / file, set())
            assert names is not None
            names.add(name)
        present = {file.name for file in self._folder.iterdir()}
        for file in files:
            if file.parent != self._folder or file.name not in present:
                raise UserError(f"{index} names {file.name:.80}, which is not in {self._folder}; get it again")
        return files

    def _optional(self, name: str) -> Mapping[str, Any]:
        return read_json(self._folder / name) if (self._folder / name).is_file() else {}

    def _special(self, role: str) -> str | None:
        """Returns the token that ends (eos) or begins (bos) a text, by the files in the order of `transformers`."""
        for name in (TOKENIZER, "special_tokens_map.json"):
            token = self._optional(name).get(f"{role}_token")
            if isinstance(token, dict):
                token = token.get("content")
            if isinstance(token, str):
                return token
        added = self._optional("tokenizer.json").get("added_tokens")
        names = {token["id"]: token.get("content") for token in _dicts(added) if isinstance(token.get("id"), int)}
        for name in (GENERATION, CONFIG):
            ids = self._optional(name).get(f"{role}_token_id")
            first = ids[0] if isinstance(ids, list) and ids else ids
            if isinstance(first, int) and isinstance(names.get(first), str):
                return names[first]
        return None

    def _template(self) -> str | None:
        """Returns how conversations are written, where a file says so."""
        if (file := self._folder / "chat_template.jinja").is_file():
            return _read(file)
        template = self._optional(TOKENIZER).get("chat_template")
        if isinstance(template, list):  # several, by name
            found = (choice for choice in _dicts(template) if choice.get("name") == "default")
            template = next(found, {}).get("template")
        return template if isinstance(template, str) else None

    def _begins(self) -> bool:
        """Whether a text begins with a token of its own, as the tokenizer's files say in one of two ways."""
        said = self._optional(TOKENIZER).get("add_bos_token")
        if isinstance(said, bool):
            return said
        processor = self._optional("tokenizer.json").get("post_processor")
        steps = _dicts([processor]) + _dicts(processor.get("processors") if isinstance(processor, dict) else None)
        return any("SpecialToken" in first for step in steps for first in _dicts(step.get("single"))[:1])


def _dicts(values: Any) -> list[dict]:
    """Returns the objects of a list, none of what is no list."""
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file; raises UserError where there is none, or it is damaged."""
    text = _read(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({error}); get it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object; get it again")
    return value


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}); get it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); get it again") from None


def pickles(folder: Path) -> str:
    """Says, behind what a folder lacks, what else it should be, or that a pickle is not loaded."""
    found = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if not found:
        return "; it should be a folder that `save_pretrained` wrote"
    return f", and {found[0]} is a pickle: {PICKLE_REFUSED}"


PICKLE_REFUSED = (
    "loading one runs whatever code it holds, so none is ever loaded here; take the model's safetensors, or write them "
    "where you trust the file: AutoModelForCausalLM.from_pretrained(...).save_pretrained(DIR)"
)
