"""`python -m gptjax.sample` on a run that the command line made: what is printed where, exit codes, mistakes."""

import os
import pty
import subprocess
import sys

import pytest

from tests.integration.command_line import ROOT

PROMPT = "12 is "


@pytest.fixture(scope="module")
def sample(command_line, finished):
    """Runs the command line to its end."""

    def sample(*options, stdin="", stdout=subprocess.PIPE):
        command = [sys.executable, "-m", "gptjax.sample", f"--workdir={finished}", "--max_tokens=30", *options]
        streams = {"input": stdin, "stdout": stdout, "stderr": subprocess.PIPE}
        return subprocess.run(command, cwd=ROOT, env=command_line.environment, text=True, **streams)

    return sample


def test_a_run_ends_with_a_sample_longer_than_its_context(finished):
    (file,) = (finished / "samples").iterdir()
    assert file.name == "step-40.txt"
    assert len(file.read_text()) > 64


def test_text_in_a_pipe_and_on_a_terminal(sample):
    """One seed gives one text, beside others in a pipe as well as streamed to a terminal."""
    likely = "--top_k=3"  # a carriage return would be translated differently
    piped = sample(f"--prompt={PROMPT}", "--prompt=", "--seed=3", likely)
    assert (piped.returncode, piped.stderr) == (0, "")
    assert piped.stdout.startswith(f"=== prompt 1 of 2\n{PROMPT}")
    text = piped.stdout.removeprefix("=== prompt 1 of 2\n").split("\n=== prompt 2 of 2\n")[0]
    assert len(text) > len(PROMPT)

    terminal, shown = pty.openpty()
    try:
        streamed = sample(f"--prompt={PROMPT}", "--seed=3", likely, stdout=shown)
        assert (streamed.returncode, streamed.stderr) == (0, "")
        assert os.read(terminal, 10_000).decode().replace("\r\n", "\n") == text + "\n"
    finally:
        os.close(terminal)
        os.close(shown)


@pytest.mark.slow
def test_the_prompt_comes_from_standard_input_and_a_stop_string_ends_the_text(sample):
    greedy = ("--prompt=-", "--temperature=0", "--step=best")
    whole = sample(*greedy, stdin=PROMPT)
    assert whole.stdout.startswith(PROMPT)
    continuation = whole.stdout.removeprefix(PROMPT).removesuffix("\n")
    stop = continuation[2:5]
    ended = sample(*greedy, f"--stop={stop}", "--seed=9", stdin=PROMPT)
    assert ended.stdout == PROMPT + continuation[: continuation.index(stop)] + "\n"


@pytest.mark.slow
def test_beams_find_one_text_whatever_the_seed_and_say_what_they_leave_out(sample):
    first = sample("--num_beams=3", f"--prompt={PROMPT}", "--prompt=")
    again = sample("--num_beams=3", f"--prompt={PROMPT}", "--prompt=", "--seed=9", "--top_k=2")
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.startswith(f"=== prompt 1 of 2\n{PROMPT}")
    assert again.stdout == first.stdout
    assert again.stderr == "note: --num_beams=3 leaves out --top_k\n"


def test_a_prompt_beyond_the_context_is_noted(entry_point, finished):
    result = entry_point("sample.__main__", f"--workdir={finished}", "--max_tokens=3", f"--prompt={'x' * 100}")
    assert result.returncode == 0
    assert result.stderr.count("\n") == 1
    assert "100 tokens" in result.stderr
    assert "64" in result.stderr


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error(sample):
    reader, writer = os.pipe()
    os.close(reader)
    result = sample(f"--prompt={PROMPT}", stdout=writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--promt=x"], "--prompt"),
        (["--temperature=-1"], "--temperature=-1.0"),
        (["--temperature=hot"], "hot"),
        (["--top_k=0", "--top_p=2"], "--top_k=0"),
        (["--num_beams=0"], "--num_beams=0"),
        (["--step=newest"], "newest"),
        (["--step=7"], "step 7"),
        (["--seed=-1"], "--seed=-1"),
        (["--prompt=-", "--prompt=-"], "--prompt=-"),
        (["stray"], "stray"),
        (["--workdir=nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_plain_lines_and_exit_code_2(entry_point, finished, options, words):
    result = entry_point("sample.__main__", f"--workdir={finished}", *options)
    assert result.returncode == 2
    assert result.stdout == ""
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == (2 if len(options) == 2 and "--top_k=0" in options else 1)


def test_help_fits_a_screen_and_imports_no_jax():
    program = "import sys; from gptjax.sample.__main__ import main; main(['--help']); assert 'jax' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
