"""The command `python -m gptjax.prepare`, as a user meets it."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "gptjax.prepare"]


def run(*arguments, cwd=None, timeout=60, check=None, **options):
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )
    if check is not None:
        assert done.returncode == check, done.stderr
    return done


@pytest.fixture
def text(tmp_path):
    """A folder with some files of several kinds."""
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(6):
        (folder / f"{index}.txt").write_text(f"file {index}\n" * 200)
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(50)))
    return folder


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_help_fits_a_screen_and_is_quick():
    start = time.monotonic()
    done = run("--help", check=0)
    assert time.monotonic() - start < 2
    lines = done.stdout.splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 120
    for option in ("--input", "--output", "--tokenizer", "--field", "--valid_fraction", "--workers", "--shard_tokens"):
        assert option in done.stdout


def test_it_prepares_says_so_and_imports_no_jax(text, tmp_path):
    code = "import sys; from gptjax.prepare import main; main(sys.argv[1:]); assert 'jax' not in sys.modules"
    arguments = [f"--input={text}", f"--output={tmp_path / 'out'}"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"prepared {text} in" in done.stdout
    assert json.loads((tmp_path / "out/manifest.json").read_text())["splits"]["train"]["tokens"] > 1000


def test_again_says_that_it_is_done_and_other_options_are_refused(text, tmp_path):
    arguments = (f"--input={text}", "--output=out")
    run(*arguments, cwd=tmp_path, check=0)
    before = contents(tmp_path / "out")
    assert "out is prepared already" in run(*arguments, cwd=tmp_path, check=0).stdout
    done = run(*arguments, "--tokenizer=char", cwd=tmp_path, check=2)
    assert done.stderr == (
        "error: out is finished, and holds another tokenizer; choose another --output=DIR, or delete that folder\n"
    )
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output=out"], "--input"),
        (["--input=in"], "--output"),
        (["--input=none.txt", "--output=out"], "--input='none.txt' does not exist"),
        (["--input=in", "--output=out", "--tokeniser=bpe"], "there is no flag --tokeniser; did you mean --tokenizer"),
        (
            ["--input=in", "--output=out", "--tokenizer=bqe"],
            "--tokenizer=bqe is neither a tokenizer nor a path; did you",
        ),
        (["--input=in", "--output=out", "--tokenizer=bpe:9"], "vocab_size=9"),
        (["--input=in", "--output=out", "--valid_fraction=2"], "--valid_fraction=2.0 is not between 0 and 1"),
        (["--input=in", "--output=out", "--workers=0", "--shard_tokens=0"], "--shard_tokens=0 is less than 1"),
        (["--input=in", "--output=out", "--workers=two"], "--workers"),
        (["--input=in", "--output=out", "stray"], "unexpected argument 'stray'"),
        (["--input=in", "--output=out", "--field=body"], "rows.jsonl:1: there is no field 'body'"),
        (["--input=in/0.txt", "--output=in/1.txt"], "cannot be written"),
        (["--input=in", "--output=in"], "holds other files"),
    ],
)
def test_mistakes_are_plain_lines(text, tmp_path, arguments, words):
    before = contents(text)
    done = run(*arguments, cwd=tmp_path, check=2)
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert contents(text) == before
    assert not (tmp_path / "out/manifest.json").exists()


def test_inputs_in_every_form_and_the_tokenizer_of_another_folder(text, tmp_path):
    run("--input", text / "0.txt", text / "1.txt", f"--input={text}/[23].txt", "--output=out", "--tokenizer=bpe:260",
        cwd=tmp_path, check=0)  # fmt: skip
    assert json.loads((tmp_path / "out/manifest.json").read_text())["tokenizer"]["vocab_size"] == 260
    run(f"--input={text}", "--output=other", "--tokenizer=out", cwd=tmp_path, check=0)
    tokenizers = {(tmp_path / name / "tokenizer/tokenizer_config.json").read_bytes() for name in ("out", "other")}
    assert len(tokenizers) == 1


def test_the_output_may_lie_in_the_input(text):
    run("--input=.", "--output=out", cwd=text, check=0)
    assert "prepared already" in run("--input=.", "--output=out", cwd=text, check=0).stdout


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """A text that takes several seconds, and many shards."""
    file = tmp_path_factory.mktemp("larger") / "x.txt"
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(1, 9))) for _ in range(5000)]
    file.write_text("".join(" ".join(rng.choices(words, k=12)) + "\n" for _ in range(120_000)))
    return file


def arguments_for(larger, output):
    return [f"--input={larger}", f"--output={output}", "--tokenizer=bpe:300", "--workers=2", "--shard_tokens=100000"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGKILL, -9),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_killed_while_it_works_it_goes_on_to_the_same_bytes(larger, tmp_path, number, code):
    """The signal goes to the whole group, as Ctrl-C does; SIGKILL to the parent alone, and its workers end too."""
    with subprocess.Popen(
        [*COMMAND, *arguments_for(larger, tmp_path / "torn")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        while not list((tmp_path / "torn").glob("train-00001.json")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        if number == signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=30)  # and whoever else holds its pipes
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    if number != signal.SIGKILL:  # then Python's own resource tracker counts what the parent left behind
        assert len(errors.splitlines()) == 1
    assert not (tmp_path / "torn/manifest.json").exists()
    finished = (tmp_path / "torn/train-00000.bin").stat().st_mtime_ns
    run(*arguments_for(larger, tmp_path / "torn"), check=0)
    assert (tmp_path / "torn/train-00000.bin").stat().st_mtime_ns == finished
    run(*arguments_for(larger, tmp_path / "whole")[:-2], "--workers=1", "--shard_tokens=100000", check=0)
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path):
    """A text of 20 MB and one of 300 MB, each one file, peak alike."""
    peaks = []
    for megabytes in (20, 300):
        file = tmp_path / f"{megabytes}.txt"
        with open(file, "w") as stream:
            for index in range(megabytes * 1000):
                stream.write(f"{index:099}\n" * 10)
        code = (
            "import resource, sys; from gptjax.prepare import main; main(sys.argv[1:]);"
            "print(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))"
        )
        arguments = [f"--input={file}", f"--output={tmp_path / 'out'}{megabytes}", "--shard_tokens=10000000"]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 100, peaks


def test_a_full_disk_is_named_and_the_work_goes_on(text, tmp_path):
    """A limit on the size of files stands in for the disk."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    (text / "big.txt").write_text("x" * 100_000)
    arguments = (f"--input={text}", "--output=out")
    done = run(*arguments, cwd=tmp_path, check=2, preexec_fn=limit)
    assert done.stderr.startswith("error: out cannot be written (File too large)")
    assert not (tmp_path / "out/manifest.json").exists()
    run(*arguments, cwd=tmp_path, check=0)
