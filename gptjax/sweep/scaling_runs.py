"""The runs that a scaling law is fitted to: sizes, tokens and final losses, out of workdirs or a file.

A run that does not count is kept by name with the reason. Runs that no one law describes are an error.
"""

import csv
import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptjax import config
from gptjax.config import ExperimentConfig
from gptjax.data.tokenizer import load_tokenizer
from gptjax.experiment import sized
from gptjax.model import accounting
from gptjax.model.config import ModelConfig
from gptjax.registry import did_you_mean
from gptjax.train.checkpoint import open_checkpoint
from gptjax.train.metrics import read_rows
from gptjax.train.workdir import Workdir
from gptjax.types import UserError

COLUMNS = ("params", "tokens", "loss")
MIN_RUNS = 15
"""Three for each coefficient: with fewer, resamples are too alike for their spread to say anything."""
MIN_DISTINCT = 3
"""Sizes and lengths: a term with a constant and an exponent beside E has three unknowns."""
MAX_CORRELATION = 0.99
"""Of log N and log D, in absolute value: beyond it, what one term explains so does the other."""
MAY_DIFFER = frozenset(
    {
        "seed",
        "data.batch_size",
        *(f"model.{name}" for name in ("d_ff", "d_head", "d_model", "num_heads", "num_kv_heads", "num_layers")),
        *(f"optim.{name}" for name in ("num_steps", "peak_lr", "warmup_steps")),
    }
)
"""Options that a sweep over size and length changes; all others have to be the same in all runs."""
ALSO_SAME = ("evaluation.num_windows",)
"""Options that are no part of a run's identity and change what its validation loss means."""
COUNTS = {
    "total": "every trained parameter, embeddings included",
    "non_embedding": "parameters without the embeddings of tokens and positions and without an output projection",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One point of the law."""

    name: str
    params: float
    tokens: float
    loss: float


@dataclasses.dataclass(frozen=True)
class Excluded:
    """A run that does not count."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Runs:
    """What a law is fitted to, and what was left out."""

    source: str
    counted: str
    """How parameters were counted, in words."""
    runs: tuple[Run, ...]
    excluded: tuple[Excluded, ...]
    notes: tuple[str, ...] = ()

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns params, tokens and loss by run."""
        params, tokens, loss = (np.array([getattr(run, name) for run in self.runs], np.float64) for name in COLUMNS)
        return params, tokens, loss

    def require_enough(self) -> None:
        """Raises UserError where five coefficients cannot be told from these runs."""
        params, tokens, _ = self.arrays()
        problems = []
        if len(self.runs) < MIN_RUNS:
            problems.append(f"{len(self.runs)} runs can be used and {MIN_RUNS} are needed; train more")
        for what, values in (("sizes", params), ("numbers of tokens", tokens)):
            if (distinct := len(np.unique(values))) < MIN_DISTINCT:
                problems.append(f"there are {distinct} distinct {what} and {MIN_DISTINCT} are needed; vary them more")
        if not problems and abs(r := np.corrcoef(np.log(params), np.log(tokens))[0, 1]) > MAX_CORRELATION:
            problems.append(
                f"tokens follow parameters (their logs correlate by {r:.3f}), so that what each does cannot be told "
                f"apart; train some sizes on more tokens and some on fewer"
            )
        if problems:
            problems += [f"{row.name} is left out: {row.reason}" for row in self.excluded]
            raise UserError.join(f"{self.source} does not determine a law", problems)


def problem(params: Any, tokens: Any, loss: Any) -> str | None:
    """Says in words why three values are no point of a law, or None where they are."""
    for name, value in zip(COLUMNS, (params, tokens, loss), strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            return f"{name}={value!r} is no positive number"
    return None


# ---- out of a file


def read_file(path: Path) -> Runs:
    """Returns the runs of a CSV or JSONL file; a row that is no point is excluded by its line's number."""
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if path.suffix not in readers:
        raise UserError(f"--data={path} is neither .csv nor .jsonl; write rows of {', '.join(COLUMNS)}")
    try:
        rows = list(readers[path.suffix](path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise UserError(f"--data={path} cannot be read ({error.strerror}); correct it") from None
    except UnicodeDecodeError:
        raise UserError(f"--data={path} is not UTF-8; write it as a text of rows of {', '.join(COLUMNS)}") from None
    runs, excluded = [], []
    known: dict[tuple[Any, ...], int] = {}
    for number, row in rows:
        if isinstance(row, str):
            excluded.append(Excluded(f"line {number}", row))
            continue
        for name in COLUMNS:
            if name not in row:
                raise UserError(f"--data={path}, line {number}: there is no {name!r}; {did_you_mean(name, row)}")
        values = [_number(row[name]) for name in COLUMNS]
        reason = problem(*values)
        if reason is None and known.setdefault(tuple(values), number) != number:
            reason = f"it is the same as line {known[tuple(values)]}"
        if reason is None:
            runs.append(Run(f"line {number}", *map(float, values)))
        else:
            excluded.append(Excluded(f"line {number}", reason))
    return Runs(str(path), "as the file counts them", tuple(runs), tuple(excluded))


def _csv_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    for row in reader:
        yield reader.line_num, {name: value for name, value in row.items() if name is not None}


def _jsonl_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            row = _json(line)
            yield number, row if isinstance(row, dict) else "it is no JSON object"


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _number(value: Any) -> Any:
    """A CSV holds texts; what is no number stays as it is, to be named."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


# ---- out of workdirs


def read_sweep(folder: Path, count: str) -> Runs:
    """Returns the finished runs among the subfolders; raises UserError where they differ in more than their size.

    Parameters are counted by `count`, a key of COUNTS; tokens are those seen by the last step, repeated ones too.
    """
    if count not in COUNTS:
        raise UserError(f"--params={count} is no way to count; {did_you_mean(count, COUNTS)}")
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; --workdir takes the one that holds the runs of a sweep")
    workdirs = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not workdirs:
        raise UserError(f"{folder} holds no runs; --workdir takes the folder above those of the runs")
    runs, excluded, identities = [], [], {}
    for path in workdirs:
        try:
            run, identities[path.name] = _read_run(Workdir(path), count)
            runs.append(run)
        except UserError as error:
            excluded.append(Excluded(path.name, str(error)))
    _require_same(str(folder), {run.name: identities[run.name] for run in runs})
    unknown = [run.name for run in runs if identities[run.name]["the text"] is None]
    notes = [f"{_names(unknown)} kept no checkpoint, which would say what text they learnt"] if unknown else []
    return Runs(str(folder), COUNTS[count], tuple(runs), tuple(excluded), tuple(notes))


def _read_run(workdir: Workdir, count: str) -> tuple[Run, dict[str, Any]]:
    """Returns a finished run and what it has to share with the others; raises UserError with why it does not count."""
    cfg = config.from_config_dict(workdir.read_config(), str(workdir.config))
    for option in ("init_from", "resume_from"):
        if (other := getattr(cfg.checkpoint, option)) is not None:
            raise UserError(f"it started from another run (checkpoint.{option}={other!r})")
    row = _last_evaluation(workdir.metrics, cfg.optim.num_steps)
    tokenizer = load_tokenizer(workdir.tokenizer)
    params = num_params(sized(cfg.model, tokenizer), count)
    reason = problem(params, row["tokens_seen"], row["loss"])
    if reason is not None:
        raise UserError(f"at its last step {reason}")
    identity = {
        **shared(cfg),
        "the tokenizer": tokenizer.fingerprint,
        "the text": _text(workdir),
    }
    return Run(workdir.path.name, float(params), float(row["tokens_seen"]), float(row["loss"])), identity


def _last_evaluation(path: Path, num_steps: int) -> dict[str, Any]:
    if not path.is_file():
        raise UserError("it has no metrics.jsonl")
    rows = read_rows(path)
    step = max((row["step"] for row in rows), default=0)
    if step != num_steps:
        raise UserError(f"it is not finished: step {step:,} of {num_steps:,}")
    last = [row for row in rows if (row["split"], row["step"]) == ("valid", num_steps)]
    if not last:
        raise UserError(f"metrics.jsonl holds no evaluation of the last step, {num_steps:,}")
    return last[-1]


def num_params(cfg: ModelConfig, count: str) -> int:
    """Returns the number of parameters of a sized model, counted by a key of COUNTS."""
    if count == "total":
        return accounting.num_params(cfg)
    rows = accounting.parameter_table(cfg)
    return sum(row.count for row in rows if "vocab" not in row.names and not row.path.startswith("positions/"))


def _text(workdir: Workdir) -> str | None:
    """The fingerprint of the text that a run learnt, which its checkpoints know; None where it kept none."""
    try:
        checkpoints, step = open_checkpoint(workdir, "latest")
    except UserError:
        return None
    with checkpoints:
        return checkpoints.meta(step)["fingerprint"]["data.fingerprint"]


def shared(cfg: ExperimentConfig) -> dict[str, Any]:
    """Returns the options that all runs of a law have to share."""
    whole = config.flatten(config.to_plain(cfg))
    kept = [path for path in config.fingerprint(cfg) if path not in MAY_DIFFER]
    return {path: whole[path] for path in (*kept, *ALSO_SAME)}


def _require_same(source: str, identities: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises UserError with every option in which runs differ, and which runs have which value."""
    problems = []
    for path in sorted({path for identity in identities.values() for path in identity}):
        holders: dict[str, list[str]] = {}
        for name, identity in identities.items():
            value = identity.get(path)
            if path != "the text" or value is not None:
                holders.setdefault(repr(value), []).append(name)
        if len(holders) > 1:
            values = "; ".join(f"{value} in {_names(names)}" for value, names in holders.items())
            problems.append(f"{path} differs: {values}")
    if problems:
        cure = "keep each kind in a folder of its own"
        raise UserError("\n  ".join([f"{source} mixes runs that no one law describes; {cure}", *problems]))


def _names(names: Sequence[str] | Iterable[str], most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
