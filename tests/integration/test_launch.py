"""The launchers, against stand-ins for gcloud, kubectl, sbatch, srun and scontrol that write down their arguments."""

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "launch").rglob("*.sh"))
LAUNCHERS = ("launch/tpu_vm.sh", "launch/slurm/launch.sh", "launch/gke/launch.sh", "launch/sweep.sh")
CONFIG = "--config=experiments/tiny.py"

STAND_IN = """\
#!{python}
import json, os, subprocess, sys
name, arguments, here = os.path.basename(sys.argv[0]), sys.argv[1:], {here!r}
text = sys.stdin.read() if "-" in arguments else ""
with open(here + "/calls", "a") as calls:
    calls.write(json.dumps([name, arguments, text]) + "\\n")
if "WORKER" in os.environ and arguments[-1].startswith("--command="):
    home = os.environ["WORKER"]
    script = arguments[-1].removeprefix("--command=")
    sys.exit(subprocess.run(["bash", "-c", script], cwd=home, env=dict(os.environ, HOME=home)).returncode)
if name in ("srun", "trainer") and os.environ.get("FAIL", "no such run") in " ".join(arguments):
    sys.exit(int(os.environ["CODE"]))
"""


class Cluster:
    """Stand-ins on a PATH of their own, and what they were called with."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "bin").mkdir()
        for name in ("gcloud", "kubectl", "sbatch", "srun", "scontrol", "trainer"):
            path = folder / "bin" / name
            path.write_text(STAND_IN.format(python=sys.executable, here=str(folder)))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(self, script: str, *arguments: str, **environment: str):
        """Runs a script of the checkout and returns its exit code and output."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", str(ROOT / script), *arguments],
            env={**os.environ, "PATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

    @property
    def calls(self) -> list[tuple[str, list[str], str]]:
        """Name, arguments and standard input of each call so far."""
        path = self.folder / "calls"
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def cluster(tmp_path) -> Cluster:
    return Cluster(tmp_path)


# ---- all of them


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script):
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert shellcheck is not None, "shellcheck is missing: the dev extra has it"
    result = subprocess.run([shellcheck, "-x", "-P", "SCRIPTDIR", script], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_failure_is_never_passed_over(script):
    """Strict mode before anything else; what is sourced inherits it."""
    first = next(line for line in (ROOT / script).read_text().splitlines() if line and not line.startswith("#"))
    assert first == "set -euo pipefail" or script == "launch/command_line.sh"


@pytest.mark.parametrize("script", LAUNCHERS)
def test_help_fits_a_screen(cluster, script):
    result = cluster.run(script, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: {script} ")
    lines = result.stdout.splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("launch/tpu_vm.sh", "VERB is missing"),
        ("launch/tpu_vm.sh fly a --zone=z", "VERB=fly is none of create"),
        ("launch/tpu_vm.sh create", "NAME is missing"),
        ("launch/tpu_vm.sh create --zone=z", "NAME is missing"),
        ("launch/tpu_vm.sh create a --type=v5p-8", "--zone=ZONE is missing"),
        ("launch/tpu_vm.sh create a --zone=z", "--type=TYPE is missing"),
        ("launch/tpu_vm.sh create a --zone=z --type=h100-8", "--type=h100-8 is of no kind"),
        ("launch/tpu_vm.sh create a --zone=z --type=v5p-8 --slices=0", "--slices=0 is no number"),
        ("launch/tpu_vm.sh start a --zone=z", "-- --config=FILE is missing"),
        ("launch/tpu_vm.sh stop a --zone=z -- --config=x", "stop takes no flags of gptjax.main"),
        ("launch/tpu_vm.sh stop a --zone=z now", "now is no option"),
        ("launch/slurm/launch.sh --nodes=2", "-- --config=FILE is missing"),
        ("launch/slurm/launch.sh --nodes=two -- --config=x", "--nodes=two is no number"),
        ("launch/slurm/launch.sh 2 -- --config=x", "2 is no option"),
        ("launch/gke/launch.sh", "NAME is missing"),
        ("launch/gke/launch.sh My_Run", "NAME=My_Run is not"),
        ("launch/gke/launch.sh a --image=i --claim=c -- --config=x", "--topology is missing"),
        (
            "launch/gke/launch.sh a --topology=h100:1x8 --image=i --claim=c -- --config=x",
            "--topology=h100:1x8 is no TPU",
        ),
        (
            "launch/gke/launch.sh a --topology=v5p:64 --image=i --claim=c -- --config=x",
            "--topology=v5p:64 has no shape",
        ),
        ("launch/gke/launch.sh a --topology=v5e:2x3 --image=i --claim=c -- --config=x", "does not divide the 6 chips"),
        ("launch/gke/launch.sh a --topology=v5e:4x4 --image=i --claim=c -- --workdir=x", "-- --config=FILE is missing"),
        ("launch/gke/launch.sh a --topology=v5e:4x4 --image=i --claim=c -- --config=${X}", "holds ${X}"),
        ("launch/sweep.sh --vary=seed=0", "--config=FILE is missing"),
        ("launch/sweep.sh --config=x", "--vary=OPTION=VALUE,VALUE is missing"),
        ("launch/sweep.sh --config=x --vary=seed", "--vary=seed names no option with values"),
        ("launch/sweep.sh --config=x --vary=seed=0 --paralel=2", "--paralel=2 is no option"),
    ],
)
def test_a_mistake_is_named_and_calls_nothing(cluster, line, problem):
    script, *arguments = line.split()
    result = cluster.run(script, *arguments)
    assert result.returncode == 2
    assert problem in result.stderr.splitlines()[0]
    assert "usage: " in result.stderr
    assert result.stdout == ""
    assert cluster.calls == []


