"""A user's mistake is one clear line with the cure and exit code 2."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.integration.command_line import ROOT, SHORT, SMALL, rows, wait_until

TINY = "--config=experiments/tiny.py"

# arguments, and what stderr must name: the bad value and the cure
MISTAKES = {
    "no config": ([], ["--config"]),
    "missing experiment": (["--config=experiments/tinny.py"], ["tinny.py", "did you mean experiments/tiny.py?"]),
    "config that is no Python": (["--config=README.md"], ["README.md", "experiments/small.py"]),
    "misspelt flag": ([TINY, "--wrokdir=x"], ["--wrokdir", "did you mean --workdir?"]),
    "abbreviated flag": ([TINY, "--work=x"], ["--work"]),
    "stray argument": ([TINY, "extra"], ["'extra'", "--name=value"]),
    "unknown mode": ([TINY, "--mode=tarin"], ["tarin", "train"]),
    "misspelt option": ([TINY, "--config.optim.peek_lr=1"], ["optim.peek_lr", "did you mean --config.optim.peak_lr?"]),
    "option in the wrong group": ([TINY, "--config.model.peak_lr=1"], ["model.peak_lr", "optim.peak_lr"]),
    "a group, not an option": ([TINY, "--config.optim=1"], ["optim is a group", "--config.optim."]),
    "option without value": ([TINY, "--config.seed"], ["seed", "VALUE"]),
    "text for a number": ([TINY, "--config.optim.peak_lr=high"], ["optim.peak_lr=high", "a number"]),
    "fraction for a whole number": ([TINY, "--config.model.num_layers=2.5"], ["num_layers=2.5", "a whole number"]),
    "None for a number": ([TINY, "--config.seed=None"], ["seed=None", "a whole number"]),
    "number for a truth value": ([TINY, "--config.model.use_bias=maybe"], ["use_bias=maybe", "True or False"]),
    "unknown choice": ([TINY, "--config.optim.optimizer.name=adamm"], ["'adamm'", "adamw"]),
    "choice without name": ([TINY, "--config.optim.schedule=wsd"], ["--config.optim.schedule.name=wsd"]),
    "option of another choice": (
        [TINY, "--config.optim.schedule.decay_fraction=0.2"],
        ["'cosine'", "decay_fraction", "final_fraction"],
    ),
    "heads that do not divide": ([TINY, "--config.model.num_heads=7"], ["num_heads=7", "d_model", "try"]),
    "window of nothing": ([TINY, "--config.model.attention.window=0"], ["model.attention.window=0", "positive"]),
    "kv heads that do not divide": ([TINY, "--config.model.num_kv_heads=3"], ["num_kv_heads=3", "num_heads"]),
    "unknown dtype": ([TINY, "--config.model.dtype=float16"], ["dtype='float16'", "bfloat16"]),
    "unknown remat": ([TINY, "--config.model.remat=some"], ["remat='some'", "full"]),
    "negative learning rate": ([TINY, "--config.optim.peak_lr=-1"], ["peak_lr=-1", "positive"]),
    "warm-up past the end": ([TINY, "--config.optim.warmup_steps=101"], ["warmup_steps=101", "num_steps=100"]),
    "learning rate that is no number": ([TINY, "--config.optim.peak_lr=nan"], ["peak_lr=nan", "positive"]),
    "end of the schedule": ([TINY, "--config.optim.schedule.final_fraction=-1"], ["schedule.final_fraction=-1.0"]),
    "seed beyond 32 bits": ([TINY, "--config.seed=99999999999"], ["seed=99999999999", "4294967295"]),
    "empty path": ([TINY, "--config.data.path="], ["data.path='' is empty"]),
    "import of nothing": ([TINY, "--config.model.attention.name=:x"], ["':x'", "package.module:name"]),
    "attention that sees the answer": (
        [TINY, "--config.model.attention.name=bidirectional"],
        ["tasks.lm predicts the next token", "tasks that read", "sample.prompts=()"],
    ),
    "batch of nothing": ([TINY, "--config.data.batch_size=0"], ["batch_size=0"]),
    "mesh for other machines": ([TINY, "--config.mesh.tensor=3"], ["3 devices", "there are 1"]),
    "unknown rules": ([TINY, "--config.mesh.rules=fsp"], ["'fsp'", "fsdp"]),
    "missing text": (
        [TINY, "--config.data.path=no_such_book.txt"],
        ["data.path='no_such_book.txt'", "does not exist", "glob"],
    ),
    "evaluation of nothing": ([TINY, "--mode=evaluate", "--workdir=no_such_run"], ["no_such_run", "train"]),
    "resume from nothing": (
        [TINY, "--config.checkpoint.resume_from=no_such_run"],
        ["no_such_run"],
    ),
    "two origins": (
        [TINY, "--config.checkpoint.resume_from=a", "--config.checkpoint.init_from=b"],
        ["resume_from and init_from", "keep one"],
    ),
    "decay groups that overlap": ([TINY, "--config.optim.decay=.*"], ["no_decay", "optim.decay"]),
    "allowance of no option": ([TINY, "--allow_change=optim.steps"], ["optim.steps", "optim.num_steps"]),
}


def assert_plain_mistake(result, words):
    """Asserts exit code 2 and a message that is short, has no traceback and names everything in `words`."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) <= 3, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_a_line_with_its_cure(entry_point, tmp_path, finished, text, name):
    arguments, words = MISTAKES[name]
    if name == "allowance of no option":
        arguments = [*arguments, f"--workdir={finished}", f"--config.data.path={text}", *SHORT]
    elif not any(argument.startswith("--workdir") for argument in arguments):
        arguments = [*arguments, f"--workdir={tmp_path}/run"]
    assert_plain_mistake(entry_point("main", *arguments), words)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("misspelt flag", marks=pytest.mark.slow),
        "mesh for other machines",
        pytest.param("missing text", marks=pytest.mark.slow),
    ],
)
def test_a_process_says_the_same(command_line, tmp_path, name):
    """Found by the parser, before any device is there; by the mesh, once they are; and by the data."""
    arguments, words = MISTAKES[name]
    assert_plain_mistake(command_line.run("main", *arguments, f"--workdir={tmp_path}/run"), words)


