"""docs/extending.md is true: its files, written where it says, run by its commands."""

import re
import shlex

import pytest

from tests.integration.command_line import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = re.findall(r"`(ideas/\w+\.py)`\n```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [
    shlex.split(line.removeprefix("python -m gptjax."))
    for block in re.findall(r"```\n(python .*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
SMALL = (
    *("--config.optim.num_steps=4", "--config.optim.warmup_steps=1", "--config.evaluation.every=4"),
    *("--config.model.d_model=32", "--config.model.seq_len=32", "--config.evaluation.num_windows=16"),
)


@pytest.fixture
def folder(tmp_path):
    """A user's folder: the files of the page beside the experiments."""
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    for name, content in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def run(command_line, folder, command, *more):
    module, *arguments = command
    job = command_line.start(module, *arguments, *more, cwd=folder, PYTHONPATH=str(ROOT))
    out, err = job.communicate(timeout=300)
    assert job.returncode == 0, err
    return out


def test_the_page_has_what_is_run_here():
    assert [name for name, _ in FILES] == ["ideas/tempered.py", "ideas/ablation.py"]
    assert [command[0] for command in COMMANDS] == ["main", "sweep", "sweep"]


@pytest.mark.slow
def test_the_idea_is_checked(command_line, folder, text):
    out = run(command_line, folder, COMMANDS[0], f"--config.data.path={text}", *SMALL)
    assert "blocks/attention/temperature/bias" in out
    assert "is plain XLA" in out


@pytest.mark.slow
def test_the_idea_is_compared(command_line, folder, text):
    small = (*SMALL, f"--config.data.path={text}")
    for command in COMMANDS[1:]:
        run(command_line, folder, command, *small)
    assert "ideas.tempered:Tempered" in (folder / "runs" / "ablation" / "report.md").read_text()
