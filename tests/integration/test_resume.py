"""An interrupted run ends as an uninterrupted one, to the bit, whatever interrupted it."""

import random
import shutil
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.integration.command_line import SHORT, SMALL, facts, rows

# Long enough to be interrupted anywhere, on a ramp of batch sizes too.
RAMP = "--config.data.batch_ramp=((8, 320),)"
LONG = ("--config.optim.num_steps=100", "--config.evaluation.every=50", RAMP, *SMALL)


def arrays(workdir, step):
    """Returns every array of a checkpoint, by path."""
    found = {}
    for item in ("params", "opt_state"):
        tree = ocp.PyTreeCheckpointer().restore(workdir.absolute() / "checkpoints" / str(step) / item)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            found[item + jax.tree_util.keystr(path)] = np.asarray(leaf)
    assert len(found) > 20
    return found


def assert_equal_to_the_bit(workdir, other, step):
    ours, theirs = arrays(workdir, step), arrays(other, step)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()]
    assert not different


def wait_for(process, condition, seconds=120):
    """Waits until a condition holds or the process ends."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.01)
    assert condition(), process.communicate()[1]


def num_rows(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.fixture(scope="module")
def uninterrupted(command_line, text, tmp_path_factory):
    """The workdir of a run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    command_line.train(workdir, f"--config.data.path={text}", *LONG)
    return workdir


@pytest.mark.slow
def test_killed_five_times_at_random_the_run_ends_the_same(command_line, text, uninterrupted, tmp_path):
    """SIGKILL leaves no time to save: what was not committed is done again, and comes out the same."""
    workdir = tmp_path / "run"
    command = ("main", "--config=experiments/tiny.py", f"--workdir={workdir}", f"--config.data.path={text}", *LONG)
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    moments = random.Random(seed)
    for kill in range(5):
        process = command_line.start(*command)
        # In order, so that the run comes further each time; the moment within a step is as it falls.
        least = 17 * kill + moments.randrange(17)
        wait_for(process, lambda least=least: num_rows(workdir) > least)
        time.sleep(moments.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    last = command_line.train(workdir, f"--config.data.path={text}", *LONG)
    assert "resumed from step" in last.stdout
    assert facts(workdir) == facts(uninterrupted)
    assert rows(workdir, "valid") == rows(uninterrupted, "valid")
    assert_equal_to_the_bit(workdir, uninterrupted, 100)


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(command_line, text, finished, tmp_path, number, code):
    workdir = tmp_path / "run"
    command = ("main", "--config=experiments/tiny.py", f"--workdir={workdir}", f"--config.data.path={text}", *SHORT)
    process = command_line.start(*command)
    wait_for(process, lambda: num_rows(workdir) >= 12)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "run the same command to go on" in out
    assert "Traceback" not in err
    step = rows(workdir)[-1]["step"]
    assert f"stopped at step {step}, saved" in out
    assert f"resumed from step {step}" in command_line.train(workdir, f"--config.data.path={text}", *SHORT).stdout
    assert facts(workdir) == facts(finished)
    assert_equal_to_the_bit(workdir, finished, 40)


@pytest.mark.slow
def test_a_second_signal_exits_at_once_and_tears_nothing(command_line, text, tmp_path):
    workdir = tmp_path / "run"
    often = (f"--config.data.path={text}", *LONG, "--config.checkpoint.every=5")
    process = command_line.start("main", "--config=experiments/tiny.py", f"--workdir={workdir}", *often)
    wait_for(process, lambda: num_rows(workdir) >= 12)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (130, 143)
    done = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
    assert done
    assert f"resumed from step {done[-1]}" in command_line.train(workdir, *often).stdout


def test_a_run_that_is_done_says_so_and_changes_nothing(command_line, text, finished):
    before = {
        path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file() and path.name == "metrics.jsonl"
    }
    result = command_line.train(finished, f"--config.data.path={text}", *SHORT)
    assert "done at step 40" in result.stdout
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
def test_more_steps_are_refused_and_then_allowed_by_name(command_line, text, finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    longer = (f"--config.data.path={text}", *SHORT[1:], "--config.optim.num_steps=45")
    refused = command_line.run("main", "--config=experiments/tiny.py", f"--workdir={workdir}", *longer)
    assert refused.returncode == 2
    assert "--allow_change=optim.num_steps" in refused.stderr
    assert "40 there, 45 here" in refused.stderr
    result = command_line.train(workdir, *longer, "--allow_change=optim.num_steps")
    assert "resumed from step 40" in result.stdout
    assert [row["step"] for row in rows(workdir)] == list(range(1, 46))


@pytest.mark.slow
def test_init_from_takes_parameters_and_resume_from_everything(command_line, text, finished, tmp_path):
    data = f"--config.data.path={text}"
    taken = command_line.train(tmp_path / "init", data, *SHORT, f"--config.checkpoint.init_from={finished}")
    assert f"parameters from step 40 of {finished}" in taken.stdout
    assert rows(tmp_path / "init")[0]["loss"] < rows(finished)[0]["loss"] - 1
    longer = (data, *SHORT[1:], "--config.optim.num_steps=45", "--allow_change=optim.num_steps")
    taken = command_line.train(tmp_path / "resume", *longer, f"--config.checkpoint.resume_from={finished}")
    assert f"resumed from step 40 of {finished}" in taken.stdout
    assert [row["step"] for row in rows(tmp_path / "resume")] == list(range(41, 46))


@pytest.mark.slow
def test_the_end_of_another_run_is_taken_over_whole_and_nothing_before_it(command_line, text, finished, tmp_path):
    data = (f"--config.data.path={text}", f"--config.checkpoint.resume_from={finished}", *SHORT)
    taken = command_line.train(tmp_path / "same", *data)
    assert "done at step 40" in taken.stdout
    assert_equal_to_the_bit(tmp_path / "same", finished, 40)
    assert rows(tmp_path / "same", "valid") == rows(finished, "valid")[-1:]
    earlier = ("--config.optim.num_steps=30", "--allow_change=optim.num_steps")
    refused = command_line.run("main", "--config=experiments/tiny.py", f"--workdir={tmp_path}/less", *data, *earlier)
    assert refused.returncode == 2
    assert "is at step 40, beyond optim.num_steps=30; raise it" in refused.stderr
