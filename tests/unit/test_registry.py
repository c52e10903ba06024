"""Choices and their tables."""

import pytest

from gptjax import registry
from gptjax.registry import Choice
from gptjax.types import UserError


def wave(supplied, *, height: float = 1.0, length: int | None = None):
    return supplied, height, length


TABLE = {"wave": wave}


def test_options_are_the_parameters_with_defaults():
    assert registry.options(wave) == {"height": 1.0, "length": None}
    assert registry.option_types(wave) == {"height": float, "length": int | None}


def test_build_passes_what_the_code_supplies_and_the_options():
    assert registry.build(TABLE, Choice("wave", {"length": 3}), "x") == ("x", 1.0, 3)


def test_resolve_fills_in_defaults():
    assert registry.resolve(TABLE, Choice("wave", {"height": 2.0})).kwargs == {"height": 2.0, "length": None}


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (Choice("wve"), "did you mean wave"),
        (Choice("xyz"), "valid: wave"),
        (Choice("wave", {"hight": 1}), "did you mean height"),
        (Choice("no_such_module:Thing"), "no module 'no_such_module'"),
        (Choice("gptjax.types:Thing"), "has no 'Thing'"),
    ],
)
def test_a_wrong_choice_names_the_valid_ones(choice, words):
    with pytest.raises(UserError, match=words):
        registry.resolve(TABLE, choice)


def test_a_name_with_a_colon_is_imported():
    assert registry.lookup(TABLE, "gptjax.types:UserError") is UserError


def test_an_import_that_fails_inside_a_module_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_variant.py").write_text("import a_package_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_missing"):
        registry.load("broken_variant:Thing")
