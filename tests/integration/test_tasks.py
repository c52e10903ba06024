"""Tasks on the command line: learned, ended early, scored, written, and what is said of mistakes."""

import json

import jax
import numpy as np
import pytest

from gptjax import inference, model
from gptjax.data.tokenizer import ByteTokenizer
from gptjax.interop.imports import write_model
from gptjax.model.config import ModelConfig
from gptjax.registry import Choice
from tests.integration.command_line import PLAINLY, rows

EXPERIMENT = """
from experiments import base

def get_config():
    config = base.get_config()
    config.tasks = {{
        "mood": {{"name": "classification", "train": "{train}", "valid": "{valid}", "text": ("0",), "label": "1"}},
        "more": {{
            "name": "multiple_choice", "valid": "{questions}", "template": "{{query}} is", "answer": "gold",
        }},
    }}
    config.model.update(num_layers=1, num_heads=2, d_model=16, seq_len=32)
    config.data.batch_size = 8
    config.optim.update(num_steps=40, warmup_steps=0, peak_lr=1e-9)
    config.evaluation.update(every=5, metric="mood/accuracy", patience=2)
    config.sample.prompts = ()
    return config
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A file whose learning rate is so small that nothing gets better after the first evaluation."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "train.tsv").write_text("".join(f"text {i}\t{'ab'[i % 2]}\n" for i in range(40)))
    (folder / "valid.tsv").write_text("fine\ta\ndull\tb\nodd\ta\n")
    (folder / "questions.jsonl").write_text('{"query": "grass", "choices": ["green", "red"], "gold": 0}\n')
    names = {name: folder / file for name, file in (("train", "train.tsv"), ("valid", "valid.tsv"))}
    text = EXPERIMENT.format(**names, questions=folder / "questions.jsonl")
    (folder / "mood.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def trained(command_line, experiment):
    """The arguments of the experiment's run, and what it said."""
    arguments = (f"--config={experiment / 'mood.py'}", f"--workdir={experiment / 'run'}")
    return arguments, command_line.run("main", *arguments, XLA_FLAGS=PLAINLY)


def test_a_run_ends_early_is_scored_and_says_what_it_predicts(command_line, experiment, trained):
    """Two evaluations without anything better are enough; run again, it is done; then every task is scored."""
    arguments, result = trained
    assert result.returncode == 0, result.stderr
    said = "done at step 15, not better since step 5 (mood/accuracy)"
    assert said in result.stdout
    valid = rows(experiment / "run", "valid")
    assert [row["step"] for row in valid] == [5, 10, 15]
    assert {"loss", "mood/loss", "mood/accuracy", "mood/macro_f1", "more/accuracy"} <= valid[0].keys()
    assert "data      mood: 40 training examples" in result.stdout
    again = command_line.run("main", *arguments, XLA_FLAGS=PLAINLY)
    assert (again.returncode, said in again.stdout) == (0, True)

    scored = command_line.run("main", *arguments, "--mode=evaluate", "--step=best", XLA_FLAGS=PLAINLY)
    assert scored.returncode == 0, scored.stderr
    assert "| mood | accuracy |" in scored.stdout
    folder = experiment / "run" / "evaluation" / "mood" / "step-5"
    assert {file.name for file in folder.iterdir()} == {"results.md", "results.json", "mood.tsv", "more.jsonl"}
    metrics = json.loads((folder / "results.json").read_text())["tasks"]["mood"]["metrics"]
    assert metrics["accuracy"] == valid[0]["mood/accuracy"]
    predicted = [line.split("\t") for line in (folder / "mood.tsv").read_text().splitlines()]
    assert [text for text, _ in predicted] == ["fine", "dull", "odd"]
    assert {label for _, label in predicted} <= {"a", "b"}


