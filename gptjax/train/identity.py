"""Whether a checkpoint belongs to the run that is asked for."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptjax.data.tokenizer import Tokenizer
from gptjax.train.checkpoint import Checkpoints
from gptjax.train.workdir import Workdir
from gptjax.types import UserError


def refuse_other_run(
    saved: Mapping[str, Any],
    asked: Mapping[str, Any],
    defaults: Mapping[str, Any],
    path: Path,
    allow_change: Sequence[str],
) -> None:
    """Raises UserError, naming each differing option, where a saved identity is not the one asked for.

    An option that was not there when the identity was saved had its default. Options in `allow_change` may differ; an
    unknown one there is an error too.
    """
    saved = {**{name: defaults[name] for name in asked.keys() & defaults.keys()}, **saved}
    for name in allow_change:
        if name not in asked and name not in saved:
            near = difflib.get_close_matches(name, asked, n=1)
            raise UserError(f"--allow_change={name} names no option{f'; did you mean {near[0]}?' if near else ''}")
    differing = [
        name
        for name in sorted(saved.keys() | asked.keys())
        if saved.get(name) != asked.get(name) and name not in allow_change
    ]
    if differing:
        lines = [f"  {name}: {saved.get(name)!r} there, {asked.get(name)!r} here" for name in differing]
        flags = " ".join(f"--allow_change={name}" for name in differing)
        raise UserError(
            f"{path} holds another run ({len(differing)} option{' differs' if len(differing) == 1 else 's differ'}); "
            f"choose another --workdir=DIR, or continue it all the same with {flags}\n" + "\n".join(lines)
        )


def refuse_foreign_tokenizer(tokenizer: Tokenizer, checkpoints: Checkpoints, step: int, workdir: Workdir) -> None:
    """Raises UserError where a checkpoint was trained with another tokenizer."""
    if tokenizer.fingerprint != checkpoints.meta(step)["tokenizer"]:
        raise UserError(
            f"the tokenizer at hand is not the tokenizer that {workdir.path} was trained with; restore "
            f"{workdir.tokenizer}, or set data.tokenizer.name=saved and data.tokenizer.path={workdir.path}"
        )


def refuse_other_classes(
    classes: Mapping[str, Sequence[str]], checkpoints: Checkpoints, step: int, workdir: Workdir
) -> None:
    """Raises UserError where the outputs of a task's classifier stood for something else when it was trained."""
    saved = checkpoints.meta(step).get("classes", {})
    for name, here in classes.items():
        if name in saved and list(here) != saved[name]:
            there = "(" + ", ".join(map(repr, saved[name])) + ",)"
            raise UserError(
                f"the classifier of {name} in {workdir.path} was trained for other labels, or in another order; set "
                f"tasks.{name}.labels={there}, or give the file it learned from as tasks.{name}.train"
            )
