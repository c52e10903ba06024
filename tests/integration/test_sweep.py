"""The command line of sweeps: with stand-ins for gptjax.main, which take no time, and once with real runs."""

import json
import re
import shlex
import signal
import subprocess
import sys

import pytest

from tests.integration.command_line import ROOT, rows, wait_until
from tests.integration.test_local import end, is_alive

POSITIONS = "--config=experiments/ablations/positions.py"
STAND_IN = """
import os, pathlib, signal, sys, time
options = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
seed, workdir = int(options["config.seed"]), pathlib.Path(options["workdir"])
exec(os.environ["STAND_IN"])
"""
SWEEP = "from experiments.base import get_config\nfrom gptjax.sweep.expand import seeds\nsweep = lambda: seeds(4)\n"
# It is the checkout's gptjax.sweep; the workers' gptjax.main is that of their current folder.
DRIVER = """
import sys
from gptjax import flags
from gptjax.sweep.__main__ import main
sys.exit(flags.exit_code(main, sys.argv[1:]))
"""


@pytest.fixture
def sweep(command_line, tmp_path):
    """Starts a sweep of four runs of a text of Python, in which `seed` and `workdir` are the run's."""
    folder = tmp_path / "work"
    (folder / "gptjax").mkdir(parents=True)
    (folder / "gptjax" / "__init__.py").touch()
    (folder / "gptjax" / "main.py").write_text(STAND_IN)
    (folder / "seeds.py").write_text(SWEEP)
    (tmp_path / "driver.py").write_text(DRIVER)
    started = []

    def start(code, *arguments):
        environment = {**command_line.environment, "PYTHONPATH": str(ROOT), "STAND_IN": code}
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "driver.py"), "--config=seeds.py", "--run", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    start.runs = folder / "runs" / "seeds"
    yield start
    for process in started:
        process.kill()
        process.wait()


# ---- the command line


