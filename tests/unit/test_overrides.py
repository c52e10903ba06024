"""Flags into a ConfigDict: types, Choices, order and suggestions."""

import pytest

from gptjax import overrides
from gptjax.config import ExperimentConfig, from_config_dict, to_config_dict
from gptjax.registry import Choice
from gptjax.types import UserError


def apply(*flags):
    config = to_config_dict(ExperimentConfig())
    rest, changes = overrides.split([f"--config.{flag}" for flag in flags])
    assert rest == []
    overrides.apply(config, changes)
    return from_config_dict(config)


def test_values_have_their_declared_type():
    cfg = apply(
        "optim.peak_lr=3", "seed=7", "model.use_bias=False", "model.d_ff=96", "profile.steps=3,5", "model.remat=full"
    )
    assert (cfg.optim.peak_lr, type(cfg.optim.peak_lr)) == (3.0, float)
    assert (cfg.seed, cfg.model.use_bias, cfg.model.d_ff, cfg.profile.steps) == (7, False, 96, (3, 5))


def test_none_is_a_value_where_the_schema_allows_it():
    assert apply("optim.clip_norm=None").optim.clip_norm is None
    assert apply("model.d_ff=96", "model.d_ff=None").model.d_ff is None


def test_texts_between_commas_keep_brackets_and_spaces_and_a_list_keeps_commas():
    assert apply("sample.prompts=def main(").sample.prompts == ("def main(",)
    assert apply("sample.prompts=a , [b]").sample.prompts == ("a ", " [b]")
    assert apply("sample.stop=\n\n").sample.stop == ("\n\n",)
    assert apply("sample.prompts=['a, b', 'c']").sample.prompts == ("a, b", "c")
    assert apply("sample.prompts=").sample.prompts == ()
    with pytest.raises(UserError, match=r"sample\.prompts=\[a must be texts between commas"):
        apply("sample.prompts=[a")


def test_pairs_are_written_as_in_python():
    """With numbers read as numbers, and texts that hold commas, brackets and backslashes."""
    written = r"""optim.lr_factors=((".*/(bias|scale)",2),('a\\.b, c', 0.5))"""
    factors = apply(written).optim.lr_factors
    assert factors == ((".*/(bias|scale)", 2.0), (r"a\.b, c", 0.5))
    assert type(factors[0][1]) is float
    assert apply("optim.lr_factors=()").optim.lr_factors == ()


@pytest.mark.parametrize("text", ['("a",0.5)', "a,0.5", '(("a",0.5,1),)', '(("a","b"),)', '(("a"),)', "((1,2)"])
def test_what_is_no_row_of_pairs_is_told_so(text):
    with pytest.raises(UserError, match=r"lr_factors=.* must be \(\(a text, a number\), \.\.\.\)"):
        apply(f"optim.lr_factors={text}")


def test_a_value_may_stand_apart_and_hold_equals_signs():
    rest, changes = overrides.split(["--config.data.path", "a=b.txt", "--workdir=x", "--config.data.path=c=d"])
    assert (rest, changes) == (["--workdir=x"], [("data.path", "a=b.txt"), ("data.path", "c=d")])


@pytest.mark.parametrize("reverse", [False, True])
def test_a_choice_takes_the_options_of_its_new_name_in_any_order(reverse):
    flags = ["optim.schedule.name=wsd", "optim.schedule.decay_fraction=0.3"]
    schedule = apply(*(reversed(flags) if reverse else flags)).optim.schedule
    assert schedule == Choice("wsd", {"decay_fraction": 0.3, "final_fraction": 0.0})


def test_a_new_name_drops_the_old_options_and_the_same_name_keeps_them():
    config = to_config_dict(ExperimentConfig())
    config.optim.schedule = {"name": "cosine", "final_fraction": 0.5}
    overrides.apply(config, [("optim.schedule.name", "cosine")])
    assert from_config_dict(config).optim.schedule.kwargs == {"final_fraction": 0.5}
    overrides.apply(config, [("optim.schedule.name", "linear")])
    assert from_config_dict(config).optim.schedule.kwargs == {"final_fraction": 0.0}


def test_a_name_with_a_colon_is_imported_with_its_options(tmp_path, monkeypatch):
    (tmp_path / "my_idea.py").write_text(
        "def flat(peak_lr, steps, *, scale: float = 2.0):\n    return lambda step: peak_lr * scale\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    schedule = apply("optim.schedule.name=my_idea:flat", "optim.schedule.scale=3").optim.schedule
    assert schedule == Choice("my_idea:flat", {"scale": 3.0})


def test_every_problem_is_told():
    with pytest.raises(UserError) as error:
        apply("optim.peek_lr=1", "model.num_layers=x", "optim.schedule.name=cosin")
    text = str(error.value)
    assert "3 problems" in text
    for word in ("did you mean --config.optim.peak_lr?", "num_layers=x must be a whole number", "did you mean cosine?"):
        assert word in text


def test_every_path_of_the_schema_can_be_set():
    """Fewer than 150 of them, so that they can be known."""
    paths = overrides.all_paths()
    assert len(paths) < 150
    flat = to_config_dict(ExperimentConfig())
    for path in paths:
        node = flat
        for name in path.split("."):
            node = node[name] if node is not None else node
