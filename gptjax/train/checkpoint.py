"""Checkpoints through Orbax: asynchronous, atomic, restorable onto any mesh. The only file that knows Orbax.

A checkpoint N is the state after N batches, in four items: params, opt_state, data (the cursor) and meta. Where the
optimiser keeps an average there is a fifth, evaluation_params, so that nobody has to know the optimiser to use it.
"""

import contextlib
import functools
import json
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from gptjax.optim.masks import path_of
from gptjax.train.state import TrainState
from gptjax.train.workdir import Workdir
from gptjax.types import Params, UserError

METRIC = "criterion"
AVERAGE = "evaluation_params"


class Checkpoints:
    """The committed checkpoints of a workdir: the latest ones and the best, that with the least criterion."""

    def __init__(self, directory: Path, *, keep: int = 1, read_only: bool = False):
        """Opens (and, unless read_only, creates) the directory; what an interrupted save left is swept away."""
        self._directory = directory.absolute()
        _silence_orphans()
        best = BestN(get_metric_fn=_metric, reverse=True, n=1, keep_checkpoints_without_metrics=False)
        try:
            self._manager = ocp.CheckpointManager(
                self._directory,
                options=ocp.CheckpointManagerOptions(
                    # best_fn makes Orbax store the metrics, so that the best is still known after a restart.
                    best_fn=_metric,
                    best_mode="min",
                    preservation_policy=AnyPreservationPolicy([LatestN(keep), best]),
                    create=not read_only,
                    cleanup_tmp_directories=not read_only,
                    read_only=read_only,
                ),
            )
        except json.JSONDecodeError as error:  # it reads the metrics of all checkpoints
            raise UserError(
                f"the metrics of a checkpoint in {self._directory} are damaged ({error}); remove the folder of its step"
            ) from error

    def steps(self) -> list[int]:
        """Returns the steps of all committed checkpoints, in order."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """Returns the last committed step, or None."""
        return max(self.steps(), default=None)

    def best(self) -> tuple[int, float] | None:
        """Returns the step with the least criterion and that criterion, or None where no checkpoint has one."""
        measured = [(self._manager.metrics(step), step) for step in self.steps()]
        known = [(_metric(metrics), step) for metrics, step in measured if metrics]
        if not known:
            return None
        criterion, step = min(known)
        return step, criterion

    def save(self, state: TrainState, step: int, cursor: int, meta: dict[str, Any], criterion: float | None) -> None:
        """Starts to save, and returns once the state may be donated; raises UserError where the disk refuses."""
        arrays = {"params": state.params, "opt_state": state.opt_state}
        if (average := state.evaluation_params) is not state.params:
            arrays[AVERAGE] = average
        items = ocp.args.Composite(
            **{name: ocp.args.StandardSave(tree) for name, tree in arrays.items()},
            data=ocp.args.JsonSave({"cursor": cursor}),
            meta=ocp.args.JsonSave({"step": step, **meta}),
        )
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
        free = shutil.disk_usage(self._directory).free
        if free < size // jax.process_count():  # said before the disk is full: records and samples need room as well
            raise self._unsaved(f"{free / 2**20:,.1f} MiB are free, {size / 2**20:,.1f} MiB are needed")
        with self._refusals():
            self._manager.save(step, args=items, metrics=None if criterion is None else {METRIC: criterion})

    def save_params(self, params: Params, meta: dict[str, Any]) -> None:
        """Saves parameters that no run here has trained as step 0: there is no more to go on from."""
        items = ocp.args.Composite(params=ocp.args.StandardSave(params), meta=ocp.args.JsonSave({"step": 0, **meta}))
        with self._refusals():
            self._manager.save(0, args=items)
        self.wait()

    def wait(self) -> None:
        """Waits until what was started is committed; raises UserError where the disk refused."""
        with self._refusals():
            self._manager.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for a save under way and closes."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def meta(self, step: int) -> dict[str, Any]:
        """Returns what was saved beside the arrays: step, config, fingerprint, tokenizer."""
        return self._restore(step, meta=ocp.args.JsonRestore()).meta

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, int]:
        """Returns the state at a step, laid out as `abstract` says, and the data cursor."""
        items = self._restore(
            step,
            params=ocp.args.StandardRestore(abstract.params),
            opt_state=ocp.args.StandardRestore(abstract.opt_state),
            data=ocp.args.JsonRestore(),
        )
        step_array = jax.device_put(jnp.asarray(step, jnp.int32), abstract.step.sharding)
        return TrainState(step_array, items.params, items.opt_state), items.data["cursor"]

    def param_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each parameter that `restore_params` would read, by path."""
        with self._reading(step):
            tree = ocp.StandardCheckpointHandler().metadata(self._directory / str(step) / self._params_item(step)).tree
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {path_of(path): tuple(leaf.shape) for path, leaf in leaves}

    def restore_params(self, step: int, abstract: Params) -> Params:
        """Returns the parameters to evaluate, sample from or start with, laid out as `abstract` says.

        What it does not ask for is not read; the shapes must be those that were saved.
        """
        folder = self._directory / str(step) / self._params_item(step)
        args = ocp.args.PyTreeRestore(
            abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract), partial_restore=True
        )
        with self._reading(step):
            return ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(folder, args=args)

    def refuse_other_model(self, step: int, reason: str) -> NoReturn:
        """Raises UserError: the parameters of a checkpoint do not fit the model."""
        raise UserError(
            f"checkpoint {self._directory / str(step)} is of another model ({reason}); set model.* as in "
            f"{self._directory.parent / 'config.json'}, or take another checkpoint"
        )

    def _params_item(self, step: int) -> str:
        return AVERAGE if (self._directory / str(step) / AVERAGE).exists() else "params"

    def _restore(self, step: int, **items: Any) -> Any:
        with self._reading(step):
            return self._manager.restore(step, args=ocp.args.Composite(**items))

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Turns what a damaged or foreign checkpoint raises into a UserError."""
        try:
            yield
        except Exception as error:
            reason = str(error).split("\n")[0].split(". See full")[0]
            if re.search(r"(?i)requested shape|structures do not match|mismatch", str(error)):
                self.refuse_other_model(step, reason)
            others = [other for other in self.steps() if other != step]
            cure = (
                f"remove it to go on from step {max(others)}"
                if others
                else "there is no other checkpoint to go on from"
            )
            folder = self._directory / str(step)
            raise UserError(f"checkpoint {folder} cannot be read ({type(error).__name__}: {reason}); {cure}") from error

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turns what a full or forbidden disk raises into a UserError."""
        try:
            yield
        except (OSError, ValueError) as error:
            # TensorStore raises ValueError for everything; its text holds the system's error.
            code = re.search(r"os_error_code='(\d+)'", str(error))
            if not isinstance(error, OSError) and code is None:
                raise
            reason = os.strerror(int(code[1])) if code is not None else getattr(error, "strerror", None) or str(error)
            raise self._unsaved(reason) from error

    def _unsaved(self, reason: str) -> UserError:
        committed = ", ".join(map(str, self.steps())) or "none"
        return UserError(
            f"a checkpoint could not be written to {self._directory} ({reason}); committed steps: {committed}; "
            f"make room, or give permission, and run the same command again"
        )


