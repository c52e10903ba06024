"""Start-up from the environment, who acts, and ending as one; real processes are in tests/integration."""

import importlib.util
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time

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
    calls, before = [], jax.config.jax_enable_preemption_service
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments, **times: calls.append(arguments))
    monkeypatch.setattr(distributed, "_listen", lambda: None)
    for name in list(os.environ):
        if name.startswith(("JAX_C", "JAX_N", "JAX_PROCESS", "SLURM_", "OMPI_", "TPU_", "MEGASCALE_")):
            monkeypatch.delenv(name)
    yield calls
    jax.config.update("jax_enable_preemption_service", before)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with an empty /dev and jax's own settings, which come back afterwards; gives the root of its files."""
    jax.devices()  # chosen before the settings are: libtpu may be installed for its compiler alone
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
        ({COORDINATOR: "node0", COUNT: "2", NUMBER: "0"}, f"{COORDINATOR}=node0 is no HOST:PORT"),
    ],
)
def test_a_job_that_is_described_badly_is_refused(monkeypatch, joined, variables, words):
    """jax itself would wait for minutes, or fail without the variable's name."""
    set_all(monkeypatch, variables)
    with pytest.raises(UserError) as error:
        distributed.join()
    assert words in str(error.value)
    assert joined == []


def test_a_port_in_use_is_refused(monkeypatch, joined):
    """jax itself would crash, or meet the processes of another job there."""
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        set_all(monkeypatch, {COORDINATOR: f"node0:{port}", COUNT: "2", NUMBER: "0"})
        with pytest.raises(UserError, match=f"port {port} is in use here; choose another"):
            distributed.join()
        monkeypatch.setenv(NUMBER, "1")  # the port is process 0's alone
        distributed.join()
    assert joined == [(f"node0:{port}", 2, 1)]


SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[1-4]", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
OPEN_MPI = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911", "OMPI_COMM_WORLD_RANK": "1"}
CLOUD, KUBERNETES = "sys/class/dmi/id/product_name", {"TPU_WORKER_ID": "0"}


@pytest.mark.parametrize(
    ("variables", "chip", "found"),
    [
        ({**SLURM, "SLURM_NTASKS": "8"}, False, True),
        ({**SLURM, "SLURM_NTASKS": "1"}, False, False),  # a shell by `srun --pty`
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, False, False),  # a batch script
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "2"}, False, True),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"}, False, False),
        ({**KUBERNETES, "TPU_WORKER_HOSTNAMES": "job-0-0.gptjax,job-0-1.gptjax"}, True, True),
        ({**KUBERNETES, "TPU_WORKER_HOSTNAMES": "job-0-0.gptjax"}, True, False),
        ({**KUBERNETES, "TPU_WORKER_HOSTNAMES": "job-0-0.gptjax", "MEGASCALE_NUM_SLICES": "2"}, True, True),
        ({**KUBERNETES, "TPU_PROCESS_ADDRESSES": "a:8476,b:8476"}, True, True),
        ({**KUBERNETES, "TPU_WORKER_HOSTNAMES": "a,b"}, False, False),
        ({**KUBERNETES, "TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, True, False),
        ({}, True, True),  # a Cloud TPU VM: only its metadata server knows how many there are
        ({"TPU_SKIP_MDS_QUERY": "1"}, True, False),
        ({"JAX_PLATFORMS": "cpu"}, True, False),
        ({}, False, False),
    ],
)
def test_jax_joins_by_itself_where_a_cluster_has_started_several(monkeypatch, machine, joined, variables, chip, found):
    """And never where this is one process, however much of a cluster is around it."""
    set_all(monkeypatch, variables)
    jax.config.update("jax_platforms", variables.get("JAX_PLATFORMS"))  # jax reads it when it is imported
    for path, text in ((CLOUD, "Google Compute Engine\n"), ("dev/vfio/0" if chip else "dev/null", "")):
        (machine / path).parent.mkdir(parents=True, exist_ok=True)
        (machine / path).write_text(text)
    distributed.join()
    assert joined == ([()] if found else [])


