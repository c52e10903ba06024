"""Which runs count, what they are counted as, and which mixtures are refused."""

import dataclasses
import json

import jax.numpy as jnp
import pytest

from gptjax import config
from gptjax.config import ExperimentConfig
from gptjax.data.tokenizer import ByteTokenizer, CharTokenizer
from gptjax.model import accounting
from gptjax.model.config import ModelConfig
from gptjax.optim.config import OptimConfig
from gptjax.sweep.scaling_runs import MIN_RUNS, Run, Runs, read_file, read_sweep, shared
from gptjax.train.checkpoint import Checkpoints
from gptjax.train.config import CheckpointConfig, EvaluationConfig
from gptjax.train.state import TrainState
from gptjax.train.workdir import Workdir
from gptjax.types import UserError

CFG = ExperimentConfig(model=ModelConfig(d_model=32, seq_len=16), optim=OptimConfig(num_steps=20, warmup_steps=2))
BYTES = ByteTokenizer()


def write_run(folder, name, cfg=CFG, loss=2.5, last_step=20, tokenizer=BYTES):
    """Writes what a run leaves behind, its checkpoints excepted."""
    workdir = Workdir(folder / name)
    workdir.path.mkdir(parents=True)
    workdir.write_config(config.to_plain(cfg))
    tokenizer.save(workdir.tokenizer)
    rows = [
        {"step": 10, "split": "valid", "tokens_seen": 5_120, "loss": 3.5},
        {"step": last_step, "split": "train", "tokens_seen": 512 * last_step, "loss": 2.0, "step_seconds": 1.0},
        {"step": last_step, "split": "valid", "tokens_seen": 512 * last_step, "loss": loss},
    ]
    workdir.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return workdir


def replace(**groups):
    """Returns CFG with some options of some groups changed."""
    changed = {name: dataclasses.replace(getattr(CFG, name), **options) for name, options in groups.items()}
    return dataclasses.replace(CFG, **changed)


def test_a_finished_run_is_its_size_its_tokens_and_its_last_validation_loss(tmp_path):
    write_run(tmp_path, "one")
    sized = dataclasses.replace(CFG.model, vocab_size=257)
    (run,) = read_sweep(tmp_path, "total").runs
    assert run == Run("one", accounting.num_params(sized), 10_240, 2.5)


@pytest.mark.parametrize("tie", [True, False])
def test_counted_without_embeddings_the_vocabulary_and_the_context_weigh_nothing(tmp_path, tie):
    write_run(tmp_path, "one", replace(model={"tie_embeddings": tie, "positions": CFG.model.positions}))
    total, bare = (read_sweep(tmp_path, count).runs[0].params for count in ("total", "non_embedding"))
    assert total - bare == 257 * 32 * (1 if tie else 2) + 16 * 32


