"""The array job: which runs it holds, and what each of its tasks starts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gptjax.sweep.slurm import write_array
from gptjax.types import UserError
from tests.unit.sweep.ablation import make_runs, write_run


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with a stand-in for launch/slurm/job.sh that prints its arguments, one a line."""
    job = tmp_path / "launch" / "slurm" / "job.sh"
    job.parent.mkdir(parents=True)
    job.write_text("#!/usr/bin/env bash\nprintf '%s\\n' \"$@\"\n")
    job.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_task_starts_the_run_of_its_number(checkout):
    """Spaces, quotes and lists of texts come through bash as they were."""
    runs = make_runs(checkout, """[{"seed": 1}, {"sample.prompts": ("it's $HOME", "b c"), "seed": 2}]""")
    words = write_array("norms.py", runs, checkout / "my runs", None)
    script = checkout / "my runs" / "array.sh"
    assert f"sbatch --output='{checkout}/my runs/slurm-%a.log'" in words[1]
    for number, run in enumerate(runs):
        done = subprocess.run(
            ["bash", script], env={"SLURM_ARRAY_TASK_ID": str(number)}, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout.splitlines()) == (0, list(run.flags))
    other = subprocess.run(["bash", script], env={"SLURM_ARRAY_TASK_ID": "2"}, capture_output=True, text=True)
    assert (other.returncode, other.stderr) == (2, "there is no run 2\n")


def test_what_is_done_is_left_out_and_numbers_stay(checkout):
    runs = make_runs(checkout)
    write_run(runs[1], 1.0)
    write_array("norms.py", runs, checkout / "runs", 4)
    assert "#SBATCH --array=0,2,3,4,5%4\n" in (checkout / "runs" / "array.sh").read_text()
    for run in runs:
        write_run(run, 1.0)
    assert "nothing to submit" in write_array("norms.py", runs, checkout / "runs", 4)[0]


def test_the_script_is_clean(checkout):
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert shellcheck is not None, "shellcheck is missing: the dev extra has it"
    write_array("norms.py", make_runs(checkout), checkout / "runs", None)
    result = subprocess.run([shellcheck, "runs/array.sh"], capture_output=True, text=True, cwd=checkout)
    assert result.returncode == 0, result.stdout


def test_it_needs_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run from the root of the checkout"):
        write_array("norms.py", make_runs(tmp_path), tmp_path / "runs", None)
