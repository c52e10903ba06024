"""Several processes as one program: start-up from the environment, who speaks, agreeing, and ending together.

Only jax's own runtime: its coordinator's heartbeats find a process that died, and its key-value store carries words.
"""

import atexit
import contextlib
import ctypes
import importlib.util
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import absl.logging
import jax
import numpy as np
from jax._src.distributed import global_state  # where the client of the key-value store is kept

from gptjax.cache import cache_home
from gptjax.types import UserError

HEARTBEAT_SECONDS = 60
"""A process that jax has not heard of for so long is dead, and jax ends the others."""

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# How often a process asks whether another has left early. Process 0 goes last, by as long: jax aborts, with its stack,
# whoever loses the coordinator.
_POLL_SECONDS = 1.0
_LEFT = "gptjax/left/"  # below it, by number: exit code and reason of a process that ended early
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from glibc's malloc.h


def start() -> int:
    """Chooses the platform, keeps memory and compiled programs, joins the job; returns its device count.

    Raises UserError where the processes of the job were not started by the same command.
    """
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
    agree("command line", {name: value for name, _, value in (flag.partition("=") for flag in sys.argv[1:])})
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


# ---- joining a job


def join() -> None:
    """Joins the job that this process belongs to, if any: by the variables of `_described`, else as jax finds it."""
    job = _described()
    if job is None and not _in_cluster():
        return
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from us
    jax.distributed.initialize(
        *(job or ()), heartbeat_timeout_seconds=HEARTBEAT_SECONDS, shutdown_timeout_seconds=HEARTBEAT_SECONDS
    )
    _listen()


def _described() -> tuple[str, int, int] | None:
    """Returns what JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say, or None where none is set."""
    present = [name for name in _VARIABLES if name in os.environ]
    if not present:
        return None
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise UserError(f"{', '.join(present)} is set but {', '.join(missing)} is not; set all three or none")
    address = os.environ[_VARIABLES[0]]
    try:
        num_processes, process_id = int(os.environ[_VARIABLES[1]]), int(os.environ[_VARIABLES[2]])
    except ValueError:
        raise UserError(f"{_VARIABLES[1]} and {_VARIABLES[2]} must be whole numbers") from None
    if not 0 <= process_id < num_processes:
        raise UserError(f"JAX_PROCESS_ID={process_id} is not between 0 and JAX_NUM_PROCESSES={num_processes} - 1")
    port = re.fullmatch(r".+:(\d{1,5})", address)
    if port is None:
        raise UserError(f"JAX_COORDINATOR_ADDRESS={address} is no HOST:PORT; name the host of process 0, and a port")
    if process_id == 0 and _in_use(int(port[1])):
        raise UserError(f"JAX_COORDINATOR_ADDRESS={address}: port {port[1]} is in use here; choose another")
    return address, num_processes, process_id


def _in_use(port: int) -> bool:
    """Whether another program has the port: jax would crash, or share it with the coordinator of another job."""
    try:
        socket.create_server(("", port)).close()
    except OSError:
        return True
    return False


def _in_cluster() -> bool:
    """Whether jax can find out from its surroundings which job of several processes this one belongs to."""
    step = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if all(name in os.environ for name in step) and _count("SLURM_NTASKS") > 1:
        return True  # a step of srun; batch scripts and interactive shells are none
    if "OMPI_MCA_orte_hnp_uri" in os.environ and _count("OMPI_COMM_WORLD_SIZE") > 1:
        return True
    if "tpu" not in (jax.config.jax_platforms or "tpu") or not _has_tpu():
        return False
    workers = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES")
    if workers or "TPU_SKIP_MDS_QUERY" in os.environ:  # Kubernetes says who there is, and so may the user
        return "," in (workers or "") or _count("MEGASCALE_NUM_SLICES") > 1
    maker = Path("/sys/class/dmi/id/product_name")
    return maker.exists() and maker.read_text().startswith("Google")  # a Cloud TPU VM: its metadata server knows


def _count(name: str) -> int:
    return int(os.environ.get(name) or 1)


# ---- acting, agreeing and ending as one


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