GKE = ("launch/gke/launch.sh", "run", "--topology=v5p:4x4x8", "--image=example/gptjax:1", "--claim=shared")
SLURM = ("launch/slurm/launch.sh", "--nodes=4", "--time=24:00:00")


@pytest.mark.parametrize(
    "line",
    [
        ("launch/tpu_vm.sh", "create", "pod", "--zone=z", "--type=v5p-128"),
        ("launch/tpu_vm.sh", "install", "pod", "--zone=z", "--nfs=10.0.0.2:/share"),
        ("launch/tpu_vm.sh", "start", "pod", "--zone=z", "--", CONFIG, "--config.data.path=it's here"),
        ("launch/tpu_vm.sh", "stop", "pod", "--zone=z"),
        ("launch/tpu_vm.sh", "delete", "pod", "--zone=z"),
        (*SLURM, "--", CONFIG),
        (*GKE, "--", CONFIG),
        ("launch/sweep.sh", CONFIG, "--vary=seed=0,1", "--launcher=trainer"),
    ],
    ids=" ".join,
)
def test_a_dry_run_prints_what_a_run_calls(cluster, line):
    """Read by a shell, the printed commands are the calls, to the letter; only a temporary file has another name."""
    dry = [*line]
    dry.insert(line.index("--") if "--" in line else len(line), "--dry-run")
    printed = cluster.run(*dry)
    assert printed.returncode == 0, printed.stderr
    assert cluster.calls == []
    words = [Path(word).name if word.endswith(".tar.gz") else word for word in shlex.split(printed.stdout)]
    cluster.run(*line)
    assert cluster.calls
    for name, arguments, _ in cluster.calls:
        call = [name, *(Path(word).name if word.endswith(".tar.gz") else word for word in arguments)]
        assert any(words[i : i + len(call)] == call for i in range(len(words))), call


# ---- Cloud TPU VMs


def test_a_tpu_is_asked_for(cluster):
    cluster.run("launch/tpu_vm.sh", "create", "pod", "--zone=us-east5-a", "--type=v5p-128", "--spot")
    [(name, arguments, _)] = cluster.calls
    assert name == "gcloud"
    assert arguments[:5] == ["compute", "tpus", "queued-resources", "create", "pod"]
    assert {"--zone=us-east5-a", "--accelerator-type=v5p-128", "--node-id=pod", "--spot"} < set(arguments)
    assert "--runtime-version=v2-alpha-tpuv5" in arguments


def test_several_slices_are_one_resource(cluster):
    cluster.run("launch/tpu_vm.sh", "create", "pod", "--zone=z", "--type=v6e-256", "--slices=4", "--version=mine")
    [(_, arguments, _)] = cluster.calls
    assert {"--node-count=4", "--runtime-version=mine"} < set(arguments)
    assert not any(argument.startswith("--node-id") for argument in arguments)


def test_the_checkout_goes_to_every_worker(cluster):
    assert cluster.run("launch/tpu_vm.sh", "install", "pod", "--zone=z").returncode == 0
    (_, copy, _), (_, setup, _) = cluster.calls
    assert copy[3] == "scp"
    assert copy[5] == "pod:"
    for call in (copy, setup):
        assert {"--node=all", "--worker=all", "--zone=z"} < set(call)
    assert "-e '.[tpu]'" in setup[-1]


