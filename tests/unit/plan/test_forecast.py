"""Forecasts of a small model: for virtual CPUs, and for chips whose compilers are installed."""

import dataclasses

import pytest

from gptjax.config import ExperimentConfig
from gptjax.plan import compiler
from gptjax.plan.forecast import forecast, sized_without_text
from gptjax.plan.report import best, summary, table
from gptjax.plan.topology import open_fleet
from gptjax.registry import Choice
from gptjax.sharding import MeshConfig
from gptjax.types import UserError
from tests.unit.plan.compilers import needs_gpu_compiler, needs_tpu_compiler

KEYS = {
    *("num_params", "num_chips", "mesh", "fits", "peak_hbm_bytes", "hbm_capacity_bytes", "argument_bytes"),
    *("temp_bytes", "flops_per_step", "model_flops_per_step", "wire_bytes_per_chip", "step_seconds", "bound"),
    *("mfu_bound", "compile_seconds"),
}


def experiment(rules="fsdp", **mesh):
    cfg = ExperimentConfig()
    model = dataclasses.replace(
        cfg.model,
        **dict(vocab_size=256, d_model=128, num_heads=2, num_layers=2, seq_len=128),
        **dict(use_bias=False, dtype="bfloat16", remat="full"),
    )
    data = dataclasses.replace(cfg.data, batch_size=32)
    return dataclasses.replace(cfg, model=model, data=data, mesh=MeshConfig(**mesh, rules=rules))


@pytest.fixture(scope="module")
def on_cpus():
    return forecast(experiment(), open_fleet("cpu:8"))


@pytest.mark.slow
def test_the_figures_of_a_plan_agree_with_each_other(on_cpus):
    plan = on_cpus
    assert {field.name for field in dataclasses.fields(plan)} >= KEYS
    assert plan.num_params == 256 * 128 + 128 * 128 + 2 * (12 * 128 * 128 + 4 * 128) + 2 * 128
    assert (plan.num_chips, plan.mesh["fsdp"], plan.sequences_per_device, plan.accumulation) == (8, 8, 4, 1)
    assert plan.param_bytes == 4 * plan.num_params / 8
    assert 2 * plan.param_bytes <= plan.optimizer_bytes < 2 * plan.param_bytes + 100  # two moments, and counters
    assert plan.argument_bytes >= plan.param_bytes + plan.optimizer_bytes
    assert plan.peak_hbm_bytes == plan.argument_bytes + plan.temp_bytes
    assert plan.flops_per_step > plan.model_flops_per_step > 0
    assert sum(plan.wire_bytes_per_chip.values()) == sum(plan.wire_bytes_by_axis.values()) > 0
    assert set(plan.wire_bytes_by_axis) == {"fsdp"}
    assert plan.step_seconds[plan.bound] == max(plan.step_seconds.values())
    assert plan.tokens_per_second == pytest.approx(32 * 128 / plan.step_seconds[plan.bound])
    assert plan.days * 86_400 == pytest.approx(1000 * plan.step_seconds[plan.bound])
    assert plan.chip_hours == pytest.approx(plan.days * 24 * 8)


def test_weights_gathered_for_every_pass_are_on_the_wires(on_cpus):
    """Full remat gathers each block's matrices three times; CPUs move them in float32 or bfloat16."""
    matrices = 2 * 12 * 128 * 128
    gathered = on_cpus.wire_bytes_per_chip["all-gather"]
    assert 2 * 2 * matrices <= gathered <= 4 * (4 * matrices + 4 * 256 * 128)


@pytest.mark.parametrize(
    ("name", "rules", "axes"),
    [
        pytest.param("v5e:2x2", "fsdp_tp", {"tensor": 2}, marks=[needs_tpu_compiler, pytest.mark.slow]),
        pytest.param("v5p:2x2x1", "fsdp_manual", {}, marks=[needs_tpu_compiler, pytest.mark.slow]),
        pytest.param("h100:2x2", "fsdp_tp", {"tensor": 2}, marks=[needs_gpu_compiler, pytest.mark.slow]),
    ],
)
def test_absent_chips_are_planned_for(name, rules, axes):
    """Their own kernels are in it: what a mask hides from them is not all computed."""
    plan = forecast(experiment(rules, **axes), open_fleet(name))
    assert plan.fits
    assert plan.argument_bytes < plan.peak_hbm_bytes < 2**30
    assert sum(plan.wire_bytes_per_chip.values()) > 2 * plan.num_params
    assert {"fsdp", *axes} <= set(plan.wire_bytes_by_axis)
    assert all(seconds > 0 for seconds in plan.step_seconds.values())
    assert 0 < plan.mfu_bound < 1
    assert "fits" in "\n".join(table(plan))


def test_a_step_that_the_compiler_refuses_still_says_what_it_needs(on_cpus, monkeypatch):
    class Refusing:
        def lower(self, **_):
            return self

        def compile(self, **_):
            message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 18.42G of 15.75G hbm."
            raise compiler.jax.errors.JaxRuntimeError(message)

        jaxpr = compiler.jax.make_jaxpr(lambda: 0)()

    monkeypatch.setattr("gptjax.program.Program.trace_train_step", lambda _: Refusing())
    plan = forecast(experiment(), open_fleet("cpu:8"))
    assert not plan.fits
    assert plan.peak_hbm_bytes == int(18.42 * 2**30)
    assert plan.wire_bytes_per_chip is plan.bound is plan.mfu_bound is None
    assert "DOES NOT FIT" in "\n".join(table(plan))
    assert summary(plan) == "18.42 GiB, does not fit"
    assert best([plan], "the least time of a step") == [
        "nothing that was tried fits; take more chips, or shorter sequences"
    ]
    assert "--config.mesh.fsdp=8" in "\n".join(best([plan, on_cpus], "the least time of a step"))


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        (
            "RESOURCE_EXHAUSTED: memory required for HLO temporaries (68.5G) exceeds available HBM (30.75G)",
            68.5 * 2**30,
        ),
        ("RESOURCE_EXHAUSTED: ... Used 512.00M of 15.75G hbm", 2**29),
        ("RESOURCE_EXHAUSTED: in memory space vmem", None),
        ("INTERNAL: Used 1.0G", None),
    ],
)
def test_only_a_full_memory_is_a_refusal(message, needed):
    assert compiler._needed_bytes(message) == needed


def test_a_vocabulary_that_only_a_text_could_tell_is_asked_for():
    cfg = ExperimentConfig()
    bytewise = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, tokenizer=Choice("byte")))
    assert sized_without_text(bytewise).vocab_size == 257
    unknown = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, tokenizer=Choice("bpe")))
    with pytest.raises(UserError, match=r"set --config\.model\.vocab_size=NUMBER"):
        sized_without_text(unknown)


def test_a_batch_or_mesh_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="needs a multiple of 3 devices"):
        forecast(experiment("fsdp_tp", tensor=3), open_fleet("cpu:8"))
    cfg = experiment()
    with pytest.raises(UserError, match=r"data\.batch_size=12 does not divide over 8"):
        forecast(dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, batch_size=12)), open_fleet("cpu:8"))
    with pytest.raises(UserError, match="does not divide over axis tensor"):
        forecast(experiment("fsdp_tp", tensor=4), open_fleet("cpu:8"))
