"""The schema, its ConfigDict form and what makes two configs the same run."""

import ast
import dataclasses
import inspect
import itertools
import json

import pytest

from gptjax.config import ExperimentConfig, fingerprint, from_config_dict, to_config_dict, to_plain, validate
from gptjax.registry import Choice
from gptjax.schema import fields_of
from gptjax.types import UserError


def change(**groups):
    cfg = ExperimentConfig()
    for group, values in groups.items():
        cfg = dataclasses.replace(cfg, **{group: dataclasses.replace(getattr(cfg, group), **values)})
    return cfg


def test_lists_within_lists_are_tuples_within_tuples():
    config = to_config_dict(ExperimentConfig())
    config.data.batch_ramp = [[8, 100], [16, 200]]
    assert from_config_dict(config).data.batch_ramp == ((8, 100), (16, 200))


def test_dataclass_to_config_dict_and_back():
    cfg = change(optim={"schedule": Choice("wsd", {"decay_fraction": 0.5})}, data={"path": "x.txt"})
    back = from_config_dict(to_config_dict(cfg))
    assert back.optim.schedule.kwargs == {"decay_fraction": 0.5, "final_fraction": 0.0}
    assert to_plain(back) == to_plain(cfg)


def test_to_json_and_back():
    cfg = change(profile={"steps": (3, 5)}, model={"d_ff": 99}, optim={"lr_factors": ((".*", 0.5), ("a", 2.0))})
    back = from_config_dict(json.loads(json.dumps(to_plain(cfg))))
    assert (back.profile.steps, back.model.d_ff) == ((3, 5), 99)
    assert back.optim.lr_factors == ((".*", 0.5), ("a", 2.0))
    assert to_plain(back) == to_plain(cfg)
    assert fingerprint(back) == json.loads(json.dumps(fingerprint(cfg)))


def test_every_field_has_a_docstring():
    """A string below each field, as every leaf config has it."""
    for _, hint in fields_of(ExperimentConfig).values():
        if not dataclasses.is_dataclass(hint):
            continue
        body = ast.parse(inspect.getsource(hint)).body[0].body
        for node, after in itertools.pairwise(body):
            if isinstance(node, ast.AnnAssign):
                assert isinstance(after, ast.Expr), f"{hint.__name__}.{ast.unparse(node.target)} has no docstring"


def test_unknown_keys_and_wrong_types_are_told_together():
    plain = to_plain(ExperimentConfig())
    plain["model"]["num_layer"] = 3
    plain["optim"]["peak_lr"] = "high"
    plain["data"]["tokenizer"] = "char"
    with pytest.raises(UserError) as error:
        from_config_dict(plain)
    for word in ("model.num_layer; did you mean num_layers", "optim.peak_lr='high'", "data.tokenizer='char'"):
        assert word in str(error.value)


def test_validation_tells_all_problems_of_all_groups():
    cfg = change(model={"num_heads": 7}, optim={"peak_lr": -1.0}, evaluation={"every": 0}, mesh={"tensor": 3})
    with pytest.raises(UserError) as error:
        validate(cfg, device_count=8, source="x.py")
    assert str(error.value).startswith("x.py does not fit together (4 problems):\n  model.num_heads=7")


def test_a_batch_that_does_not_divide_over_the_devices():
    with pytest.raises(UserError, match=r"data\.batch_size=12 does not divide over 8 devices; try 16"):
        validate(change(data={"batch_size": 12}), device_count=8)
    with pytest.raises(UserError, match=r"data\.batch_ramp: a size of 4 does not divide over 8 devices; try 8"):
        validate(change(data={"batch_ramp": ((4, 100),)}), device_count=8)
    validate(change(data={"batch_size": 12}, mesh={"tensor": 2, "rules": "fsdp_tp"}), device_count=8)


def test_a_recurrent_model_reads_its_sequences_whole():
    context = {"mesh": {"context": 2, "rules": "context"}}
    validate(change(**context), device_count=8)
    with pytest.raises(
        UserError, match=r"^mesh\.context=2 splits sequences, .*'lstm' reads in order; set mesh\.context=1$"
    ):
        validate(change(model={"block": Choice("lstm")}, **context), device_count=8)


def test_a_model_that_sees_both_ways_reads_and_does_not_write():
    cfg = change(model={"attention": Choice("bidirectional")}, sample={"prompts": ()})
    reads = {"roles": Choice("roles", {"train": __file__}), "mood": Choice("classification", {"train": __file__})}
    validate(dataclasses.replace(cfg, tasks=reads), device_count=1)
    writes = {**reads, "mood": Choice("classification", {"train": __file__, "lm_weight": 0.5})}
    with pytest.raises(UserError, match=r"^tasks\.mood predicts the next token, which .*tasks that read: classif"):
        validate(dataclasses.replace(cfg, tasks=writes), device_count=1)


def test_how_a_run_is_executed_is_no_part_of_it():
    """The same command runs on any fleet, keeps as many checkpoints and speaks as often as it likes."""
    executed = change(
        mesh={"replica": 4, "rules": "dp"},
        train={"log_every": 3, "max_sequences_per_device": 1},
        model={"remat": "full", "scan_layers": False},
        evaluation={"every": 7, "by_position": True},
        checkpoint={"keep": 9},
        sample={"temperature": 0.1},
        profile={"steps": (1,)},
        data={"path": "elsewhere.txt", "cache_dir": "cache"},
    )
    assert fingerprint(executed) == fingerprint(ExperimentConfig())


@pytest.mark.parametrize(
    "groups",
    [
        {"model": {"d_model": 96}},
        {"optim": {"num_steps": 5}},
        {"data": {"batch_size": 3}},
        {"optim": {"schedule": Choice("wsd")}},
        {"optim": {"ema_decay": 0.9}},
        {"optim": {"lr_factors": ((".*", 0.5),)}},
    ],
)
def test_what_changes_the_result_is_part_of_it(groups):
    assert fingerprint(change(**groups)) != fingerprint(ExperimentConfig())


def test_defaults_written_out_are_the_same_run():
    written = change(optim={"schedule": Choice("cosine", {"final_fraction": 0.1})})
    assert fingerprint(written) == fingerprint(ExperimentConfig())