LEFT_OUT = {
    "cut": ({"last_step": 15}, "not finished: step 15 of 20"),
    "diverged": ({"loss": None}, "loss=None is no positive number"),
    "tuned": ({"cfg": replace(checkpoint={"init_from": "elsewhere"})}, "started from another run"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_run_that_does_not_count_is_named_with_the_reason(tmp_path, name):
    options, reason = LEFT_OUT[name]
    write_run(tmp_path, "good")
    write_run(tmp_path, name, **options)
    found = read_sweep(tmp_path, "total")
    assert [run.name for run in found.runs] == ["good"]
    assert [row.name for row in found.excluded] == [name]
    assert reason in found.excluded[0].reason


def test_a_damaged_run_and_a_folder_that_is_no_run_are_named(tmp_path):
    write_run(tmp_path, "good")
    write_run(tmp_path, "torn").metrics.write_text('{"step": 20, "split": "valid", "lo', encoding="utf-8")
    write_run(tmp_path, "lost").metrics.unlink()
    (tmp_path / "notes").mkdir()
    found = read_sweep(tmp_path, "total")
    assert {row.name: row.reason.split(";")[0] for row in found.excluded} == {
        "torn": "it is not finished: step 0 of 20",
        "lost": "it has no metrics.jsonl",
        "notes": f"{tmp_path / 'notes'} is no workdir: it has no config.json",
    }


def test_runs_may_differ_in_size_length_rate_batch_and_seed(tmp_path):
    write_run(tmp_path, "one")
    other = replace(model={"d_model": 64, "num_layers": 2, "num_heads": 2}, optim={"peak_lr": 1e-2, "warmup_steps": 1})
    write_run(tmp_path, "two", dataclasses.replace(other, seed=1))
    write_run(tmp_path, "three", replace(data={"batch_size": 16}))
    assert len(read_sweep(tmp_path, "total").runs) == 3


MIXED = {
    "model.dropout": {"cfg": replace(model={"dropout": 0.1})},
    "optim.weight_decay": {"cfg": replace(optim={"weight_decay": 0.0})},
    "evaluation.num_windows": {"cfg": dataclasses.replace(CFG, evaluation=EvaluationConfig(num_windows=8))},
    "the tokenizer": {"tokenizer": CharTokenizer("abc")},
}


@pytest.mark.parametrize("option", MIXED)
def test_runs_that_differ_in_anything_else_are_refused(tmp_path, option):
    write_run(tmp_path, "one")
    write_run(tmp_path, "odd", **MIXED[option])
    with pytest.raises(UserError, match=rf"{option} differs: .* in odd; .* in one"):
        read_sweep(tmp_path, "total")


def test_another_text_is_refused_though_its_config_is_the_same(tmp_path):
    """The text is known to the checkpoints alone; a run without one is told of."""
    leaf = jnp.zeros(2)
    for name, text in (("one", "a"), ("odd", "b"), ("bare", None)):
        workdir = write_run(tmp_path, name)
        if text is not None:
            with Checkpoints(workdir.checkpoints) as checkpoints:
                meta = {"fingerprint": {"data.fingerprint": text}}
                checkpoints.save(TrainState(jnp.asarray(20), {"w": leaf}, {"m": leaf}), 20, 640, meta, 2.5)
    with pytest.raises(UserError, match=r"the text differs: 'b' in odd; 'a' in one$"):
        read_sweep(tmp_path, "total")
    (tmp_path / "odd").rename(tmp_path / ".odd")
    assert read_sweep(tmp_path, "total").notes == ("bare kept no checkpoint, which would say what text they learnt",)


def test_nothing_that_a_law_depends_on_is_overlooked():
    """Where checkpoints lie and how often a run is evaluated is no part of it; what is learnt and how is."""
    paths = set(shared(CFG))
    assert {"model.mlp.name", "optim.schedule.name", "data.packing", "tasks.lm.name"} <= paths
    assert not {path for path in paths if path.startswith(("checkpoint", "mesh", "sample"))}
    assert CheckpointConfig() == CFG.checkpoint


# ---- tables


def test_a_table_is_read_in_either_form_and_bad_rows_are_named(tmp_path):
    rows = [
        ("1e6", "2e7", "3.5"),
        ("2000000", "4e7", "nan"),
        ("3e6", "", "3.1"),
        ("4e6", "8e7", "-1"),
        ("1e6", "2e7", "3.5"),
    ]
    table = tmp_path / "runs.csv"
    table.write_text("﻿tokens, params, loss, who\n" + "".join(f"{D},{N},{L},me\n" for N, D, L in rows), "utf-8")
    lines = tmp_path / "runs.jsonl"
    lines.write_text('{"params": 1e6, "tokens": 2e7, "loss": 3.5}\n\n{"params": true, "tokens": 1, "loss": 1}\n[]\n')
    found = read_file(table)
    assert found.runs == (Run("line 2", 1e6, 2e7, 3.5),)
    assert [(row.name, row.reason) for row in found.excluded] == [
        ("line 3", "loss=nan is no positive number"),
        ("line 4", "tokens='' is no positive number"),
        ("line 5", "loss=-1.0 is no positive number"),
        ("line 6", "it is the same as line 2"),
    ]
    found = read_file(lines)
    assert found.runs == (Run("line 1", 1e6, 2e7, 3.5),)
    assert [row.name for row in found.excluded] == ["line 3", "line 4"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "neither .csv nor .jsonl"),
        ("a.csv", "param,tokens,loss\n1,1,1\n", "there is no 'params'; did you mean param?"),
        ("missing.csv", None, "cannot be read"),
    ],
)
def test_what_is_no_table_is_a_user_error(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_file(tmp_path / name)


def points(*sizes_and_tokens):
    runs = tuple(Run(f"r{i}", N, D, 3.0) for i, (N, D) in enumerate(sizes_and_tokens))
    return Runs("here", "so", runs, ())


FULL = [(N, D) for N in (1e6, 2e6, 4e6) for D in (1e7, 2e7, 4e7, 8e7, 16e7)]


def test_enough_is_three_runs_a_coefficient_over_three_sizes_and_lengths():
    assert len(FULL) == MIN_RUNS
    points(*FULL).require_enough()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (points(*FULL[:-1]), "14 runs can be used and 15 are needed"),
        (points(*[(N, D) for N, D in FULL if N > 1e6] * 2), "2 distinct sizes and 3 are needed"),
        (points(*[(N, D) for N, D in FULL if D < 3e7] * 3), "2 distinct numbers of tokens and 3 are needed"),
        (points(*[(N, 20 * N) for N, _ in FULL]), "tokens follow parameters"),
        (points(*[(N, 1e15 / N) for N, _ in FULL]), "tokens follow parameters"),
        (points(), "0 runs can be used"),
    ],
)
def test_too_little_for_a_law_is_a_user_error(given, message):
    with pytest.raises(UserError, match=message):
        given.require_enough()
