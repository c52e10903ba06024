"""The launcher of jobs on one machine, with stand-ins for gptjax.main, which take no time; then jobs that go wrong."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.integration.command_line import ROOT, SMALL, wait_until

STAND_IN = """
import os, signal, subprocess, sys, threading, time
number = int(os.environ["JAX_PROCESS_ID"])
exec(sys.argv[1])
"""


def is_alive(pid):
    """Whether a process runs; a zombie does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def end(process, seconds=60.0):
    """Waits for a job and returns its exit code and what it said."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out, err


# ---- the command line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--processes=2",), "what the processes run is missing; put it after --"),
        (("--processes=2", "--config=experiments/tiny.py"), "unrecognized arguments: --config=experiments/tiny.py"),
        (("--processes=0", "--", "--config=x.py"), "--processes=0 is less than 1; choose a positive number"),
        (("--devices-per-process=0", "--", "--config=x.py"), "--devices-per-process=0 is less than 1"),
        (("--processes=two", "--", "--config=x.py"), "invalid int value: 'two'"),
        (("--port=70000", "--", "--config=x.py"), "--port=70000 is not between 1 and 65535"),
    ],
)
def test_a_mistake_is_said_in_a_line(arguments, words):
    command = [sys.executable, "launch/local.py", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_port_in_use_is_said_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = [sys.executable, "launch/local.py", f"--port={port}", "--", "--config=x.py"]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert f"--port={port} is in use; choose another, or leave it out" in result.stderr


def test_help_fits_a_screen():
    result = subprocess.run([sys.executable, "launch/local.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stdout.count("\n") < 24


# ---- starting, relaying and ending, with stand-ins


@pytest.fixture
def launch(command_line, tmp_path):
    """Launches processes that each run a text of Python, in which `number` is theirs."""
    package = tmp_path / "gptjax"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "main.py").write_text(STAND_IN)
    jobs = []

    def start(code, processes=2, **options):
        jobs.append(command_line.launch(code, processes=processes, cwd=tmp_path, **options))
        return jobs[-1]

    yield start
    for job in jobs:
        job.kill()
        job.communicate()


def test_each_process_is_told_who_it_is(launch):
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PLATFORMS", "XLA_FLAGS")
    job = launch(f"print(number, *(os.environ[name] for name in {names}))", 3, devices=4, XLA_FLAGS="--xla_mine=1")
    code, out, _ = end(job)
    assert code == 0
    lines = sorted(out.splitlines())
    port = re.search(r"127\.0\.0\.1:(\d+)", out)[1]
    flags = "--xla_mine=1 --xla_force_host_platform_device_count=4"
    assert lines == [f"[{number}] {number} 127.0.0.1:{port} 3 cpu {flags}" for number in range(3)]


def test_lines_come_out_whole_and_each_in_its_stream(launch):
    code = (
        "for i in range(300): print(f'{number}.{i} ' * 200, file=(sys.stdout, sys.stderr)[i % 2])\nprint('e', end='')"
    )
    returned, out, err = end(launch(code, 4))
    assert returned == 0
    for stream, rest in ((out, 0), (err, 1)):
        lines = [line for line in stream.splitlines() if not line.endswith("] e")]
        expected = {f"[{n}] " + f"{n}.{i} " * 200 for n in range(4) for i in range(rest, 300, 2)}
        assert len(lines) == 600
        assert set(lines) == expected
    assert out.count("] e\n") == 4  # a last line without an end gets one


def test_a_job_goes_on_when_its_reader_has_left(launch, tmp_path):
    code = f"for i in range(20_000): print(i)\nopen(f'{tmp_path}/done-{{number}}', 'w')"
    job = launch(code)
    job.stdout.readline()
    job.stdout.close()
    assert job.wait(60) == 0
    assert {path.name for path in tmp_path.glob("done-*")} == {"done-0", "done-1"}
    job.stdout = None


@pytest.mark.parametrize(
    ("act", "code", "words"),
    [
        ("sys.exit(2)", 2, "process 2 ended with exit code 2; ending the others"),
        ("raise ValueError('no')", 1, "process 2 ended with exit code 1; ending the others"),
        ("os.kill(os.getpid(), 9)", 137, "process 2 died (signal 9); ending the others"),
    ],
)
def test_the_first_to_fail_is_named_and_gives_its_code(launch, act, code, words):
    """The others notice for themselves what happened, and may say so."""
    returned, _, err = end(
        launch(f"if number == 2:\n  {act}\ntime.sleep(1)\nprint('bye', file=sys.stderr)\nsys.exit(7)", 3)
    )
    assert returned == code
    assert words in err.splitlines()
    assert err.splitlines()[-2:] == ["[0] bye", "[1] bye"] or err.splitlines()[-2:] == ["[1] bye", "[0] bye"]


@pytest.mark.slow
def test_those_that_do_not_notice_are_ended(launch):
    start = time.monotonic()
    returned, _, _ = end(launch("if number == 1:\n  sys.exit(3)\ntime.sleep(60)"))
    assert returned == 3
    assert 10 <= time.monotonic() - start < 15


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_passed_on_and_its_code_returned(launch, number, code):
    job = launch(
        f"signal.signal({int(number)}, lambda *_: (os.write(1, b'saved\\n'), time.sleep(number), sys.exit({code})))\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    assert [job.stdout.readline()[4:] for _ in range(2)] == ["ready\n"] * 2
    job.send_signal(number)
    returned, out, err = end(job)
    assert returned == code
    assert sorted(out.splitlines()) == ["[0] saved", "[1] saved"]
    assert err == ""


@pytest.mark.slow
def test_who_does_not_hear_a_signal_is_ended_as_well(launch):
    """As where it waits, before its first step, for one that has already gone."""
    job = launch(
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143) if number else None)\n"
        "print('ready', flush=True)\n"
        "[time.sleep(1) for _ in range(60)]"
    )
    assert [job.stdout.readline()[4:] for _ in range(2)] == ["ready\n"] * 2
    job.terminate()
    returned, _, err = end(job, 20)
    assert returned == 143
    assert err == ""


def test_a_launcher_that_is_killed_takes_all_with_it(launch):
    """SIGKILL, which nobody can catch; what the workers have started ends as well, and so do the deaf."""
    job = launch(
        "for deaf in (signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE): signal.signal(deaf, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '300'])\n"
        "print(os.getpid(), child.pid, flush=True)\n"
        "time.sleep(300)"
    )
    pids = [pid for _ in range(2) for pid in job.stdout.readline().split()[1:]]
    assert len(pids) == 4
    assert all(map(is_alive, pids))
    job.kill()
    job.wait()
    wait_until(lambda: not any(map(is_alive, pids)), seconds=5)


def test_what_the_workers_leave_behind_ends_with_them(launch):
    job = launch("child = subprocess.Popen(['sleep', '300'])\nprint(child.pid, flush=True)")
    code, out, _ = end(job, 30)
    assert code == 0
    assert not any(is_alive(line.split()[1]) for line in out.splitlines())


# ---- jobs that go wrong


def run_separately(command_line, num_processes, options):
    """Runs a job whose processes are started one by one, with `options(number)` as arguments and environment."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        address = f"localhost:{listener.getsockname()[1]}"
    processes = []
    for number in range(num_processes):
        arguments, environment = options(number)
        job = {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(num_processes),
            "JAX_PROCESS_ID": str(number),
        }
        processes.append(command_line.start("main", *arguments, **{**job, **environment}))
    return [end(process, 100) for process in processes]