def test_an_installation_that_fails_is_seen(cluster, tmp_path):
    """The worker here got no archive: nothing after that may be tried."""
    result = cluster.run("launch/tpu_vm.sh", "install", "pod", "--zone=z", WORKER=str(tmp_path))
    assert result.returncode != 0
    assert not (tmp_path / "gptjax/.venv").exists()


TRAINER = """\
trap 'echo saved; exit 143' TERM
echo "$@"
while :; do sleep 0.05; done
"""


def test_a_run_starts_once_is_stopped_with_one_signal_and_starts_again(cluster, tmp_path):
    """The scripts that workers get, run here in a home where a stand-in python waits for SIGTERM."""
    python = tmp_path / "gptjax/.venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/usr/bin/env bash\n{TRAINER}")
    python.chmod(0o755)
    log = tmp_path / "gptjax/run.log"

    def verb(name, *arguments):
        return cluster.run("launch/tpu_vm.sh", name, "pod", "--zone=z", *arguments, WORKER=str(tmp_path))

    start = ("start", "--", CONFIG, "--config.data.path=it's here")
    assert "no run is going on" in verb("stop").stdout
    assert verb(*start).returncode == 0
    try:
        again = verb(*start)
        assert (again.returncode, again.stderr) == (1, "a run is going on; stop it first\n")
        wait_for(log)
        assert verb("stop").stdout == "saved\n"
        assert verb(*start).returncode == 0
        wait_for(log, lines=3)
        command = f"-m gptjax.main {CONFIG} --config.data.path=it's here"
        assert log.read_text().splitlines() == [command, "saved", command]
    finally:
        verb("stop")


def wait_for(path: Path, lines: int = 1) -> None:
    """Waits until a file has so many lines."""
    deadline = time.monotonic() + 20
    while not (path.exists() and len(path.read_text().splitlines()) >= lines):
        assert time.monotonic() < deadline, f"{path.name} has less than {lines} lines after 20 seconds"
        time.sleep(0.02)


# ---- SLURM


def test_a_job_has_a_process_for_each_gpu(cluster):
    result = cluster.run(*SLURM, "--gpus-per-node=4", "--", "--config=experiments/gpt3_13b.py", "--workdir=/shared/a b")
    assert result.returncode == 0, result.stderr
    [(name, arguments, _)] = cluster.calls
    assert name == "sbatch"
    script = arguments.index(str(ROOT / "launch/slurm/job.sh"))
    options, flags = arguments[:script], arguments[script + 1 :]
    assert {"--nodes=4", "--ntasks-per-node=4", "--gpus-per-node=4", "--time=24:00:00", f"--chdir={ROOT}"} < set(
        options
    )
    assert "--job-name=gpt3_13b" in options
    assert flags == ["--config=experiments/gpt3_13b.py", "--workdir=/shared/a b"]


def test_the_processes_get_the_signal_and_not_the_script():
    """SLURM reads options only above the first command; B: would signal the script alone."""
    head = (ROOT / "launch/slurm/job.sh").read_text().partition("set -euo")[0]
    assert "#SBATCH --signal=TERM@120\n" in head
    assert "#SBATCH --requeue\n" in head
    assert "#SBATCH --open-mode=append\n" in head


@pytest.mark.parametrize(("code", "again"), [(0, False), (1, False), (2, False), (130, False), (143, True)])
def test_a_job_is_queued_again_where_its_run_was_stopped(cluster, code, again):
    environment = {"CODE": str(code), "SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "12", "FAIL": "gptjax.main"}
    result = cluster.run("launch/slurm/job.sh", CONFIG, **environment)
    assert result.returncode == code
    (name, arguments, _), *after = cluster.calls
    assert (name, arguments[-3:]) == ("srun", ["-m", "gptjax.main", CONFIG])
    assert {"--gpu-bind=none", "--kill-on-bad-exit=0", "--cpus-per-task=12"} < set(arguments)
    assert after == ([("scontrol", ["requeue", "17"], "")] if again else [])


# ---- GKE


def test_a_manifest_describes_the_slices(cluster):
    flags = [CONFIG, r'--config.sample.prompts=["a \ b", "it\'s"]', "--workdir=/mnt/gptjax/runs/a"]
    result = cluster.run(*GKE, "--slices=3", "--namespace=team", "--", *flags)
    assert result.returncode == 0, result.stderr
    [(name, arguments, manifest)] = cluster.calls
    assert (name, arguments) == ("kubectl", ["apply", "-f", "-", "--namespace=team"])
    jobset = yaml.safe_load(manifest)
    assert (jobset["kind"], jobset["metadata"]["name"]) == ("JobSet", "run")
    [jobs] = jobset["spec"]["replicatedJobs"]
    job = jobs["template"]["spec"]
    assert (jobs["replicas"], job["completions"], job["parallelism"]) == (3, 32, 32)
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x4x8",
    }
    [container] = pod["containers"]
    assert [*container["command"], *container["args"]] == ["python", "-m", "gptjax.main", *flags]
    assert container["image"] == "example/gptjax:1"
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "shared"}


