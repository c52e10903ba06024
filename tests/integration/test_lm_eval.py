"""`python -m gptjax.lm_eval` on tasks in local files: its table, its numbers beside ours, and mistakes."""

import fnmatch
import importlib.util
import json
import subprocess
import sys
import types

import jax
import pytest

from gptjax import model
from gptjax.data.tokenizer import ByteTokenizer
from gptjax.interop.imports import write_model
from gptjax.lm_eval.__main__ import found
from gptjax.model.config import ModelConfig
from gptjax.types import UserError
from tests.integration.command_line import ROOT
from tests.integration.test_bad_input import assert_plain_mistake

installed = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="the extra `lm-eval` is not installed"
)
OFFLINE = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
NAMES = ["arc_easy", "arc_hard", "mmlu"]
HARNESS = types.SimpleNamespace(all_tasks=NAMES, match_tasks=lambda names: fnmatch.filter(NAMES, names[0]))
"""Stands in for the harness, which takes a while to read its tasks."""
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder}/questions.jsonl}}
  cache_dir: {folder}/cache
test_split: test
"""
CHOICE = """
output_type: multiple_choice
doc_to_text: "{{query}}"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
WRITE = """
output_type: generate_until
doc_to_text: "{{query}}"
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: [" "], max_gen_toks: 8, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
ROLLING = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{query}}"
metric_list:
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
"""
EXPERIMENT = """
from experiments import base

def get_config():
    config = base.get_config()
    config.tasks = {{"questions": {{"name": "multiple_choice", "valid": "{file}"}}}}
    config.data.batch_size = 8
    config.evaluation.seq_len = 64
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A workdir of random weights, questions, and what the harness and we need to ask them."""
    folder = tmp_path_factory.mktemp("lm_eval")
    cfg = ModelConfig(vocab_size=257, d_model=16, num_layers=2, num_heads=4, seq_len=64)
    params = jax.tree.map(lambda x: 6 * x, model.init_params(cfg, jax.random.key(1)))
    write_model(folder / "run", cfg, params, ByteTokenizer(), imported_from="a test")
    words = ["red", "some blue", "green or so", "the black one"]
    questions = [{"query": f"Colour {i * i} is", "choices": words[i % 2 :], "gold": i % 3} for i in range(12)]
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps(question) + "\n" for question in questions))
    for name, text in (("choice", CHOICE), ("write", WRITE), ("rolling", ROLLING)):
        (folder / f"{name}.yaml").write_text(TASK.format(name=f"my_{name}", folder=folder) + text)
    (folder / "questions.py").write_text(EXPERIMENT.format(file=file))
    return folder


@installed
def test_local_tasks_of_each_kind_are_scored_as_ours_are(command_line, entry_point, folder):
    """Its table is printed, and its numbers are those of `--mode=evaluate` on the same file."""
    tasks = ",".join(f"{folder}/{name}.yaml" for name in ("choice", "write", "rolling"))
    arguments = (f"--workdir={folder}/run", f"--tasks={tasks}", "--batch_size=8", f"--output={folder}/all.json")
    result = command_line.run("lm_eval", *arguments, **OFFLINE)
    assert result.returncode == 0, result.stderr
    rows = [line.split("|")[1:] for line in result.stdout.splitlines() if line.startswith("|my_")]
    assert {row[0].strip() for row in rows} == {"my_choice", "my_write", "my_rolling"}
    written = json.loads((folder / "all.json").read_text())
    assert written["config"]["workdir"] == f"{folder}/run"
    results = written["results"]
    assert 0 < results["my_rolling"]["bits_per_byte,none"] < 100
    assert 0 <= results["my_write"]["exact_match,none"] <= 1

    ours = entry_point("main", f"--config={folder}/questions.py", f"--workdir={folder}/run", "--mode=evaluate")
    assert ours.returncode == 0, ours.stderr
    document = json.loads((folder / "run/evaluation/questions/step-0/results.json").read_text())
    scored = document["tasks"]["questions"]["metrics"]
    assert 0 < scored["accuracy"] < 1
    assert results["my_choice"]["acc,none"] == pytest.approx(scored["accuracy"])
    assert results["my_choice"]["acc_norm,none"] == pytest.approx(scored["accuracy_norm"])


