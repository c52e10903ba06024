"""What a data config refuses."""

import pytest

from gptjax.data.config import DataConfig
from gptjax.registry import Choice


def test_the_default_is_whole():
    assert DataConfig().validate() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"valid_fraction": 0.0}, "valid_fraction=0.0 is not between 0 and 1"),
        ({"valid_fraction": 1.0}, "valid_fraction=1.0 is not between 0 and 1"),
        ({"packing": "document"}, "packing='document' is unknown; did you mean documents?"),
        ({"batch_size": 0}, "batch_size=0 is less than 1"),
        ({"batch_ramp": ((8, 100), (0, 200))}, "batch_ramp: (0, 200) is no size from 1 to batch_size=32"),
        ({"batch_ramp": ((64, 100),)}, "batch_ramp: (64, 100) is no size from 1 to batch_size=32"),
        ({"batch_ramp": ((8, 100), (16, 100))}, "with a number of sequences above 100"),
        ({"num_threads": -1}, "num_threads=-1 is not between 0"),
        ({"num_threads": 100_000}, "num_threads=100000 is not between 0"),
        ({"prefetch": 0}, "prefetch=0 is not between 1"),
        ({"tokenizer": Choice("bite")}, "tokenizer: there is no 'bite'; did you mean byte?"),
        ({"path": "none.txt"}, "path='none.txt' does not exist"),
        ({"source": Choice("text")}, "source: 'text' needs a path"),
        ({"source": Choice("mixture")}, "source: 'mixture' needs data.source.paths"),
        ({"source": Choice("mixture", {"paths": ("a", "b"), "weights": (1.0,)})}, "has 2 paths and 1 weights"),
        ({"source": Choice("mixture", {"paths": ("python_stdlib",), "weights": (0.0,)})}, "has weight 0.0"),
        ({"source": Choice("mixture", {"paths": ("gone",)})}, "source: 'gone' does not exist"),
        ({"source": Choice("mixture"), "path": "x"}, "path='x' is set beside source 'mixture'"),
    ],
)
def test_each_mistake_is_one_line_with_its_cure(changes, words):
    (problem,) = DataConfig(**changes).validate()
    assert words in problem
    assert "\n" not in problem


def test_all_problems_come_at_once():
    assert len(DataConfig(valid_fraction=2.0, batch_size=0, packing="x", path="none.txt").validate()) == 4
