"""What every task in the table owes: masked targets do not matter, sums add up over rows, and it can be learned.

Shapes: B batch, T position.
"""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from gptjax import evaluation, experiment
from gptjax.config import ExperimentConfig
from gptjax.data.config import DataConfig
from gptjax.model.config import ModelConfig
from gptjax.optim.config import OptimConfig
from gptjax.registry import Choice
from gptjax.sharding import MeshConfig
from gptjax.tasks.table import TASKS
from gptjax.tasks.task import ExampleTask
from gptjax.train.loss import make_loss_fn
from gptjax.train.state import create_state
from tests.params import random_params

FOLDER = {}  # filled by the fixture, for what is built once a case


@dataclasses.dataclass(frozen=True)
class Case:
    """A task, its options, and the file that it is learned from and scored on."""

    task: str
    file: str
    text: str
    options: dict = dataclasses.field(default_factory=dict)
    head: str = "lm"


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


LABELLED = "a fine film\tgood\na dull film\tbad\nso fine\tgood\nfar too dull\tbad\na bore\tbad\nwhat a joy\tgood\n"
ENTITIES = "Ann B-PER\nmet O\nBob B-PER\nin O\nBonn B-LOC\n\nBob B-PER\nRoy I-PER\nleft O\n\nBonn B-LOC\nBob B-PER\n\n"
ROLES = (
    "0\tAnn\tX\t-\t-\t(ARG0*)\n1\tsaw\tX\tsee\tsee.01\t(V*)\n2\tBob\tX\t-\t-\t(ARG1*)\n\n"
    "0\tToday\tX\t-\t-\t(ARGM-TMP*)\n1\tBob\tX\t-\t-\t(ARG0*)\n2\tran\tX\trun\trun.01\t(V*)\n\n"
)
PAIRS = "red\trot\nblue\tblau\ngreen\tgrün\n"
QUESTIONS = jsonl(
    {"query": "1 + 1 =", "choices": ["two", "three"], "gold": 0},
    {"query": "1 + 2 =", "choices": ["two", "three"], "gold": 1},
)
CHAT = jsonl({"prompt": "hi", "response": "ho"}, {"prompt": "who?", "response": "me"})
CHOSEN = jsonl(
    {"prompt": "hi", "chosen": "hello", "rejected": "go"}, {"prompt": "bye", "chosen": "so long", "rejected": "ugh"}
)
TWO_COLUMNS = {"text": ("0",), "label": "1"}
SOURCE_TARGET = {"source": ("0",), "target": ("1",), "max_tokens": 8, "measures": ("exact_match",)}
# Each as it is by default, and with what it offers.
CASES = {
    "language_modeling": Case(
        "language_modeling", "text.txt", "one two three four five six seven eight nine ten\n" * 30
    ),
    "language_modeling, all options": Case(
        "language_modeling",
        "text.txt",
        "one two three four five six seven eight nine ten\n" * 30,
        {"z_loss": 1e-3, "label_smoothing": 0.01, "num_ahead": 1},
        "multi_token",
    ),
    "classification": Case("classification", "reviews.tsv", LABELLED, TWO_COLUMNS),
    "classification, and the next token": Case(
        "classification", "reviews.tsv", LABELLED, {**TWO_COLUMNS, "lm_weight": 0.5}
    ),
    "classification, several labels": Case(
        "classification",
        "moods.tsv",
        LABELLED.replace("so fine\tgood", "so fine\tgood,long"),
        {**TWO_COLUMNS, "separator": ","},
    ),
    "tagging": Case("tagging", "names.conll", ENTITIES),
    "tagging, BIOES once at the last sub-word": Case(
        "tagging", "names.conll", ENTITIES, {"scheme": "BIOES", "twice": False, "sub_word": "last"}
    ),
    "roles": Case("roles", "roles.conll", ROLES),
    "seq2seq": Case("seq2seq", "pairs.tsv", PAIRS, SOURCE_TARGET),
    "seq2seq, beams": Case("seq2seq", "pairs.tsv", PAIRS, {**SOURCE_TARGET, "num_beams": 2}),
    "prompted": Case("prompted", "reviews.tsv", LABELLED, TWO_COLUMNS),
    "perplexity": Case("perplexity", "text.txt", "one two three four five six seven eight nine ten\n" * 30),
    "multiple_choice": Case("multiple_choice", "questions.jsonl", QUESTIONS),
    "multiple_choice, shots and letters": Case(
        "multiple_choice",
        "questions.jsonl",
        QUESTIONS,
        {"shots": 1, "letters": True, "template": "{query} {choices}\n"},
    ),
    "chat": Case("chat", "chat.jsonl", CHAT, {"template": "plain", "max_tokens": 8, "measures": ("exact_match",)}),
    **{
        f"preference, {loss}": Case(
            "preference", "chosen.jsonl", CHOSEN, {"template": "plain", "loss": loss, "beta": beta}
        )
        for loss, beta in (("dpo", 0.1), ("ipo", 0.1), ("simpo", 2.0), ("orpo", 0.1))
    },
}
FIRST = ("language_modeling", "classification", "tagging", "seq2seq", "preference, dpo")
"""A loss of each kind; the others share theirs with one of these."""
cases = pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] * (case not in FIRST)) for case in CASES],
)
QUICK = ("classification",)
"""What is learned in the default suite; the others take as long each."""
learned = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] * (case not in QUICK))
        for case in CASES
        if not case.startswith(("multiple_choice", "perplexity"))
    ],
)
MAIN = {"classification, several labels": "subset_accuracy", "tagging": "f1", "roles": "f1"}


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory):
    FOLDER["path"] = tmp_path_factory.mktemp("tasks")
    for case in CASES.values():
        (FOLDER["path"] / case.file).write_text(case.text)


