"""Start-up from the environment, and who acts; two real processes are in tests/integration/test_meshes.py."""

import importlib.util
import os
import platform
import statistics
import subprocess
import sys

import absl.logging
import jax
import pytest

from gptjax import distributed
from gptjax.types import UserError

COORDINATOR, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
SETTINGS = ("jax_platforms", "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture(autouse=True)
def joined(monkeypatch):
    """An environment without a job; gives the arguments of each call of jax.distributed.initialize."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments: calls.append(arguments))
    for name in (COORDINATOR, COUNT, NUMBER):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with an empty /dev and jax's own settings, which come back afterwards; gives the root of its files."""
    before, verbosity = {name: getattr(jax.config, name) for name in SETTINGS}, absl.logging.get_verbosity()
    jax.config.update("jax_platforms", None)
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("GPTJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(distributed, "Path", lambda path: tmp_path / path.removeprefix("/"))
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)
    absl.logging.set_verbosity(verbosity)


def set_all(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


# ---- joining a job


def test_the_variables_reach_jax(monkeypatch, joined):
    set_all(monkeypatch, {COORDINATOR: "node0:1234", COUNT: "4", NUMBER: "3"})
    distributed.join()
    assert joined == [("node0:1234", 4, 3)]


def test_one_process_joins_nothing(joined):
    distributed.join()
    assert joined == []


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({COORDINATOR: "node0:1234"}, f"{COORDINATOR} is set but {COUNT}, {NUMBER} is not; set all three or none"),
        ({COORDINATOR: "node0:1234", NUMBER: "0"}, f"{COORDINATOR}, {NUMBER} is set but {COUNT} is not"),
        ({COORDINATOR: "node0:1234", COUNT: "two", NUMBER: "0"}, f"{COUNT} and {NUMBER} must be whole numbers"),
        ({COORDINATOR: "node0:1234", COUNT: "2", NUMBER: ""}, f"{COUNT} and {NUMBER} must be whole numbers"),
        ({COORDINATOR: "node0:1234", COUNT: "2", NUMBER: "2"}, f"{NUMBER}=2 is not between 0 and {COUNT}=2 - 1"),
        ({COORDINATOR: "node0:1234", COUNT: "2", NUMBER: "-1"}, f"{NUMBER}=-1 is not between 0"),
        ({COORDINATOR: "node0:1234", COUNT: "0", NUMBER: "0"}, f"{NUMBER}=0 is not between 0 and {COUNT}=0 - 1"),
    ],
)
def test_a_job_that_is_described_badly_is_refused(monkeypatch, joined, variables, words):
    """jax itself would wait for minutes, or fail without the variable's name."""
    set_all(monkeypatch, variables)
    with pytest.raises(UserError) as error:
        distributed.join()
    assert words in str(error.value)
    assert joined == []


# ---- start-up


def test_start_joins_and_counts_the_devices(monkeypatch, machine, joined):
    set_all(monkeypatch, {COORDINATOR: "node0:1234", COUNT: "2", NUMBER: "1"})
    assert distributed.start() == jax.device_count()
    assert joined == [("node0:1234", 2, 1)]


def test_programs_are_kept_in_the_cache_or_where_the_user_said(machine):
    distributed.start()
    assert jax.config.jax_compilation_cache_dir == str(machine / "cache" / "programs")
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    distributed.start()
    assert jax.config.jax_compilation_cache_dir == "elsewhere"


REUSE = """
import resource
import jax
import jax.numpy as jnp
from gptjax import distributed

distributed.start()
large = jax.jit(lambda x: jnp.tanh(x @ x.T) @ x)
x = jnp.ones((5_000, 8))
for _ in range(24):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    large(x).block_until_ready()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such option")
def test_freed_memory_is_used_again():
    """A program's 100 MB of temporaries are new pages, each of which costs a fault, in its first runs alone."""
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    command = [sys.executable, "-c", REUSE]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    faults = [int(line) for line in result.stdout.splitlines()]
    assert statistics.median(faults[12:]) < 1_000 < 20_000 < faults[0]


@pytest.mark.parametrize(
    ("libtpu", "devices", "environment", "platforms"),
    [
        (True, [], None, "cpu"),
        (True, ["nvidiactl"], None, "cuda,cpu"),
        (True, ["accel0"], None, None),
        (True, ["vfio/0"], None, None),
        (True, [], "tpu", None),
        (False, [], None, None),
        (False, ["nvidiactl"], None, None),
    ],
)
def test_libtpu_without_a_chip_is_not_started(monkeypatch, machine, libtpu, devices, environment, platforms):
    """It may be installed for its compiler alone; in every other case the choice is jax's (None), or the user's."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "libtpu" and libtpu else None)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    if environment is not None:
        monkeypatch.setenv("JAX_PLATFORMS", environment)
    for device in devices:
        (machine / "dev" / device).parent.mkdir(parents=True, exist_ok=True)
        (machine / "dev" / device).touch()
    distributed.start()
    assert jax.config.jax_platforms == platforms


# ---- acting as one


def test_one_process_acts_and_hears_its_own_mistake():
    done = []
    distributed.on_primary(lambda: done.append(True))
    assert done == [True]

    def refused():
        raise UserError("the folder is in use")

    with pytest.raises(UserError, match="the folder is in use"):
        distributed.on_primary(refused)


@pytest.mark.parametrize("failed", [False, True])
def test_the_other_processes_do_not_act_but_end_with_the_primary(monkeypatch, failed):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(distributed, "any_process", lambda flag: flag or failed)
    done = []
    if failed:
        with pytest.raises(UserError, match="the primary process could not start"):
            distributed.on_primary(lambda: done.append(True))
    else:
        distributed.on_primary(lambda: done.append(True))
    assert done == []