@installed
@pytest.mark.slow
def test_the_harness_s_own_command_knows_the_model_once_it_is_imported(command_line, folder):
    code = "import gptjax.lm_eval.workdir_lm; from lm_eval.__main__ import cli_evaluate; cli_evaluate()"
    arguments = ("run", "--model=gptjax", "--model_args", f"workdir={folder}/run", "--tasks", f"{folder}/choice.yaml")
    command = [sys.executable, "-c", code, *arguments, "--limit=3"]
    environment = {**command_line.environment, **OFFLINE}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "|my_choice|" in result.stdout


MISTAKES = {
    "no model": ([], ["--workdir"]),
    "no task": (["--workdir=x", "--tasks=,"], ["--tasks= names no task", "lm-eval ls tasks"]),
    "misspelt flag": (["--workdir=x", "--tasks=y", "--limmit=3"], ["--limmit", "did you mean --limit"]),
    "numbers": (
        ["--workdir=x", "--tasks=y", "--limit=0", "--num_fewshot=-1", "--batch_size=0"],
        ["--limit=0 is less than 1", "--num_fewshot=-1 is less than 0", "--batch_size=0 is less than 1"],
    ),
    "missing file": (["--workdir=x", "--tasks=no_such.yaml"], ["--tasks=no_such.yaml does not exist"]),
    "no folder": (["--workdir=x", "--tasks=y", "--output=no/such/file"], ["--output=no/such/file cannot be written"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_a_line_with_its_cure(entry_point, name):
    arguments, words = MISTAKES[name]
    assert_plain_mistake(entry_point("lm_eval.__main__", *arguments), words)


def test_without_the_harness_a_line_says_what_to_install(entry_point, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = entry_point("lm_eval.__main__", "--workdir=x", "--tasks=arc_easy")
    assert_plain_mistake(result, ["the lm-eval harness is not installed; pip install 'gptjax[lm-eval]'"])


def test_help_is_one_screen(entry_point):
    result = entry_point("lm_eval.__main__", "--help")
    assert result.returncode == 0
    assert result.stdout.count("\n") <= 24
    assert max(map(len, result.stdout.splitlines())) <= 100


@installed
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task: [", ["task.yaml is no YAML", "line 1"]),
        ("metric: acc", ["task.yaml has no field `task` or `group`"]),
    ],
)
def test_a_mistake_in_a_task_s_file_is_named(entry_point, folder, tmp_path, text, words):
    (tmp_path / "task.yaml").write_text(text)
    result = entry_point("lm_eval.__main__", f"--workdir={folder}/run", f"--tasks={tmp_path}/task.yaml")
    assert_plain_mistake(result, words)


@installed
def test_data_that_is_not_there_is_named(entry_point, folder, tmp_path):
    (tmp_path / "task.yaml").write_text(TASK.format(name="mine", folder=tmp_path) + CHOICE)
    result = entry_point("lm_eval.__main__", f"--workdir={folder}/run", f"--tasks={tmp_path}/task.yaml")
    assert_plain_mistake(result, [f"data of --tasks={tmp_path}/task.yaml cannot be read", "questions.jsonl"])


@pytest.mark.parametrize("name", ["arc_easy", "arc_*", "mine.yaml"])
def test_tasks_are_named_by_pattern_and_by_file(name):
    expected = {"arc_easy": ["arc_easy"], "arc_*": ["arc_easy", "arc_hard"], "mine.yaml": ["mine.yaml"]}[name]
    assert found([name], HARNESS) == expected


def test_a_name_that_the_harness_lacks_has_near_ones():
    with pytest.raises(UserError) as error:
        found(["arc_esy", "arc_hard", "no-such-task-at-all"], HARNESS)
    first, second = str(error.value).splitlines()
    assert first == "--tasks=arc_esy is no task of the harness; did you mean arc_easy?"
    assert second == "--tasks=no-such-task-at-all is no task of the harness; `lm-eval ls tasks` lists all"


@installed
@pytest.mark.slow
def test_the_harness_s_own_tasks_are_known(entry_point, folder):
    result = entry_point("lm_eval.__main__", f"--workdir={folder}/run", "--tasks=arc_easy,arc_esy")
    assert_plain_mistake(result, ["--tasks=arc_esy is no task", "did you mean arc_easy"])