def test_a_run_starts_again_unless_the_mistake_is_the_users(cluster):
    cluster.run(*GKE, "--restarts=7", "--", CONFIG)
    spec = yaml.safe_load(cluster.calls[0][2])["spec"]
    assert spec["failurePolicy"]["maxRestarts"] == 7
    assert spec["failurePolicy"]["rules"] == [
        {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]},
    ]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    [rule] = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": "gptjax", "operator": "In", "values": [2]}
    assert (job["backoffLimit"], job["template"]["spec"]["restartPolicy"]) == (0, "Never")


@pytest.mark.parametrize(("topology", "hosts", "chips"), [("v5e:16x16", 64, 4), ("v6e:2x4", 2, 4), ("v4:1x1x1", 1, 1)])
def test_hosts_follow_from_the_topology(cluster, topology, hosts, chips):
    cluster.run("launch/gke/launch.sh", "run", f"--topology={topology}", "--image=i", "--claim=c", "--", CONFIG)
    job = yaml.safe_load(cluster.calls[0][2])["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["completions"] == hosts
    assert job["template"]["spec"]["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}


# ---- sweeps

SWEEP = ("launch/sweep.sh", CONFIG, "--vary=optim.peak_lr=1e-3,3e-3", "--vary=seed=0,1")


def test_a_sweep_runs_every_combination_in_a_workdir_of_its_own(cluster):
    result = cluster.run(*SWEEP, "--launcher=trainer --as {run}", "--", "--config.optim.num_steps=7")
    assert result.returncode == 0, result.stderr
    assert [arguments for _, arguments, _ in cluster.calls] == [
        ["--as", run, CONFIG, f"--workdir=runs/sweep_tiny/{run}", *options, "--config.optim.num_steps=7"]
        for run, options in (
            (f"optim.peak_lr={lr},seed={seed}", (f"--config.optim.peak_lr={lr}", f"--config.seed={seed}"))
            for lr in ("1e-3", "3e-3")
            for seed in (0, 1)
        )
    ]


def test_a_run_that_fails_is_reported_and_the_others_go_on(cluster):
    result = cluster.run(*SWEEP, "--launcher=trainer", FAIL="seed=0", CODE="3")
    assert result.returncode == 1
    assert len(cluster.calls) == 4
    assert result.stderr.splitlines() == [
        "2 of 4 runs failed:",
        "  optim.peak_lr=1e-3,seed=0 (exit code 3)",
        "  optim.peak_lr=3e-3,seed=0 (exit code 3)",
    ]


@pytest.mark.parametrize("code", [130, 143])
def test_a_sweep_that_is_stopped_starts_no_other_run(cluster, code):
    result = cluster.run(*SWEEP, "--launcher=trainer", FAIL="peak_lr=1e-3,seed=1", CODE=str(code))
    assert result.returncode == code
    assert len(cluster.calls) == 2


def test_a_sweep_can_be_handed_to_slurm(cluster):
    cluster.run(*SWEEP, "--launcher=launch/slurm/launch.sh --nodes=2 --job-name={run} --")
    assert [name for name, _, _ in cluster.calls] == ["sbatch"] * 4
    _, arguments, _ = cluster.calls[-1]
    assert {"--nodes=2", "--job-name=optim.peak_lr=3e-3,seed=1", "--config.seed=1"} < set(arguments)


@pytest.mark.slow
def test_a_sweep_gives_main_the_flags_that_it_knows(cluster, command_line, text, tmp_path):
    result = cluster.run(
        *("launch/sweep.sh", CONFIG, "--vary=optim.schedule.name=wsd", f"--workdir={tmp_path}"),
        *(f"--launcher={sys.executable} -m gptjax.main", "--", "--mode=check", f"--config.data.path={text}"),
        **command_line.environment,
    )
    assert result.returncode == 0, result.stderr
    assert "parameters" in result.stdout
