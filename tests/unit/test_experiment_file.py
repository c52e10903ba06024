"""Files of experiments: what they must hold, their mistakes, and their dials."""

import json

import pytest

from gptjax import config
from gptjax.config import ExperimentConfig
from gptjax.experiment_file import open_experiment
from gptjax.types import UserError

DIALS = """
from experiments import base

def get_config(*, depth: int = 2, name: str | None = None):
    if depth < 1:
        raise ValueError(f"depth={depth} is less than 1")
    config = base.get_config()
    config.model.update(num_layers=depth, d_model=64 * depth, num_heads=depth)
    return config
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        (tmp_path / "file.py").write_text(text)
        return str(tmp_path / "file.py")

    return write


def test_it_must_have_get_config_which_must_return_a_config(write):
    with pytest.raises(UserError, match=r"file\.py has no get_config\(\)"):
        open_experiment(write("x = 1\n"))
    with pytest.raises(UserError, match=r"get_config\(\) returns 3; it must return the config"):
        open_experiment(write("def get_config():\n    return 3\n")).read()


def test_a_syntax_error_is_named_by_its_line(write):
    with pytest.raises(UserError, match=r"file\.py:1: "):
        open_experiment(write("def get_config(:\n"))


def test_a_bug_in_it_keeps_its_traceback(write):
    with pytest.raises(KeyError):
        open_experiment(write("def get_config():\n    return {}['missing']\n")).read()


def test_a_wrong_option_in_it_is_named_by_its_line(write):
    text = DIALS.replace("config.model.update(", "config.optim.peek_lr = 1.0\n    config.model.update(")
    with pytest.raises(UserError, match=r"file\.py:8: there is no option 'peek_lr'; did you mean peak_lr\?"):
        open_experiment(write(text)).read()


def test_a_dial_is_turned_before_options_are_changed(write):
    file = open_experiment(write(DIALS))
    assert file.read().model.num_layers == 2
    model = file.read([("model.d_model", "96"), ("depth", "3")]).model
    assert (model.num_layers, model.d_model, model.num_heads) == (3, 96, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("depth", "deep"), "--config.depth=deep must be a whole number"),
        (("depth", "0"), "file.py: depth=0 is less than 1"),
        (("deth", "4"), "has no dial and no option --config.deth; did you mean depth?"),
        (("model.deth", "4"), "there is no option --config.model.deth"),
    ],
)
def test_a_wrong_dial_is_said_with_the_right_ones(write, change, words):
    with pytest.raises(UserError) as error:
        open_experiment(write(DIALS)).read([change])
    assert words in str(error.value)


def test_a_dial_without_a_type_has_its_defaults(write):
    file = open_experiment(write(DIALS.replace("depth: int = 2", "depth=2")))
    assert file.read([("depth", "3")]).model.num_layers == 3
    with pytest.raises(UserError, match=r"--config\.depth=deep must be a whole number"):
        file.read([("depth", "deep")])


def test_a_dial_without_a_default_is_named(write):
    file = open_experiment(write(DIALS.replace("depth: int = 2", "depth: int")))
    with pytest.raises(UserError, match=r"file\.py: the dial 'depth' of get_config\(\) has no default"):
        file.read([("depth", "3")])


def test_a_turned_dial_does_not_name_the_file_twice(write):
    text = DIALS.replace("config.model.update(", "config.optim.peek_lr = 1.0\n    config.model.update(")
    with pytest.raises(UserError) as error:
        open_experiment(write(text)).read([("depth", "3")])
    assert str(error.value).count("file.py") == 1


def test_without_dials_an_unknown_name_is_that_of_an_option(write):
    file = open_experiment(write("from experiments.base import get_config\n"))
    with pytest.raises(UserError, match=r"there is no option --config\.depth"):
        file.read([("depth", "4")])


def test_a_file_may_define_a_dataclass_with_late_annotations(write):
    """dataclasses looks for the names of its annotations in the module, by name."""
    late = "from __future__ import annotations\nimport dataclasses\n"
    text = f"{late}@dataclasses.dataclass\nclass Size:\n    n: int = 2\n{DIALS}"
    assert open_experiment(write(text)).read([("depth", "3")]).model.num_layers == 3


def test_a_workdir_s_config_is_an_experiment_too(tmp_path):
    """With every option as it stands there, and changes applied; what is none is refused by its name."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_plain(ExperimentConfig(seed=7))))
    assert open_experiment(str(path)).read() == config.from_config_dict(config.to_plain(ExperimentConfig(seed=7)))
    changed = open_experiment(str(path)).read([("model.num_layers", "3"), ("seed", "8")])
    assert (changed.model.num_layers, changed.seed) == (3, 8)
    path.write_text('{"modle": {}}')
    with pytest.raises(UserError, match=r"config\.json does not fit the schema|there is no option modle"):
        open_experiment(str(path))
    with pytest.raises(UserError, match=r"is no Python file; .* or a workdir's config.json"):
        open_experiment(str(tmp_path / "other.json"))
    with pytest.raises(UserError, match="there is no workdir"):
        open_experiment(str(tmp_path / "nowhere" / "config.json"))
