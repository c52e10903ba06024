"""Reviewed results: what an experiment resolves to, what its parameters are and where they lie, how it starts to learn.

A refactor leaves them alone. A change of numerics or of the schema rewrites them with `pytest --update-golden`, and the
difference is read before it is committed.
"""

import dataclasses
import json
import math

import jax
import pytest

from gptjax import config, model
from gptjax.experiment import build
from gptjax.model import accounting
from gptjax.model.config import ModelConfig
from gptjax.registry import Choice
from gptjax.sharding import Layout, MeshConfig, make_mesh, shardings
from gptjax.train.state import create_state
from tests import experiments

every = pytest.mark.parametrize("name", experiments.NAMES)

LLAMA = ModelConfig(
    d_model=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    seq_len=32,
    positions=Choice("rotary"),
    norm=Choice("rmsnorm"),
    mlp=Choice("swiglu"),
    use_bias=False,
    tie_embeddings=False,
)
MODELS = {
    "gpt2": ModelConfig(d_model=64, num_layers=2, num_heads=4, seq_len=32, dropout=0.1),
    "llama": LLAMA,
    "llama_bfloat16": dataclasses.replace(LLAMA, dtype="bfloat16"),
}


@every
def test_an_experiment_resolves_to_the_reviewed_config(golden, name, monkeypatch):
    monkeypatch.setenv("GPTJAX_DATA", "data")  # not a folder of this machine
    text = json.dumps(config.to_plain(experiments.load(name)), indent=1) + "\n"
    assert text == golden(f"configs/{name}.json", text)


@every
def test_parameters_have_the_reviewed_shapes_and_shardings(golden, name):
    """Path, shape, and what a device holds of it on fsdp 4 x tensor 2, or on fsdp 8 where the heads are odd."""
    cfg = experiments.load(name).model.resolve()
    cfg = dataclasses.replace(cfg, vocab_size=cfg.vocab_size or 257)
    tensor = math.gcd(cfg.num_kv_heads, 2)
    layout = Layout(make_mesh(MeshConfig(fsdp=8 // tensor, tensor=tensor)), "fsdp_tp")
    shapes = model.param_shapes(cfg)
    placed = jax.tree.leaves(shardings(layout, model.logical_axes(cfg), shapes))
    rows = [
        f"{row.path:36} {row.shape!s:24} {tuple(sharding.spec)!s:40} {sharding.shard_shape(row.shape)}\n"
        for row, sharding in zip(accounting.parameter_table(cfg), placed, strict=True)
    ]
    text = "".join([*rows, f"{accounting.num_params(cfg):,} parameters\n"])
    assert text == golden(f"parameters/{name}.txt", text)


@pytest.mark.parametrize("name", [pytest.param(m, marks=[pytest.mark.slow] * (m != "gpt2")) for m in MODELS])
def test_the_first_losses_are_the_reviewed_ones(golden, tmp_path, name):
    """Three steps, with accumulation, on eight devices: initialisation, order of the data, dropout, loss and update.

    The last digits depend on the processor's vector width and on the version of XLA, hence the tolerance: a few units
    of float32's rounding, or of bfloat16's, after three updates.
    """
    text = tmp_path / "squares.txt"
    text.write_text("".join(f"{i} times {i} is {i * i}\n" for i in range(3000)))
    cfg = experiments.load("tiny")
    cfg = dataclasses.replace(
        cfg,
        model=MODELS[name],
        data=dataclasses.replace(cfg.data, path=str(text), cache_dir=str(tmp_path), packing="documents"),
        train=dataclasses.replace(cfg.train, max_sequences_per_device=2),
    )
    experiment = build(cfg)
    state = create_state(experiment.init_params, experiment.tx, jax.random.key(cfg.seed), experiment.abstract)
    batches = experiment.train_batches(0)
    rows = []
    for _ in range(3):
        state, metrics = experiment.train_step(state, next(batches))
        loss_sum, count = metrics["loss"]
        rows.append(
            {
                "loss": float(loss_sum / count),
                "grad_norm": float(metrics["grad_norm"][0]),
                "batch_checksum": int(metrics["batch_checksum"][0]),
            }
        )
    batches.close()
    expected = json.loads(golden(f"losses/{name}.json", json.dumps(rows, indent=1) + "\n"))
    rough = 1e-3 if cfg.model.dtype == "bfloat16" else 1e-5
    for row, reviewed in zip(rows, expected, strict=True):
        assert row["batch_checksum"] == reviewed["batch_checksum"]
        assert row["loss"] == pytest.approx(reviewed["loss"], rel=rough)
        assert row["grad_norm"] == pytest.approx(reviewed["grad_norm"], rel=10 * rough)