def open_checkpoint(workdir: Workdir, which: str | int) -> tuple[Checkpoints, int]:
    """Opens a workdir's checkpoints to read one: "latest", "best" or a step; raises UserError where there is none."""
    workdir.read_config()  # says so where this is no workdir
    checkpoints = Checkpoints(workdir.checkpoints, read_only=True) if workdir.checkpoints.is_dir() else None
    steps = checkpoints.steps() if checkpoints is not None else []
    if checkpoints is None or not steps:
        raise UserError(f"{workdir.path} has no checkpoint yet; train it first")
    if which == "latest":
        return checkpoints, steps[-1]
    if which == "best":
        best = checkpoints.best()
        if best is None:
            raise UserError(f"{workdir.path} has no evaluated checkpoint; take the latest, or a step of {steps}")
        return checkpoints, best[0]
    if which not in steps:
        raise UserError(f"{workdir.path} has no checkpoint of step {which}; there are {', '.join(map(str, steps))}")
    return checkpoints, int(which)


@functools.cache  # once in a process
def _silence_orphans() -> None:
    """Silences the tasks of what Orbax could not do, which complain until the process ends that nobody waits for them.

    The error itself reaches the caller. Orbax runs them through asyncio, which serves nothing else here.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)

    before = sys.unraisablehook
    sys.unraisablehook = lambda it: None if str(it.exc_value) == "Event loop is closed" else before(it)


def _metric(metrics: dict[str, float]) -> float:
    return metrics[METRIC]
