"""A folder that is written whole or not at all."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from gptjax.types import UserError


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a folder to fill, which gets its name when all went well and is removed otherwise.

    Raises UserError where something stands there already, or the disk refuses.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"--to={path} exists and is not empty; remove it, or choose another")
    whole = path.absolute()
    partial = whole.with_name(f".{whole.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.replace(whole)
    except OSError as error:
        raise UserError(
            f"--to={path} cannot be written ({error.strerror or error}); make room, give permission, or choose another"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