def test_every_task_of_the_table_is_a_case():
    assert {case.task for case in CASES.values()} == set(TASKS)


@functools.cache
def build(case):
    """Returns the parts of a run on eight devices."""
    it = CASES[case]
    path = str(FOLDER["path"] / it.file)
    files = {} if it.task == "language_modeling" else {"train": path, "valid": path}
    cfg = ExperimentConfig(
        tasks={"it": Choice(it.task, {**it.options, **files})},
        model=ModelConfig(d_model=32, num_layers=1, num_heads=2, seq_len=96, head=Choice(it.head)),
        data=DataConfig(path=None if files else path, batch_size=8, cache_dir=str(FOLDER["path"]), num_threads=0),
        optim=OptimConfig(num_steps=150, warmup_steps=0, peak_lr=1e-2, schedule=Choice("constant"), weight_decay=0.0),
        mesh=MeshConfig(fsdp=4, replica=2),
    )
    return experiment.build(cfg)


def batch(case):
    """Returns rows, the second of which counts no more than a part of its targets."""
    built = build(case)
    (task,) = built.tasks.tasks.values()
    rows = task.training_rows(96)[0] if case.startswith("language") else task.validation_rows(96, None)
    found = rows.read(np.arange(4))
    mask_BT = found.loss_mask_BT.copy()
    first = np.flatnonzero(mask_BT[0])
    mask_BT[0, first[len(first) // 2 + 1 :]] = 0
    return found._replace(loss_mask_BT=mask_BT)


@functools.cache
def program(case):
    """Returns random parameters and a compiled (params, batch) -> (metrics, gradients of the loss)."""
    built = build(case)
    (task,) = built.tasks.tasks.values()
    loss_fn = make_loss_fn(built.model, task, None)

    # What the programs compute is under test, not how fast: compiling them takes half the time so.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(params, batch):
        (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch, 0, 0)
        return metrics, grads

    return random_params(built.model, 0.1), run


@cases
def test_metrics_are_sums_and_counts_in_float32(case):
    """The one that is trained is `loss`."""
    params, run = program(case)
    result, _ = run(params, batch(case))
    assert "loss" in result
    for sum_and_count in result.values():
        assert [(x.shape, x.dtype) for x in sum_and_count] == [((), np.float32)] * 2


@cases
def test_masked_targets_do_not_matter(case):
    """Not to the last bit of any metric."""
    params, run = program(case)
    data = batch(case)
    changed = np.where(data.loss_mask_BT == 0, 1 - np.minimum(data.targets_BT, 1), data.targets_BT)
    before, after = (jax.tree.map(float, run(params, d)[0]) for d in (data, data._replace(targets_BT=changed)))
    assert before == after


@cases
def test_halves_of_a_batch_add_up_to_the_whole(case):
    """Although they hold different numbers of counted targets: so any split of a batch gives the same means."""
    params, run = program(case)
    data = batch(case)
    halves = [
        run(params, jax.tree.map(lambda x, rows=rows: x[rows], data))[0]
        for rows in (slice(0, None, 2), slice(1, None, 2))
    ]
    added = jax.tree.map(lambda a, b: float(a) + float(b), *halves)
    for metric, (total, count) in run(params, data)[0].items():
        np.testing.assert_allclose(added[metric][0], total, rtol=1e-4, atol=1e-5, err_msg=metric)
        np.testing.assert_allclose(added[metric][1], float(count), rtol=1e-6, err_msg=metric)


@cases
def test_nothing_counted_is_nothing(case):
    """A batch of padding adds 0 to every sum and every count, and its gradient is 0."""
    params, run = program(case)
    nothing = jax.tree.map(np.zeros_like, batch(case))
    metrics, grads = run(params, nothing)
    assert set(map(float, jax.tree.leaves(metrics))) == {0.0}
    assert all(np.all(np.asarray(grad) == 0) for grad in jax.tree.leaves(grads))


@functools.cache
def trained(case):
    """Returns the experiment and its state after all steps, with the first and the last loss."""
    built = build(case)
    state = create_state(built.init_params, built.tx, jax.random.key(0), built.abstract)
    built = evaluation.with_references(built, state.params)
    batches = built.train_batches(0)
    losses = []
    for _ in range(built.cfg.optim.num_steps):
        state, metrics = built.train_step(state, next(batches))
        losses.append(metrics["loss"])
    batches.close()
    first, last = (float(total / count) for total, count in (losses[0], losses[-1]))
    return built, state, first, last


@learned
def test_a_tiny_model_learns_a_tiny_file(case):
    """The loss falls to a tenth, and the task's own metric is all that it can be."""
    built, state, first, last = trained(case)
    assert last < (first / 2 if "ahead" in case or case.startswith("language_modeling, all") else first / 5)
    found = evaluation.numbers(evaluation.score_all(built, state.params))
    name = next((MAIN[key] for key in MAIN if case.startswith(key)), None)
    if isinstance(built.tasks.tasks["it"], ExampleTask):
        name = name or ("exact_match" if "exact_match" in found else "accuracy")
        assert found[name] == 1.0


@learned
def test_predictions_are_written_in_the_format_of_the_input(case, tmp_path):
    """What is read of them again is what the model said; of a file that it knows by heart, the file."""
    built, state, *_ = trained(case)
    results = evaluation.score_all(built, state.params)
    files = evaluation.write(results, tmp_path, {})
    task = built.tasks.tasks["it"]
    if not isinstance(task, ExampleTask):
        assert [file.name for file in files] == ["results.md", "results.json"]
        return
    assert files[-1].suffix == "." + CASES[case].file.split(".")[1]
    if not case.startswith(("preference", "chat")):
        assert files[-1].read_text().rstrip() == CASES[case].text.rstrip()
    document = json.loads((tmp_path / "results.json").read_text())["tasks"]["it"]
    assert document["examples"] == len(task.examples("valid"))
    assert all(low <= document["metrics"][name] <= high for name, (low, high) in document["intervals"].items())