def test_all_problems_are_told_at_once(entry_point, tmp_path):
    wrong = ("--config.model.num_heads=7", "--config.optim.peak_lr=0", "--config.data.path=no_such_book.txt")
    result = entry_point("main", TINY, f"--workdir={tmp_path}", *wrong)
    assert result.returncode == 2
    assert result.stderr.startswith("error: experiments/tiny.py does not fit together (3 problems):\n  ")
    for word in ("model.num_heads=7", "optim.peak_lr=0", "no_such_book.txt"):
        assert word in result.stderr


def test_a_mistake_in_an_experiment_file_names_its_line(entry_point, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from experiments import base\n\n\ndef get_config():\n    config = base.get_config()\n"
        "    config.model.num_layer = 3\n    return config\n"
    )
    result = entry_point("main", f"--config={file}", f"--workdir={tmp_path}/run")
    assert_plain_mistake(result, ["mine.py:6", "num_layer", "num_layers"])


@pytest.mark.parametrize("content", ["", pytest.param("short", marks=pytest.mark.slow)])
def test_a_text_that_is_too_short_is_named(entry_point, tmp_path, content):
    book = tmp_path / "book.txt"
    book.write_text(content)
    result = entry_point("main", TINY, f"--workdir={tmp_path}/run", f"--config.data.path={book}")
    assert_plain_mistake(result, ["book.txt"])


def test_another_experiment_in_the_workdir_is_refused(entry_point, finished, text):
    before = (finished / "config.json").read_text()
    other = (f"--config.data.path={text}", *SHORT, "--config.model.num_layers=3", "--config.seed=5")
    result = entry_point("main", TINY, f"--workdir={finished}", *other)
    assert result.returncode == 2
    for word in ("model.num_layers: ", "seed: 0 there, 5 here", "--workdir=DIR"):
        assert word in result.stderr
    assert (finished / "config.json").read_text() == before


