"""The folder of a run and its lock."""

import subprocess
import sys
import time

import pytest

from gptjax.train.workdir import Workdir, write_atomically
from gptjax.types import UserError

HOLD = """
import sys, time
from gptjax.train.workdir import Workdir
workdir = Workdir(sys.argv[1])
workdir.acquire()
print('held', flush=True)
time.sleep(60)
"""


def test_a_workdir_in_use_is_refused_and_a_dead_holder_does_not_block(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid}"):
            Workdir(tmp_path).acquire()
    finally:
        holder.kill()
        holder.wait()
    deadline = time.monotonic() + 5
    workdir = Workdir(tmp_path)
    while True:
        try:
            workdir.acquire()
            break
        except UserError:
            assert time.monotonic() < deadline
    workdir.release()
    Workdir(tmp_path).acquire()


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Workdir(tmp_path / "file" / "run").acquire()


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda path: None, "there is no workdir"),
        (lambda path: path.mkdir(), "has no config.json"),
        (lambda path: (path.mkdir(), (path / "config.json").write_text("{")), "is damaged"),
    ],
)
def test_a_config_that_cannot_be_read_is_said(tmp_path, prepare, words):
    prepare(tmp_path / "run")
    with pytest.raises(UserError, match=words):
        Workdir(tmp_path / "run").read_config()


def test_config_round_trips(tmp_path):
    Workdir(tmp_path).write_config({"model": {"d_model": 8}})
    assert Workdir(tmp_path).read_config() == {"model": {"d_model": 8}}


def test_writing_leaves_no_part(tmp_path):
    write_atomically(tmp_path / "a", "one")
    write_atomically(tmp_path / "a", "two")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["two"]
