"""`python -m gptjax.plan` as a user types it."""

import json

import pytest

from tests.unit.plan.compilers import needs_gpu_compiler, needs_tpu_compiler

TINY = "--config=experiments/tiny.py"
SIX_BILLION = (
    "--config=experiments/gpt3_6700m.py",
    "--config.model.num_layers=48",
    "--config.model.d_model=3072",
    "--config.model.num_heads=12",
    "--config.model.vocab_size=32768",
    "--config.model.use_bias=false",
    "--config.model.remat=full",
    "--config.data.batch_size=128",
    "--config.train.max_sequences_per_device=2",
    "--config.mesh.rules=fsdp",
)


def test_a_plan_is_a_table_and_json(command_line, tmp_path):
    result = command_line.run("plan", TINY, "--topology=cpu:4", f"--json={tmp_path / 'plan.json'}")
    assert result.returncode == 0, result.stderr
    assert "437,888" in result.stdout
    assert "fsdp 4, rules fsdp, remat none" in result.stdout
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["num_params"] == 437_888
    assert plan["mesh"] == {"replica": 1, "fsdp": 4, "expert": 1, "context": 1, "tensor": 1}
    assert set(plan["step_seconds"]) == {"compute", "hbm", "interconnect"}
    assert set(plan["wire_bytes_per_chip"]) >= {"all-gather", "all-reduce", "reduce-scatter"}


@pytest.mark.slow
def test_a_search_shows_each_try_and_the_best(command_line, tmp_path):
    search = ("--search", "--by=wires", "--limit=1", f"--json={tmp_path / 'plan.json'}")
    result = command_line.run("plan", TINY, "--topology=cpu:2", *search)
    assert result.returncode == 0, result.stderr
    assert "the best of" in result.stdout
    assert "--config.mesh.fsdp=" in result.stdout
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["fits"]
    assert plan["search"][0]["bound"] == plan["bound"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--topology=v9:2x2"], "no chip 'v9'"),
        (["--topology=v5p:2x2"], "not of the form v5p:AxBxC"),
        (["--topology=cpu:4", "--config.mesh.tensor=3"], "multiple of 3 devices"),
        (["--topology=cpu:3"], "data.batch_size=32 does not divide"),
        (["--topology=cpu:4", "--config.data.tokenizer.name=bpe"], "--config.model.vocab_size=NUMBER"),
        (["--topology=cpu:4", "--json=/nowhere/plan.json"], "there is no folder /nowhere"),
        (["--topology=cpu:4", "--limit=0"], "--limit=0"),
        (["--topology=cpu:4", "--by=wire"], "--by=wire is nothing to search by; did you mean wires?"),
        ([], "--topology"),
    ],
)
def test_a_mistake_is_one_plain_line(entry_point, arguments, words):
    result = entry_point("plan.__main__", TINY, *arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_the_help_fits_a_screen(command_line):
    result = command_line.run("plan", "--help")
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) <= 24


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "peak", "wire", "kind"),
    [
        pytest.param("v5p:4x4x4", 3.5, 41.6, "all-reduce", marks=needs_tpu_compiler),
        pytest.param("h100:8x8", 4.6, 31.2, "reduce-scatter", marks=needs_gpu_compiler),
    ],
)
def test_six_billion_parameters_on_64_chips(command_line, tmp_path, topology, peak, wire, kind):
    """Sharded over all, by XLA: TPUs sum gradients whole, GPUs scatter them as they are summed. In GiB."""
    file = tmp_path / "plan.json"
    result = command_line.run("plan", *SIX_BILLION, f"--topology={topology}", f"--json={file}", timeout=600)
    assert result.returncode == 0, result.stderr
    plan = json.loads(file.read_text())
    assert plan["fits"]
    assert plan["peak_hbm_bytes"] / 2**30 == pytest.approx(peak, rel=0.15)
    assert sum(plan["wire_bytes_per_chip"].values()) / 2**30 == pytest.approx(wire, rel=0.05)
    assert plan["wire_bytes_per_chip"][kind] / 2**30 > 10


@pytest.mark.slow
@needs_tpu_compiler
def test_the_largest_preset_takes_less_than_90_seconds(command_line, tmp_path):
    file = tmp_path / "plan.json"
    result = command_line.run(
        "plan", "--config=experiments/gpt3_175b.py", "--topology=v5p:8x8x8", f"--json={file}", timeout=600
    )
    assert result.returncode == 0, result.stderr
    plan = json.loads(file.read_text())
    assert plan["fits"]
    assert plan["compile_seconds"] < 90
    assert plan["num_params"] == pytest.approx(175e9, rel=0.01)