def agree(what: str, options: Mapping[str, Any]) -> None:
    """Raises UserError in all processes where they have not the same options; the primary's names the differences."""
    if global_state.client is None:
        return
    client, own = global_state.client, json.dumps(options, sort_keys=True, default=str)
    client.key_value_set(f"gptjax/{what}/{jax.process_index()}", own)

    def of(process: int | str) -> str:
        # A day: one may be preparing its text. Who ends meanwhile is noticed otherwise.
        return client.blocking_key_value_get(f"gptjax/{what}/{process}", 86_400_000)

    if is_primary():
        others = {process: of(process) for process in range(1, jax.process_count())}
        different = [process for process, theirs in others.items() if theirs != own]
        client.key_value_set(f"gptjax/{what}/different", json.dumps(different))
        if different:
            here, there = json.loads(own), json.loads(others[different[0]])
            lines = [
                f"  {name}: {there.get(name, 'absent')!r} there, {here.get(name, 'absent')!r} here"
                for name in sorted(here.keys() | there.keys())
                if here.get(name, "absent") != there.get(name, "absent")
            ]
            raise UserError(
                f"the {what} of process {', '.join(map(str, different))} is not that of process 0; start all processes "
                f"of a job with the same command, code and text\n" + "\n".join(lines)
            )
    elif json.loads(of("different")):
        raise UserError(f"the processes differ in their {what}; process 0 says where")


class AsOne(contextlib.ContextDecorator):
    """Lets no process end early alone: all end with its exit code, and the primary says why."""

    def __enter__(self) -> "AsOne":
        return self

    def __exit__(self, _: type | None, error: BaseException | None, __: TracebackType | None) -> None:
        if error is None or global_state.client is None:
            return
        reason = str(error).split("\n")[0]
        if isinstance(error, ValueError | jax.errors.JaxRuntimeError) and re.search("Gloo|NCCL", reason):
            time.sleep(2 * _POLL_SECONDS)  # a process that left for a reason has said it: that ends us now
            print(f"error: process {jax.process_index()} has lost another ({reason})", file=sys.stderr)
            if is_primary():
                print("start the job again: it goes on from its last checkpoint", file=sys.stderr, flush=True)
                time.sleep(_POLL_SECONDS)
            os._exit(1)
        if isinstance(error, UserError):
            left = (2, str(error))
        elif isinstance(error, SystemExit | KeyboardInterrupt):
            left = (error.code if isinstance(error, SystemExit) else 130, "it was told to stop")
        else:
            left = (1, f"{type(error).__name__}: {reason}")
        global_state.client.key_value_set(f"{_LEFT}{jax.process_index()}", json.dumps(left))


def _listen() -> None:
    """Starts the thread that ends this process, whatever it waits for, once another has left early."""
    client, own, ending = global_state.client, str(global_state.process_id), threading.Event()

    def left() -> dict[str, tuple[int, str]]:
        try:
            return {key.removeprefix(_LEFT): json.loads(value) for key, value in client.key_value_dir_get(_LEFT)}
        except jax.errors.JaxRuntimeError:
            return {}  # the coordinator is gone, and jax itself ends whoever loses it

    def leave(code: int) -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # one of the others may be dead
            client.wait_at_barrier(_LEFT, 10_000)  # until all have heard
        sys.stdout.flush()
        sys.stderr.flush()
        if own == "0":
            time.sleep(_POLL_SECONDS)
        os._exit(code)

    def listen() -> None:
        while not ending.wait(_POLL_SECONDS):
            found = left()
            # Most mistakes are found by all at once, and each then ends by itself; who waits for another cannot.
            if found and not ending.wait(HEARTBEAT_SECONDS if own in found else _POLL_SECONDS):
                process, (code, reason) = min(found.items())
                if own == "0":
                    print(f"error: process {process} has ended the job: {reason}", file=sys.stderr)
                leave(code)

    thread = threading.Thread(target=listen, name="listener", daemon=True)
    thread.start()

    def stop() -> None:
        ending.set()
        thread.join()
        found = left()
        if found:
            leave(found.get(own, min(found.values()))[0])

    atexit.register(stop)  # and so called before jax waits for all to leave in order