@pytest.mark.slow
def test_processes_that_were_started_otherwise_are_named(command_line, text, tmp_path):
    command = ("--config=experiments/tiny.py", f"--workdir={tmp_path}/run", f"--config.data.path={text}", *SMALL)
    other = ("--config.optim.num_steps=7", "--config.model.d_model=32")
    results = run_separately(command_line, 3, lambda number: ((*command, *other[: number // 2 * 2]), {}))
    assert [code for code, *_ in results] == [2, 2, 2]
    assert results[0][2].splitlines() == [
        "error: the command line of process 2 is not that of process 0; start all processes of a job with the same "
        "command, code and text",
        "  --config.model.d_model: '32' there, '64' here",
        "  --config.optim.num_steps: '7' there, 'absent' here",
    ]
    assert results[1][2] == "error: the processes differ in their command line; process 0 says where\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_processes_that_read_another_text_are_named(command_line, text, tmp_path):
    """The path is the same, and what lies there is not: as where a host has an old copy."""
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "book.txt").write_text(text.read_text() + "." * number)
    flags = ("--config.data.path=book.txt", "--config.sample.prompts=", *SMALL)
    command = (f"--config={ROOT}/experiments/tiny.py", f"--workdir={tmp_path}/run", *flags)
    results = run_separately(
        command_line, 2, lambda number: (command, {"cwd": tmp_path / str(number), "PYTHONPATH": str(ROOT)})
    )
    assert [code for code, *_ in results] == [2, 2]
    assert "the experiment of process 1 is not that of process 0" in results[0][2]
    assert "  data.fingerprint: " in results[0][2]


def test_a_mistake_of_one_process_ends_all_at_once_and_process_0_says_it(command_line, text, tmp_path):
    """Here one host cannot write its cache, while the other waits for it to get ready."""
    command = ("--config=experiments/tiny.py", f"--workdir={tmp_path}/run", f"--config.data.path={text}", *SMALL)
    start = time.monotonic()
    results = run_separately(command_line, 2, lambda number: (command, {"GPTJAX_CACHE": str(text)} if number else {}))
    assert time.monotonic() - start < 50
    assert [code for code, *_ in results] == [2, 2]
    words = f"{text}/tokenizers cannot be written (Not a directory)"
    assert f"error: process 1 has ended the job: {words}" in results[0][2]
    assert f"error: {words}" in results[1][2]
    assert "Traceback" not in results[0][2] + results[1][2]


READING = """
import sys
from gptjax import distributed, experiment
from gptjax.data import packing
from gptjax.experiment_file import open_experiment

def note(stream, starts, seq_len):
    print("read", *starts)
    return pack(stream, starts, seq_len)


pack, packing.PACKINGS["windows"] = packing.PACKINGS["windows"], note
changes = [("data.path", sys.argv[1]), ("data.batch_size", "16"), ("data.num_threads", "0")]
cfg = open_experiment("experiments/tiny.py").read(changes)
distributed.start()
batches = experiment.build(cfg).train_batches(0)
next(batches)
"""


def test_each_process_reads_its_share_and_no_more(command_line, text):
    """With the weights split over all devices, sixteen rows are four for each of four processes."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        address = f"localhost:{listener.getsockname()[1]}"
    job = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "4"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", READING, str(text)],
            cwd=ROOT,
            env={**command_line.environment, **job, "JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    shares = []
    for process in processes:
        code, out, err = end(process, 100)
        assert code == 0, err
        shares.append([int(word) for line in out.splitlines() if line.startswith("read") for word in line.split()[1:]])
    assert [len(share) for share in shares] == [4] * 4
    assert len({start for share in shares for start in share}) == 16


@pytest.mark.slow
def test_where_a_process_hangs_the_others_show_their_stacks_and_go_on(command_line, text, tmp_path):
    workdir = tmp_path / "run"
    flags = (f"--config.data.path={text}", "--config.train.watchdog_seconds=2", "--config.optim.num_steps=3000", *SMALL)
    job = command_line.launch("--config=experiments/tiny.py", f"--workdir={workdir}", *flags, processes=2)
    metrics, stacks = workdir / "metrics.jsonl", workdir / "stacks-0.txt"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") > 3, job)
    children = subprocess.run(["pgrep", "-f", "gptjax.main", "-P", str(job.pid)], capture_output=True, text=True)
    hanging = int(children.stdout.split()[-1])
    os.kill(hanging, signal.SIGSTOP)
    wait_until(lambda: stacks.exists() and "in train" in stacks.read_text(), job)
    os.kill(hanging, signal.SIGCONT)
    before = metrics.read_text().count("\n")
    wait_until(lambda: metrics.read_text().count("\n") > before + 2, job)
    job.terminate()
    code, _, err = end(job)
    assert code == 143
    assert "[0] warning: process 0 has done no step for 2 s, since step " in err
