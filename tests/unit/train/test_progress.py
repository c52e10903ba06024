"""What the user reads."""

import pytest

from gptjax.train.progress import Display, describe, duration


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.4, "1:01"), (3599.6, "1:00:00"), (7325, "2:02:05")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_row_in_words():
    row = {"split": "train", "loss": 2.0, "bits_per_byte": 1.25, "tokens_per_second": 12345.6, "mfu": 0.421}
    assert describe(row) == "loss 2.0000  1.250 bits/byte  12,346 tokens/s  MFU 42.1%"


def test_unknown_numbers_are_dashes():
    row = {"split": "train", "loss": None, "bits_per_byte": None, "tokens_per_second": 1.0, "mfu": None}
    assert describe(row) == "loss -  1 tokens/s  MFU -"


def test_in_a_pipe_every_row_is_a_plain_line_with_the_time_left(tmp_path, capsys):
    row = {"step": 40, "split": "train", "loss": 2.0, "bits_per_byte": None, "tokens_per_second": 10.0, "mfu": None}
    with Display(tmp_path / "log.txt") as display, display.progress(0, 100):
        display.row({**row, "step_seconds": 2.0}, 100)
    out = capsys.readouterr().out
    assert out == "step 40/100  train  loss 2.0000  10 tokens/s  MFU -  2:00 left\n"
    assert (tmp_path / "log.txt").read_text() == out


def test_brackets_are_not_markup(capsys):
    with Display(None) as display:
        display.say("x[0] = [bold]")
    assert capsys.readouterr().out == "x[0] = [bold]\n"


def test_a_silent_one_says_and_writes_nothing(tmp_path, capsys):
    with Display(tmp_path / "log.txt", silent=True) as display:
        display.say("hello")
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "log.txt").exists()
