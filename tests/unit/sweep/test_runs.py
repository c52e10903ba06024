"""From overrides to runs: what is checked before the first of them starts, and how they are named."""

import re

import pytest

from gptjax import overrides
from gptjax.experiment_file import open_experiment
from gptjax.sweep.runs import load_runs, run_name
from gptjax.types import UserError
from tests.unit.sweep.ablation import make_runs, write_ablation


def test_a_run_is_what_its_command_line_makes_of_it(tmp_path):
    """Values of every kind, and a Choice that takes the defaults of its new name, survive being written as flags."""
    sweep = """[
        {"model.positions.name": "rotary", "optim.peak_lr": 1e-05, "model.use_bias": False, "seed": 7},
        {"model.positions.name": "rotary", "model.positions.base": 5e5, "optim.clip_norm": None},
        {"sample.prompts": ("a, b", "c='d'"), "profile.steps": [3, 5], "data.valid_fraction": 0.2},
        {"model.positions": {"name": "sinusoidal", "base": 100.0}},
    ]"""
    for run in make_runs(tmp_path, sweep):
        rest, changes = overrides.split(run.flags)
        assert rest == [f"--config={tmp_path}/norms.py", f"--workdir={run.workdir}"]
        assert open_experiment(f"{tmp_path}/norms.py").read(changes) == run.cfg
    first, second, third, fourth = make_runs(tmp_path, sweep)
    assert first.cfg.model.positions.kwargs["base"] == 10000.0
    assert (first.cfg.optim.peak_lr, first.cfg.model.use_bias, first.cfg.seed) == (1e-5, False, 7)
    assert (second.cfg.model.positions.kwargs["base"], second.cfg.optim.clip_norm) == (5e5, None)
    assert (third.cfg.sample.prompts, third.cfg.profile.steps) == (("a, b", "c='d'"), (3, 5))
    assert fourth.cfg.model.positions.kwargs == {"base": 100.0}


def test_runs_share_nothing_of_each_others_overrides(tmp_path):
    first, second = make_runs(tmp_path, '[{"model.norm.name": "rmsnorm"}, {"seed": 1}]')
    assert (first.cfg.model.norm.name, second.cfg.model.norm.name) == ("rmsnorm", "layernorm")


def test_a_name_says_the_overrides_and_an_arm_leaves_out_the_seed(tmp_path):
    runs = make_runs(tmp_path)
    assert runs[1].name == "model.norm=layernorm,seed=1"
    assert [run.arm for run in runs] == ["model.norm=layernorm"] * 3 + ["model.norm=rmsnorm"] * 3
    assert run_name({}) == "base"


@pytest.mark.parametrize("value", ["../../etc", "a b;rm -rf *", "ä/ö", "x" * 500, "'\"\n", ["a", "b"]])
def test_a_name_is_one_folder_that_no_shell_takes_for_more(value):
    name = run_name({"data.path": value, "seed": 1})
    assert re.fullmatch(r"[A-Za-z0-9_.,=+-]{1,120}", name)
    assert name == run_name({"data.path": value, "seed": 1})
    assert name != run_name({"data.path": "else", "seed": 1})


def test_long_names_that_begin_alike_differ():
    long = [run_name({"data.path": "x" * 500 + end}) for end in "ab"]
    assert long[0] != long[1]


def test_two_runs_of_one_name_are_refused_with_both(tmp_path):
    with pytest.raises(UserError) as error:
        make_runs(tmp_path, '[{"data.path": "norms.py a"}, {"data.path": "norms.py_a"}, {"seed": 1}, {"seed": 1}]')
    text = str(error.value)
    assert "two runs are named seed=1: {'seed': 1} and {'seed': 1}" in text


def test_names_that_differ_in_capitals_only_are_one_folder_to_some_disks(tmp_path):
    with pytest.raises(UserError, match="two runs are named"):
        make_runs(tmp_path, '[{"sample.prompts": ("a",)}, {"sample.prompts": ("A",)}]')


def test_every_mistake_of_every_run_is_told_once(tmp_path):
    sweep = """cross(grid({"optim.peek_lr": [1, 2]}), seeds(2)) + [
        {"model.norm.name": "rmsnrom"}, {"model.num_heads": 7}, {"seed": 1.5}, "seed", {"optim.peak_lr": -1.0}
    ]"""
    with pytest.raises(UserError) as error:
        make_runs(tmp_path, sweep)
    text = str(error.value)
    assert text.count("did you mean --config.optim.peak_lr?") == 1
    for words in (
        "did you mean rmsnorm?",
        "num_heads=7",
        "seed=1.5 must be a whole number",
        "peak_lr=-1.0",
        "'seed' as",
    ):
        assert words in text
    assert not (tmp_path / "runs").exists()


def test_flags_change_every_run_but_not_what_is_varied(tmp_path):
    path = write_ablation(tmp_path)
    runs = load_runs(path, [("optim.num_steps", "50")], tmp_path)
    assert {run.cfg.optim.num_steps for run in runs} == {50}
    assert "--config.optim.num_steps=50" in runs[0].command
    with pytest.raises(UserError, match=r"--config\.seed is what the sweep varies"):
        load_runs(path, [("seed", "3")], tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [("def get_config(): ...\n", r"has no sweep\(\)"), ("def sweep(): return []\n", r"no get_config")],
)
def test_an_ablation_has_both_functions(tmp_path, text, words):
    (tmp_path / "half.py").write_text(text)
    with pytest.raises(UserError, match=words):
        load_runs(str(tmp_path / "half.py"), [], tmp_path)


def test_a_sweep_of_nothing_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="gives no runs"):
        make_runs(tmp_path, "[]")