def test_a_model_leaves_for_another_workdir_with_its_classifiers(entry_point, experiment, trained):
    """And is refused there too for labels that it does not know."""
    moved = experiment / "moved"
    result = entry_point("convert", f"--from={experiment / 'run'}", f"--to={moved}", "--step=5", "--format=workdir")
    assert result.returncode == 0, result.stderr
    before, after = inference.load(str(experiment / "run"), 5), inference.load(str(moved))
    assert after.classes == {"mood": ["a", "b"]}
    for x, y in zip(*(jax.tree.leaves(loaded.params["classifiers"]) for loaded in (before, after)), strict=True):
        np.testing.assert_array_equal(x, y)
    flags = (f"--config={experiment / 'mood.py'}", f"--workdir={moved}", "--mode=evaluate")
    result = entry_point("main", *flags, "--config.tasks.mood.labels=b,a")
    assert (result.returncode, "was trained for other labels" in result.stderr) == (2, True)


@pytest.fixture
def both_ways(tmp_path):
    """The folder of a model that sees what it would be asked for."""
    cfg = ModelConfig(
        vocab_size=257, d_model=16, num_layers=1, num_heads=2, seq_len=32, attention=Choice("bidirectional")
    )
    write_model(tmp_path / "run", cfg, model.init_params(cfg, jax.random.key(0)), ByteTokenizer(), imported_from="here")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("main", ("--mode=evaluate", "--config={mood}")),
        ("sample.__main__", ()),
        ("lm_eval.__main__", ("--tasks=lambada",)),
    ],
)
def test_a_model_that_sees_both_ways_is_asked_for_no_token(entry_point, experiment, both_ways, program, arguments):
    """Whoever asks is told why, at once: its own numbers would be those of reading the answer."""
    flags = (flag.format(mood=experiment / "mood.py") for flag in arguments)
    result = entry_point(program, f"--workdir={both_ways}", *flags)
    said = "tasks.more predicts the next token" if program == "main" else "reads and does not write"
    assert (result.returncode, said in result.stderr) == (2, True), result.stderr
    assert "tasks.mood" not in result.stderr


@pytest.mark.slow
def test_a_metric_that_none_measures_is_said_before_the_first_step(entry_point, experiment, tmp_path):
    flag = "--config.evaluation.metric=mood/f2"
    result = entry_point("main", f"--config={experiment / 'mood.py'}", f"--workdir={tmp_path}/run", flag)
    assert result.returncode == 2
    assert "evaluation.metric='mood/f2' is not measured; valid: loss, mood/loss, mood/accuracy" in result.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


MISTAKES = {
    "an unknown label": ("valid.tsv", "fine\tgood\n", r"valid.tsv:1: the label 'good' is unknown to tasks.mood"),
    "a missing column": ("valid.tsv", "fine\ta\ndull\n", r"valid.tsv:2: this line has 1 columns where line 1 has 2"),
    "no UTF-8": ("train.tsv", b"fine\ta\n\xff\tb\n", r"train.tsv:2"),
    "a gold beyond the choices": (
        "questions.jsonl",
        '{"query": "q", "choices": ["a"], "gold": 7}\n',
        "gold='7' is none",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_file_is_named_with_its_line(entry_point, trained, tmp_path, name):
    file, content, words = MISTAKES[name]
    changed = tmp_path / file
    changed.write_bytes(content if isinstance(content, bytes) else content.encode())
    option = {"valid.tsv": "mood.valid", "train.tsv": "mood.train", "questions.jsonl": "more.valid"}[file]
    result = entry_point("main", *trained[0], "--mode=evaluate", f"--config.tasks.{option}={changed}")
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("tasks.mood.labels_of=1", "tasks.mood.labels_of: 'classification' has no option 'labels_of'; did you mean"),
        ("tasks.moood.label=1", "there is no --config.tasks.moood.label; did you mean mood?"),
        ("tasks.mood=1", "--config.tasks.mood is a choice; set --config.tasks.mood.name"),
        ("tasks=1", "--config.tasks holds choices; set an option of one, such as --config.tasks.mood.name"),
        ("tasks.mood.valid=no.tsv", "tasks.mood.valid='no.tsv' is no file that exists; give the file's path"),
    ],
)
def test_a_wrong_flag_of_a_task_says_what_is_right(entry_point, experiment, flag, words):
    result = entry_point("main", f"--config={experiment / 'mood.py'}", "--mode=check", f"--config.{flag}")
    assert result.returncode == 2
    assert words in result.stderr
