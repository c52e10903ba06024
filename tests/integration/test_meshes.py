"""The mesh, the number of processes, accumulation and remat change how a run is executed, never what it learns."""

import re
import socket

import pytest

from tests.integration.command_line import PLAINLY, facts, rows

STEPS = (
    "--config.optim.num_steps=6",
    "--config.optim.warmup_steps=2",
    "--config.evaluation.every=6",
    "--config.evaluation.num_windows=40",
    "--config.data.batch_size=16",
    "--config.model.d_model=64",
    "--config.model.num_heads=8",
    "--config.sample.prompts=",
)


def devices(number):
    """Returns the flags for so many virtual devices a process."""
    return f"{PLAINLY} --xla_force_host_platform_device_count={number}"


VARIANTS = {  # number of devices, flags
    "fsdp 8": (8, ()),
    "replica 8": (8, ("--config.mesh.replica=8",)),
    "replica 2 x fsdp 4": (8, ("--config.mesh.replica=2",)),
    "data parallel": (8, ("--config.mesh.rules=dp",)),
    "tensor 2 x fsdp 4": (8, ("--config.mesh.tensor=2", "--config.mesh.rules=fsdp_tp")),
    "tensor 8": (8, ("--config.mesh.tensor=8", "--config.mesh.rules=fsdp_tp")),
    "replica 2 x fsdp 2 x tensor 2": (
        8,
        ("--config.mesh.replica=2", "--config.mesh.tensor=2", "--config.mesh.rules=fsdp_tp_sp"),
    ),
    "tensor 4 x fsdp 2": (8, ("--config.mesh.tensor=4", "--config.mesh.rules=fsdp_tp")),
    "by hand, replica 2 x fsdp 4": (8, ("--config.mesh.replica=2", "--config.mesh.rules=fsdp_manual")),
    "context 4 x fsdp 2": (8, ("--config.mesh.context=4", "--config.mesh.rules=context")),
    "accumulation 8": (1, ("--config.train.max_sequences_per_device=2",)),
    "accumulation 2 on 8 devices": (8, ("--config.train.max_sequences_per_device=1",)),
    "remat": (1, ("--config.model.remat=full",)),
    "remat of all but products with weights": (1, ("--config.model.remat=minimal",)),
    "unrolled": (1, ("--config.model.scan_layers=False",)),
}


@pytest.fixture(scope="module")
def reference(command_line, text, tmp_path_factory):
    """The run on one device."""
    workdir = tmp_path_factory.mktemp("reference") / "run"
    command_line.train(workdir, f"--config.data.path={text}", *STEPS, XLA_FLAGS=PLAINLY)
    return workdir


def assert_same_run(workdir, reference):
    """Asserts identical batches and losses that differ by rounding only."""
    assert facts(workdir, ["batch_checksum", "learning_rate", "tokens_seen"]) == facts(
        reference, ["batch_checksum", "learning_rate", "tokens_seen"]
    )
    for split in ("train", "valid"):
        ours, theirs = rows(workdir, split), rows(reference, split)
        assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=2e-5)
        assert [row["bits_per_byte"] for row in ours] == pytest.approx(
            [row["bits_per_byte"] for row in theirs], rel=2e-5
        )
    ours, theirs = facts(workdir, ["grad_norm"]), facts(reference, ["grad_norm"])
    for step, (norm,) in theirs.items():
        assert ours[step][0] == pytest.approx(norm, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_the_way_of_execution_does_not_change_the_run(command_line, text, reference, tmp_path, name):
    number, flags = VARIANTS[name]
    data, workdir = f"--config.data.path={text}", tmp_path / "run"
    result = command_line.train(workdir, data, *STEPS, *flags, XLA_FLAGS=devices(number))
    assert_same_run(workdir, reference)
    if "accumulation" in name:
        count = name.split()[1]
        assert f"{count} x " in next(line for line in result.stdout.splitlines() if line.startswith("batch"))


# The transport's own words: its threads write them piece by piece, so that lines may be mixed.
GLOO = re.compile(r"\[Gloo\] Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is :|[\d\s]")


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def run_two_processes(command_line, *arguments):
    """Runs a job of two processes with two devices each, joined by jax.distributed."""
    port = free_port()
    processes = [
        command_line.start(
            "main",
            *arguments,
            JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(number),
            XLA_FLAGS=devices(2),
        )
        for number in range(2)
    ]
    results = [process.communicate(timeout=200) for process in processes]
    return [(process.returncode, *result) for process, result in zip(processes, results, strict=True)]


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param((), id="fsdp"),
        pytest.param(("--config.mesh.tensor=4", "--config.mesh.rules=fsdp_tp"), id="tensor", marks=pytest.mark.slow),
    ],
)
def test_two_processes_are_one_run(command_line, text, reference, tmp_path, mesh):
    """With a tensor axis across processes both read every row; without, each reads half of them."""
    command = ("--config=experiments/tiny.py", f"--workdir={tmp_path}/run", f"--config.data.path={text}", *STEPS, *mesh)
    (code, out, err), (other_code, other_out, _) = run_two_processes(command_line, *command)
    assert (code, other_code) == (0, 0), err
    assert "done at step 6" in out
    assert GLOO.sub("", other_out) == ""  # only the primary process speaks
    assert_same_run(tmp_path / "run", reference)


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_goes_on_in_one(command_line, text, tmp_path):
    """And the other way round: the number of processes is no part of the run."""
    command = ("--config=experiments/tiny.py", f"--workdir={tmp_path}/run", f"--config.data.path={text}", *STEPS)
    assert [code for code, *_ in run_two_processes(command_line, *command)] == [0, 0]
    longer = (f"--config.data.path={text}", *STEPS, "--config.optim.num_steps=8", "--allow_change=optim.num_steps")
    assert "resumed from step 6" in command_line.train(tmp_path / "run", *longer, XLA_FLAGS=PLAINLY).stdout
    longer = (*command, "--config.optim.num_steps=10", "--allow_change=optim.num_steps")
    (code, out, err), _ = run_two_processes(command_line, *longer)
    assert code == 0, err
    assert "resumed from step 8" in out
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 11))
