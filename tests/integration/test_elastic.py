"""A run moves between fleets: any number of processes and devices, and any rules, go on as if nothing had happened."""

import os
import signal
import subprocess

import pytest

from tests.integration.command_line import PLAINLY, facts, rows, wait_until

STEPS = (
    "--config.optim.num_steps=16",
    "--config.optim.warmup_steps=2",
    "--config.evaluation.every=16",
    "--config.evaluation.num_windows=16",
    "--config.checkpoint.every=2",
    "--config.data.batch_size=16",
    "--config.model.d_model=32",
    "--config.sample.prompts=",
)
TENSOR = ("--config.mesh.tensor=2", "--config.mesh.rules=fsdp_tp")


@pytest.fixture(scope="module")
def uninterrupted(command_line, text, tmp_path_factory):
    """The workdir of a run on one device that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    command_line.train(workdir, f"--config.data.path={text}", *STEPS, XLA_FLAGS=PLAINLY)
    return workdir


def lose_a_host(job):
    """Kills the last process of a job: no time to save, and the job ends by itself."""
    children = subprocess.run(["pgrep", "-f", "gptjax.main", "-P", str(job.pid)], capture_output=True, text=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    _, err = job.communicate(timeout=20)
    assert job.returncode == 137
    assert "died (signal 9); ending the others" in err


def be_preempted(job):
    """Sends SIGTERM, as a scheduler does: the job saves and ends."""
    job.terminate()
    out, err = job.communicate(timeout=60)
    assert job.returncode == 143, err
    assert "saved; run the same command to go on" in out


# Processes, devices of each, mesh and how it ends before its time.
JOURNEYS = {
    "2x2 1x4": [(2, 2, (), lose_a_host), (1, 4, TENSOR, None)],
    "4x2 1x8 2x2": [(4, 2, (), lose_a_host), (1, 8, (), be_preempted), (2, 2, TENSOR, None)],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["2x2 1x4", "4x2 1x8 2x2"])
def test_a_run_that_moves_between_fleets_is_the_same_run(command_line, text, uninterrupted, tmp_path, name):
    """Every batch to the bit, every loss within rounding: sums over other numbers of devices round otherwise."""
    workdir = tmp_path / "run"
    command = ("--config=experiments/tiny.py", f"--workdir={workdir}", f"--config.data.path={text}", *STEPS)
    last = 0
    for processes, devices, mesh, interrupt in JOURNEYS[name]:
        job = command_line.launch(*command, *mesh, processes=processes, devices=devices, XLA_FLAGS=PLAINLY)
        if interrupt is not None:
            wait_until(
                lambda since=last: num_rows(workdir) > since + 2 and max(checkpoints(workdir), default=0) > since, job
            )
            interrupt(job)
            last = max(checkpoints(workdir))
        else:
            out, err = job.communicate(timeout=200)
            assert job.returncode == 0, err
            assert f"resumed from step {last}" in out
    exact = ["step", "batch_checksum", "learning_rate", "tokens_seen"]
    assert facts(workdir, exact) == facts(uninterrupted, exact)
    for split in ("train", "valid"):
        ours, theirs = rows(workdir, split), rows(uninterrupted, split)
        assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=2e-5)


def num_rows(workdir):
    return (workdir / "metrics.jsonl").read_text().count("\n") if (workdir / "metrics.jsonl").exists() else 0


def checkpoints(workdir):
    return [int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*") if path.name.isdigit()]