def test_a_chip_elsewhere_has_no_metadata_server(machine, joined):
    (machine / "dev/vfio").mkdir(parents=True)
    (machine / "dev/vfio/0").touch()
    distributed.join()
    assert joined == []


def test_the_three_variables_come_before_what_the_cluster_says(monkeypatch, joined):
    set_all(monkeypatch, {**SLURM, "SLURM_NTASKS": "8", COORDINATOR: "node0:1234", COUNT: "2", NUMBER: "1"})
    distributed.join()
    assert joined == [("node0:1234", 2, 1)]


def test_sigterm_stays_ours(monkeypatch, joined):
    """jax's own service for preemptions would catch it first, and a process would not end before its first step."""
    set_all(monkeypatch, {COORDINATOR: "node0:1234", COUNT: "2", NUMBER: "1"})
    distributed.join()
    assert not jax.config.jax_enable_preemption_service


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


class Store:
    """What jax's key-value store does, for processes that are calls one after the other."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value):
        self.values[key] = value

    def blocking_key_value_get(self, key, _):
        return self.values[key]


@pytest.fixture
def store(monkeypatch):
    """A job of three processes; `act_as` in it says which of them this is."""
    store = Store()
    monkeypatch.setattr(distributed.global_state, "client", store)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    store.act_as = lambda number: monkeypatch.setattr(jax, "process_index", lambda: number)
    return store


def test_one_process_agrees_with_itself():
    distributed.agree("command line", {"--seed": "1"})


def test_processes_that_agree_go_on(store):
    for number in (1, 2):
        store.values[f"gptjax/experiment/{number}"] = '{"seed": 1, "steps": [2, 3]}'
    for number in (0, 1, 2):
        store.act_as(number)
        distributed.agree("experiment", {"steps": (2, 3), "seed": 1})


def test_process_0_names_who_differs_and_in_what(store):
    for number, seed in ((1, 1), (2, 5)):
        store.values[f"gptjax/experiment/{number}"] = f'{{"path": "a", "seed": {seed}}}'
    store.act_as(0)
    with pytest.raises(UserError) as error:
        distributed.agree("experiment", {"path": "a", "seed": 1})
    first, *lines = str(error.value).split("\n")
    assert first.startswith("the experiment of process 2 is not that of process 0; ")
    assert lines == ["  seed: 5 there, 1 here"]
    for number, seed in ((1, 1), (2, 5)):
        store.act_as(number)
        with pytest.raises(UserError, match="the processes differ in their experiment; process 0 says where"):
            distributed.agree("experiment", {"path": "a", "seed": seed})


@pytest.mark.parametrize(
    ("error", "record"),
    [
        (UserError("no room"), [2, "no room"]),
        (SystemExit(143), [143, "it was told to stop"]),
        (KeyboardInterrupt(), [130, "it was told to stop"]),
        (ZeroDivisionError("by zero\nand more"), [1, "ZeroDivisionError: by zero"]),
    ],
)
def test_a_process_that_ends_early_tells_the_others_why(store, error, record):
    store.act_as(1)
    with pytest.raises(type(error)), distributed.AsOne():
        raise error
    assert json.loads(store.values["gptjax/left/1"]) == record


def test_a_process_that_ends_in_order_tells_nothing(store):
    with distributed.AsOne():
        pass
    assert store.values == {}


def test_a_process_that_has_lost_another_says_so_in_a_line(store, monkeypatch, capsys):
    """As jax raises it where a collective breaks; there is no way back from there but a new start."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(os, "_exit", sys.exit)
    for number in (0, 1):
        store.act_as(number)
        with pytest.raises(SystemExit) as end, distributed.AsOne():
            raise ValueError("UNKNOWN: Gloo AllGather failed: [pair.cc:547] Connection closed by peer\nmore")
        assert end.value.code == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: process 0 has lost another (UNKNOWN: Gloo AllGather failed: [pair.cc:547] Connection closed by peer)",
        "start the job again: it goes on from its last checkpoint",
        "error: process 1 has lost another (UNKNOWN: Gloo AllGather failed: [pair.cc:547] Connection closed by peer)",
    ]