def test_the_commands_of_all_runs_are_listed_and_nothing_is_made(entry_point, tmp_path):
    arguments = (POSITIONS, f"--workdir={tmp_path}/sweep", "--config.optim.num_steps=50")
    result = entry_point("sweep.__main__", *arguments)
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert len(lines) % 3 == 0
    assert shlex.split(lines[1]) == [
        *("python", "-m", "gptjax.main", POSITIONS, f"--workdir={tmp_path}/sweep/model.positions=learned,seed=1"),
        *("--config.optim.num_steps=50", "--config.model.positions.name=learned", "--config.seed=1"),
    ]
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config=experiments/tiny.py"], "experiments/tiny.py has no sweep(); see experiments/ablations/"),
        ([POSITIONS, "--parallel=0"], "--parallel=0 is less than 1"),
        ([POSITIONS, "--launcher=slrm"], "slrm"),
        ([POSITIONS, "--run", "--launcher=slurm"], "--run is for this machine"),
        ([POSITIONS, "--config.seed=1"], "--config.seed is what the sweep varies"),
        ([POSITIONS, "--config.optim.peek_lr=1", "--run"], "did you mean --config.optim.peak_lr?"),
        ([POSITIONS, "--rum"], "did you mean --run?"),
    ],
)
def test_a_mistake_is_said_in_a_line(entry_point, arguments, words):
    result = entry_point("sweep.__main__", *arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stdout == ""


def test_help_fits_a_screen_and_comes_at_once():
    program = "import sys; from gptjax.sweep.__main__ import main; main(['--help']); print('jax' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    *lines, imported = result.stdout.splitlines()
    assert imported == "False"
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100


# ---- running, with stand-ins


def test_a_run_that_fails_is_reported_and_the_others_go_on(sweep):
    code = (
        "print('hello', seed)\n"
        "if seed == 1: raise RuntimeError('no luck')\n"
        "if seed == 2: print('error: a mistake:\\n  its cure', file=sys.stderr); sys.exit(2)\n"
        "if seed == 3: os.kill(os.getpid(), 9)"
    )
    returned, out, err = end(sweep(code, "--report"))
    assert (returned, err) == (1, "")
    assert re.search(r"^done      seed=0  0:\d\d  \(1 of 4\)$", out, re.MULTILINE)
    assert re.search(r"^FAILED    seed=1  0:\d\d  exit code 1: RuntimeError: no luck$", out, re.MULTILINE)
    assert re.search(r"^FAILED    seed=2  0:\d\d  exit code 2: error: a mistake: its cure$", out, re.MULTILINE)
    assert re.search(r"^FAILED    seed=3  0:\d\d  died of signal 9: it said nothing$", out, re.MULTILINE)
    assert "3 of 4 runs failed" in out
    assert (sweep.runs / "seed=0" / "stdout.txt").read_text() == "hello 0\n"
    assert "Traceback" in (sweep.runs / "seed=1" / "stderr.txt").read_text()
    report = (sweep.runs / "report.md").read_text()
    assert "| seed=1 | failed | exit code 1: RuntimeError: no luck |" in report


@pytest.mark.slow
def test_no_more_than_so_many_run_at_a_time_and_as_many_as_can(sweep):
    code = "print(time.monotonic(), flush=True); time.sleep(0.4); print(time.monotonic())"
    returned, _, err = end(sweep(code, "--parallel=2"))
    assert (returned, err) == (0, "")
    spans = [[float(t) for t in (sweep.runs / f"seed={i}" / "stdout.txt").read_text().split()] for i in range(4)]
    at_once = [sum(start <= moment < stop for start, stop in spans) for moment, _ in spans]
    assert max(at_once) == 2


@pytest.mark.slow
def test_a_reader_that_leaves_ends_nothing(sweep):
    """As in a pipe to head: the runs go on, unheard."""
    process = sweep("time.sleep(0.2); (workdir / 'end').touch()")
    assert process.stdout.readline().startswith("start")
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert len(list(sweep.runs.glob("*/end"))) == 4


WAITS = (
    "def stop(number, _): (workdir / 'saved').touch(); sys.exit(128 + number)\n"
    "for number in (2, 15): signal.signal(number, stop)\n"
    "(workdir / 'ready').touch(); time.sleep(60)"
)


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_signal_is_passed_on_and_waited_for(sweep, number, code):
    process = sweep(WAITS, "--parallel=2")
    wait_until(lambda: len(list(sweep.runs.glob("*/ready"))) == 2, process)
    process.send_signal(number)
    returned, out, err = end(process)
    assert (returned, err) == (code, "")
    assert sorted(path.parent.name for path in sweep.runs.glob("*/saved")) == ["seed=0", "seed=1"]
    assert "stopped with 4 of 4 runs to do; run the same command to go on" in out
    assert "FAILED" not in out
    assert not (sweep.runs / "seed=2").exists()


def test_workers_do_not_outlive_a_sweep_that_is_killed(sweep):
    """Not even one that holds on to its life, nor what it has started itself."""
    code = (
        "import subprocess\n"
        "for number in (2, 15): signal.signal(number, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "(workdir / 'pids').write_text(f'{os.getpid()} {child.pid}'); (workdir / 'ready').touch(); child.wait()"
    )
    process = sweep(code, "--parallel=2")
    wait_until(lambda: len(list(sweep.runs.glob("*/ready"))) == 2, process)
    pids = [int(pid) for path in sweep.runs.glob("*/pids") for pid in path.read_text().split()]
    assert len(pids) == 4
    assert all(map(is_alive, pids))
    process.kill()
    wait_until(lambda: not any(map(is_alive, pids)), seconds=10)


# ---- running, for real


@pytest.mark.slow
def test_from_an_ablation_to_a_report(command_line, entry_point, text, tmp_path):
    """Both runs finish; again, both are done already; the page has their parameters and their interval."""
    ablation = tmp_path / "rates.py"
    ablation.write_text(
        "from experiments.tiny import get_config\n"
        "from gptjax.sweep.expand import seeds\n"
        "def sweep():\n    return seeds(2)\n"
    )
    small = ("model.d_model=32", "model.num_layers=1", "data.batch_size=8", "evaluation.num_windows=16")
    short = ("optim.num_steps=6", "optim.warmup_steps=1", "evaluation.every=2", f"data.path={text}")
    flags = [f"--config={ablation}", f"--workdir={tmp_path}/runs", *(f"--config.{o}" for o in (*small, *short))]
    first = command_line.run("sweep", *flags, "--run", "--parallel=2")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "(2 of 2)" in first.stdout
    again = entry_point("sweep.__main__", *flags, "--run", "--report")
    assert again.stdout.startswith("2 of 2 runs are done already\nwrote "), again.stdout + again.stderr
    losses = [rows(tmp_path / "runs" / f"seed={seed}", "valid")[-1]["loss"] for seed in (0, 1)]
    report = (tmp_path / "runs" / "report.md").read_text()
    facts = json.loads((tmp_path / "runs" / "seed=0" / "facts.json").read_text())
    assert "2 runs: 2 finished." in report
    assert f"| base | 2 of 2 | {sum(losses) / 2:.4f} ± " in report
    assert f" {facts['num_params']:,} | {6 * facts['tokens_per_step']:,} | " in report
    assert facts["flops_per_step"] > 6 * facts["tokens_per_step"] * 12 * 32**2  # four projections and an mlp


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was_stopped(command_line, text, tmp_path):
    """The interrupted run resumes from its own checkpoint, and ends as one that was not interrupted."""
    ablation = tmp_path / "rates.py"
    ablation.write_text(
        "from experiments.tiny import get_config\n"
        "from gptjax.sweep.expand import grid\n"
        "def sweep():\n    return grid({'optim.peak_lr': [1e-3, 3e-3]})\n"
    )
    flags = [f"--config={ablation}", f"--config.data.path={text}", "--config.optim.num_steps=60"]
    whole, parts = ([*flags, f"--workdir={tmp_path}/{name}", "--run"] for name in ("whole", "parts"))
    process = command_line.start("sweep", *parts)
    metrics = tmp_path / "parts" / "optim.peak_lr=0.001" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") > 12, process)
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 143
    again = command_line.run("sweep", *parts)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "resumed from step" in (metrics.parent / "stdout.txt").read_text()
    assert command_line.run("sweep", *whole).returncode == 0
    for rate in ("0.001", "0.003"):
        one, other = (rows(tmp_path / name / f"optim.peak_lr={rate}", "valid") for name in ("whole", "parts"))
        assert one == other
