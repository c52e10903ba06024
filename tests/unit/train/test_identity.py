"""Another run in the workdir is refused by name."""

import types
from pathlib import Path

import pytest

from gptjax.train.identity import refuse_other_classes, refuse_other_run
from gptjax.train.workdir import Workdir
from gptjax.types import UserError

SAVED = {"seed": 0, "optim.num_steps": 100, "optim.schedule.name": "cosine", "data.fingerprint": "abc"}


def refuse(changes, allow_change=(), saved=SAVED):
    defaults = {"seed": 0, "data.batch_ramp": []}
    refuse_other_run(saved, {**SAVED, **changes}, defaults, Path("runs/x"), allow_change)


def message(*arguments, **options):
    with pytest.raises(UserError) as error:
        refuse(*arguments, **options)
    return str(error.value)


def test_the_same_run_goes_on():
    refuse({})
    refuse({}, ["seed"])


def test_an_option_that_came_later_had_its_default():
    refuse({"data.batch_ramp": []})
    assert "data.batch_ramp: [] there, [[8, 100]] here" in message({"data.batch_ramp": [[8, 100]]})


def test_each_differing_option_is_named_with_both_values_and_its_flag():
    text = message({"seed": 5, "optim.schedule.name": "wsd"})
    first, *lines = text.splitlines()
    assert first.startswith("runs/x holds another run (2 options differ)")
    assert first.endswith("--allow_change=optim.schedule.name --allow_change=seed")
    assert lines == ["  optim.schedule.name: 'cosine' there, 'wsd' here", "  seed: 0 there, 5 here"]


def test_an_allowed_option_may_differ_and_no_other_one():
    refuse({"seed": 5}, ["seed"])
    refuse({"seed": 5, "optim.num_steps": 200}, ["optim.num_steps", "seed"])
    text = message({"seed": 5, "optim.num_steps": 200}, ["optim.num_steps"])
    assert "optim.num_steps" not in text
    assert "seed: 0 there, 5 here" in text


def test_an_option_that_one_side_lacks_differs_and_can_be_allowed():
    """As after `schedule.name=wsd`, whose options the saved run never had, and the other way round."""
    extra = {"optim.schedule.decay_fraction": 0.2}
    assert "optim.schedule.decay_fraction: None there, 0.2 here" in message(extra)
    assert "optim.schedule.decay_fraction: 0.2 there, None here" in message({}, saved={**SAVED, **extra})
    refuse(extra, list(extra))
    refuse({}, list(extra), saved={**SAVED, **extra})


@pytest.mark.parametrize(
    ("name", "tail"),
    [("optim.num_step", "; did you mean optim.num_steps?"), ("qqqqqqqq", ""), ("optim", None)],
)
def test_an_allowance_of_no_option_is_a_mistake(name, tail):
    """Even where nothing differs: a typo there would be found out only after the next change."""
    text = message({}, [name])
    assert text.startswith(f"--allow_change={name} names no option")
    if tail is not None:
        assert text.endswith(f"names no option{tail}")


def test_a_classifier_keeps_the_labels_that_it_was_trained_for():
    """In their order; a task that the checkpoint knows nothing of may have any."""
    checkpoints = types.SimpleNamespace(meta=lambda step: {"classes": {"mood": ["bad", "good"]}})
    refuse_other_classes({"mood": ["bad", "good"], "topic": ["x"]}, checkpoints, 7, Workdir("runs/x"))
    for other in (["good", "bad"], ["bad", "fine"]):
        with pytest.raises(UserError, match=r"of mood in runs/x .* tasks\.mood\.labels=\('bad', 'good',\)"):
            refuse_other_classes({"mood": other}, checkpoints, 7, Workdir("runs/x"))
