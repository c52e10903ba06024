"""Several processes as one program: start-up from the environment, who speaks, and agreeing. Only jax's own runtime."""

import ctypes
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import absl.logging
import jax
import numpy as np

from gptjax.cache import cache_home
from gptjax.types import UserError

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from glibc's malloc.h


def start() -> int:
    """Chooses the platform, keeps memory and compiled programs, joins the job; returns its device count."""
    has_gpu = Path("/dev/nvidiactl").exists()
    if "JAX_PLATFORMS" not in os.environ and importlib.util.find_spec("libtpu") and not _has_tpu():
        # libtpu may be installed for its compiler alone; jax would try for long to start a TPU that is not there.
        jax.config.update("jax_platforms", "cuda,cpu" if has_gpu else "cpu")
    if not (has_gpu or _has_tpu()):
        _keep_freed_memory()
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_home() / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax reports every save, and each error that it raises as well
    join()
    return jax.device_count()


def _has_tpu() -> bool:
    return any(Path("/dev").glob("accel[0-9]*")) or Path("/dev/vfio/0").exists()


def _keep_freed_memory() -> None:
    """Asks glibc to keep what is freed rather than to give it back to the system, before jax starts its threads.

    On CPUs each step allocates its activations anew, and fresh pages take up to a third of its time. Only the arena of
    the first thread holds blocks of more than 64 MB, so all threads share it, unless MALLOC_ARENA_MAX is set:
    compiling takes a quarter longer so.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if set_option is not None:
        if "MALLOC_ARENA_MAX" not in os.environ:
            set_option(_M_ARENA_MAX, 1)
        set_option(_M_MMAP_THRESHOLD, 2**30)
        set_option(_M_TRIM_THRESHOLD, 2**31 - 1)


def join() -> None:
    """Joins the job that JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID describe, if they are set."""
    present = [name for name in _VARIABLES if name in os.environ]
    if not present:
        return
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise UserError(f"{', '.join(present)} is set but {', '.join(missing)} is not; set all three or none")
    try:
        num_processes, process_id = int(os.environ[_VARIABLES[1]]), int(os.environ[_VARIABLES[2]])
    except ValueError:
        raise UserError(f"{_VARIABLES[1]} and {_VARIABLES[2]} must be whole numbers") from None
    if not 0 <= process_id < num_processes:
        raise UserError(f"JAX_PROCESS_ID={process_id} is not between 0 and JAX_NUM_PROCESSES={num_processes} - 1")
    jax.distributed.initialize(os.environ[_VARIABLES[0]], num_processes, process_id)


def is_primary() -> bool:
    """True in the one process that writes metrics and talks to the user."""
    return jax.process_index() == 0


def on_primary(action: Callable[[], None]) -> None:
    """Does something in the primary process while the others wait; a UserError there ends them all."""
    problem = None
    if is_primary():
        try:
            action()
        except UserError as error:
            problem = error
    if any_process(problem is not None):
        raise problem or UserError("the primary process could not start; its message says why")


def any_process(flag: bool) -> bool:
    """Returns whether the flag is set in any process; a collective, so all must call it."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))