def test_another_text_in_the_workdir_is_refused(entry_point, finished, tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("another text, long enough to be cut into windows. " * 200)
    result = entry_point("main", TINY, f"--workdir={finished}", f"--config.data.path={book}", *SHORT)
    assert result.returncode == 2
    assert "data.fingerprint" in result.stderr


def test_an_unreadable_checkpoint_is_named_and_the_one_before_is_the_cure(command_line, finished, text, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    for file in (workdir / "checkpoints" / "40" / "params").rglob("*"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)
    result = command_line.run(
        "main", TINY, f"--workdir={workdir}", "--mode=evaluate", f"--config.data.path={text}", *SHORT
    )
    assert_plain_mistake(result, ["checkpoints/40 cannot be read", "go on from step 30"])
    shutil.rmtree(workdir / "checkpoints" / "40")
    assert "resumed from step 30" in command_line.train(workdir, f"--config.data.path={text}", *SHORT).stdout


DAMAGE = {  # a file of a workdir, its new content, and what is said of it
    "half a config": ("config.json", '{"seed": ', "config.json is damaged"),
    "a config of nothing": ("config.json", "null", "config.json is damaged"),
    "a config of another shape": ("config.json", '{"model": 3}', "model=3 must be a group of options"),
    "a config of another model": ("config.json", "{}", "is of another model"),
    "a tokenizer without characters": ("tokenizer/tokenizer_config.json", '{"kind": "char"}', "is damaged"),
    "a list of a tokenizer": ("tokenizer/tokenizer_config.json", "[]", "is damaged"),
    "another tokenizer": (
        "tokenizer/tokenizer_config.json",
        '{"kind": "char", "characters": "abc"}',
        "is not the tokenizer",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_of_a_workdir_is_named(entry_point, finished, tmp_path, name):
    file, content, words = DAMAGE[name]
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / file).write_text(content)
    assert_plain_mistake(entry_point("sample.__main__", f"--workdir={tmp_path}/run"), [words])


def test_damaged_metrics_of_a_checkpoint_are_named(entry_point, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/checkpoints/40/metrics/metrics").write_text("{")
    result = entry_point("sample.__main__", f"--workdir={tmp_path}/run", "--step=best")
    assert_plain_mistake(result, ["checkpoints are damaged", "remove the folder of its step"])


def test_parameters_of_another_model_are_refused_and_not_called_damaged(entry_point, finished, text, tmp_path):
    other = (f"--config.checkpoint.init_from={finished}", *SHORT, "--config.model.d_model=32")
    result = entry_point("main", TINY, f"--workdir={tmp_path}/run", f"--config.data.path={text}", *other)
    assert_plain_mistake(result, [f"{finished}/checkpoints/40 is of another model", "set model.* as in"])
    assert "remove" not in result.stderr


@pytest.mark.slow
def test_a_reader_that_leaves_does_not_end_the_run(command_line, text, tmp_path):
    """As in `python -m gptjax.main ... | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "gptjax.main", TINY, f"--workdir={tmp_path}/run", f"--config.data.path={text}"]
    result = subprocess.run(
        [*command, *SHORT], cwd=ROOT, env=command_line.environment, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, "")
    assert rows(tmp_path / "run")[-1]["step"] == 40


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write anywhere")
def test_a_workdir_that_may_not_be_written_is_named(entry_point, tmp_path, text):
    """As root, a folder in /proc stands for one without permission."""
    folder = "/proc/run" if os.geteuid() == 0 else str(tmp_path / "locked" / "run")
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
    result = entry_point("main", TINY, f"--workdir={folder}", f"--config.data.path={text}")
    assert_plain_mistake(result, [folder, "cannot be written", "--workdir=DIR"])


def test_a_second_process_on_a_workdir_is_refused(command_line, tmp_path, text):
    arguments = (TINY, f"--workdir={tmp_path}/run", f"--config.data.path={text}", *SHORT)
    first = command_line.start("main", *arguments)
    try:
        wait_until((tmp_path / "run" / "metrics.jsonl").exists, first)
        first.send_signal(signal.SIGSTOP)
        assert_plain_mistake(command_line.run("main", *arguments), [f"in use by process {first.pid}", "--workdir=DIR"])
    finally:
        first.kill()
        first.communicate()


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_keeps_what_was_committed(command_line, tmp_path, text, finished):
    """A limit on the size of files stands for a disk that is full: the same error reaches the same code."""
    workdir = tmp_path / "run"
    data = (f"--config.data.path={text}", *SHORT)
    command_line.train(workdir, *SHORT, f"--config.data.path={text}", "--config.optim.num_steps=10")
    limit = 60_000  # larger than the records, smaller than the parameters
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        stopped = command_line.run("main", TINY, f"--workdir={workdir}", *data, "--allow_change=optim.num_steps")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_plain_mistake(stopped, ["could not be written", "File too large", "committed steps: 10", "make room"])
    result = command_line.train(workdir, *data, "--allow_change=optim.num_steps")
    assert "resumed from step 10" in result.stdout
    assert [row["step"] for row in rows(workdir)] == list(range(1, 41))


def test_a_run_that_diverges_stops_and_leaves_the_last_good_checkpoint(command_line, tmp_path, text):
    """The first update is so large that no later loss is finite: each is skipped, said and counted, up to a limit."""
    workdir = tmp_path / "run"
    absurd = ("--config.optim.peak_lr=1e30", "--config.optim.warmup_steps=0", "--config.optim.max_skipped_steps=3")
    result = command_line.run(
        "main",
        TINY,
        f"--workdir={workdir}",
        f"--config.data.path={text}",
        "--config.checkpoint.every=1",
        *absurd,
        *SMALL,
    )
    assert_plain_mistake(result, ["not finite for 4 steps in a row, until step 5", "step 1", "lower optim.peak_lr"])
    assert "warning: step 3: loss or gradient is not finite, the update was skipped (2 in a row)" in result.stdout
    assert [path.name for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()] == ["1"]
    assert [(row["step"], row["loss"] is None, row["skipped_steps"]) for row in rows(workdir)] == [
        (1, False, 0),
        (2, True, 1),
        (3, True, 2),
        (4, True, 3),
        (5, True, 4),
    ]


def test_help_is_quick_whole_and_frozen(command_line, golden):
    """The words of --help are read by people and scripts: a change of them is a decision."""
    start = time.monotonic()
    result = command_line.run("main", "--help")
    assert time.monotonic() - start < 2
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert result.stdout == golden("help.txt", result.stdout)
