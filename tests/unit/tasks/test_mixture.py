"""Several tasks at once: each reads its own rows alone, and comes as often as its weight says.

Shapes: B batch, T position.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.data.tokenizer import ByteTokenizer
from gptjax.registry import Choice
from gptjax.tasks.mixture import build_tasks
from gptjax.tasks.task import Heads, Setting
from gptjax.types import UserError


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.tsv").write_text("".join(f"text {i}\t{'xy'[i % 2]}\n" for i in range(40)))
    (tmp_path / "b.tsv").write_text("".join(f"other {i}\t{'pqr'[i % 3]}\n" for i in range(10)))
    return tmp_path


def tasks(files, temperature=1.0, **options):
    common = {"text": ("0",), "label": "1"}
    return build_tasks(
        {
            "a": Choice("classification", {**common, "train": str(files / "a.tsv")}),
            "b": Choice("classification", {**common, "train": str(files / "b.tsv"), **options}),
        },
        Setting("", ByteTokenizer()),
        temperature,
    )


def test_the_model_needs_a_classifier_for_each(files):
    assert tasks(files).classifiers == (("a", 2), ("b", 3))


def test_one_task_goes_through_unchanged(files):
    """Also where the other is only scored."""
    alone = tasks(files, weight=0.0)
    assert list(alone.learned) == ["a"]
    assert "task" not in alone.label_arrays
    assert alone.classifiers == (("a", 2), ("b", 3))


@pytest.mark.parametrize(("temperature", "ratio"), [(1.0, "rows"), (float("inf"), 1.0)])
def test_rows_come_by_size_or_evenly(files, temperature, ratio):
    a, b = tasks(files, temperature).training_rows(32)
    assert b.weight / a.weight == pytest.approx(len(b) / len(a) if ratio == "rows" else ratio)


def test_weights_multiply(files):
    a, b = tasks(files, float("inf"), weight=3.0).training_rows(32)
    assert b.weight / a.weight == pytest.approx(3.0)


def test_each_loss_counts_its_own_rows_alone(files):
    """Together they are the whole; `loss_weight` changes what is minimised and nothing that is reported."""
    mixture = tasks(files, loss_weight=2.0)
    rows = [part.read(np.arange(2)) for part in mixture.training_rows(32)]
    batch = rows[0]._replace(
        **{name: np.concatenate([getattr(row, name) for row in rows]) for name in batch_fields(rows[0])},
        labels={name: np.concatenate([row.labels[name] for row in rows]) for name in rows[0].labels},
    )
    rng = np.random.default_rng(0)
    logits = {
        name: rng.standard_normal((*batch.tokens_BT.shape, size), np.float32) for name, size in mixture.classifiers
    }
    heads = Heads(unembed=None, classify=lambda x_BTD, name: jnp.asarray(logits[name]))
    found = {name: tuple(map(float, pair)) for name, pair in mixture.metrics(heads, None, batch).items()}
    for number, row in enumerate(rows):
        name = "ab"[number]
        alone = Heads(unembed=None, classify=lambda x_BTD, name, n=number: jnp.asarray(logits[name][2 * n : 2 * n + 2]))
        expected = mixture.tasks[name].metrics(alone, None, row)["loss"]
        np.testing.assert_allclose(found[f"{name}/loss"], expected, rtol=1e-6)
    assert found["loss"] == pytest.approx(tuple(np.add(found["a/loss"], found["b/loss"])))
    assert found["objective"][0] == pytest.approx(found["a/loss"][0] + 2 * found["b/loss"][0])


def batch_fields(batch):
    return [name for name in batch._fields if name != "labels"]


def test_nothing_to_learn_from_is_said(files):
    scored = build_tasks({"a": Choice("classification", {"labels": ("x", "y")})}, Setting("", ByteTokenizer()))
    with pytest.raises(UserError, match=r"no task has a file to learn from"):
        scored.training_rows(32)
