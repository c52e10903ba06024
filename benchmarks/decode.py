"""Greedy decoding of one text, side by side: gptjax, transformers and llama.cpp, in SmolLM2-135M's shape and float32.

  python benchmarks/decode.py [--workdir=DIR] [--peer-python=PYTHON] [--gguf=FILE] [--rounds=3] [--repetitions=3]
                              [--prompt_tokens=32] [--new_tokens=128] [--output=benchmarks/decode.json]

Weights are a workdir's, such as `gptjax.convert` makes of SmolLM2, or random; transformers loads their export. PYTHON
is an interpreter that has transformers and torch (or llama_cpp), where this one has not. A figure is the median over
the repetitions of a process of its own, prompt included and the first one left out, since it compiles; the programs
take turns, and the table shows medians over the rounds. llama.cpp decodes a file in its own format, --gguf, whatever
bits it has. `same tokens` is how many of gptjax's first ones a program has: on equal weights all, ties within rounding
aside.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from train_step import machine

ROOT = Path(__file__).parents[1]


# ---- measured inside a process of their own


def timed(generate: Callable[[], list[int]], repetitions: int) -> dict:
    """Returns the median seconds and processor seconds of a text, how long the first one took, and its tokens."""
    seconds, processor = [], []
    for _ in range(repetitions + 1):
        start, start_processor = time.perf_counter(), time.process_time()
        tokens = generate()
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
    return {
        "seconds": statistics.median(seconds[1:]),
        "processor_seconds": statistics.median(processor[1:]),
        "first_seconds": seconds[0],
        "tokens": tokens,
    }


def gptjax_model(workdir: str):
    """Returns config, parameters and tokenizer of a workdir, or of a random model."""
    import jax

    from gptjax import distributed, inference, model
    from gptjax.data.tokenizer import ByteTokenizer
    from gptjax.experiment_file import open_experiment

    distributed.start()
    if workdir:
        cfg, params, tokenizer, _ = inference.load(workdir)
        return dataclasses.replace(cfg, dtype="float32"), params, tokenizer
    cfg = dataclasses.replace(open_experiment("experiments/smollm2_135m.py").read().model, dtype="float32").resolve()
    return cfg, model.init_params(cfg, jax.random.key(0)), ByteTokenizer()


def export(args: argparse.Namespace) -> dict:
    """Writes what transformers loads."""
    from gptjax.data.console import Console
    from gptjax.interop.exports import export_huggingface

    export_huggingface(*gptjax_model(args.workdir), Path(args.exported), Console())
    return {}


def gptjax(args: argparse.Namespace) -> dict:
    """Times what `gptjax.sample` calls."""
    from gptjax.sample.config import SampleConfig
    from gptjax.sample.generate import generate

    cfg, params, _ = gptjax_model(args.workdir)
    rules = SampleConfig(temperature=0.0, max_tokens=args.new_tokens)

    def text() -> list[int]:
        return [token for news in generate(cfg, params, [prompt(args)], rules, 0) for token in news[0]]

    return timed(text, args.repetitions)


def transformers(args: argparse.Namespace) -> dict:
    """Times its `generate`, on all cores."""
    import torch  # type: ignore
    from transformers import AutoModelForCausalLM  # type: ignore

    torch.set_num_threads(os.cpu_count() or 1)
    model = AutoModelForCausalLM.from_pretrained(args.exported, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    ids = torch.tensor([prompt(args)])
    rules = {"max_new_tokens": args.new_tokens, "do_sample": False, "pad_token_id": 0}

    def text() -> list[int]:
        with torch.no_grad():
            found = model.generate(ids, attention_mask=torch.ones_like(ids), **rules)
        return found[0, args.prompt_tokens :].tolist()

    return timed(text, args.repetitions)


def llama_cpp(args: argparse.Namespace) -> dict:
    """Times llama.cpp by its Python binding, on all cores."""
    from llama_cpp import Llama  # type: ignore

    size = args.prompt_tokens + args.new_tokens
    model = Llama(args.gguf, n_ctx=size, n_threads=os.cpu_count(), n_threads_batch=os.cpu_count(), verbose=False)

    def text() -> list[int]:
        tokens = model.generate(prompt(args), temp=0.0, repeat_penalty=1.0, reset=True)
        return [token for token, _ in zip(tokens, range(args.new_tokens), strict=False)]

    return timed(text, args.repetitions)


def prompt(args: argparse.Namespace) -> list[int]:
    """Returns the ids that every program continues."""
    return list(range(100, 100 + args.prompt_tokens))


PROGRAMS = {"gptjax": gptjax, "transformers": transformers, "llama.cpp": llama_cpp}
LIBRARIES = {"gptjax": ("jax", "flax"), "transformers": ("transformers", "torch"), "llama.cpp": ("llama-cpp-python",)}


# ---- the parent


def run_alone(only: str, python: str, args: argparse.Namespace) -> dict | None:
    """Measures one program in a process of its own; None, with the reason on stderr, where it cannot run here."""
    command = [python, __file__, f"--only={only}"]
    for name in ("workdir", "exported", "gguf", "repetitions", "prompt_tokens", "new_tokens"):
        command.append(f"--{name}={getattr(args, name)}")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(f"{only}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def measure(args: argparse.Namespace) -> dict[str, list[dict]]:
    """Returns the figures of every program's rounds, in turns."""
    pythons = {"gptjax": sys.executable, "transformers": args.peer_python}
    if args.gguf:
        pythons["llama.cpp"] = args.peer_python
    found: dict[str, list[dict]] = {}
    for number in range(args.rounds):
        for name, python in pythons.items():
            if number and name not in found:
                continue  # it cannot run here
            measured = run_alone(name, python, args)
            if measured is not None:
                found.setdefault(name, []).append(measured)
                speed = args.new_tokens / measured["seconds"]
                print(f"round {number + 1}/{args.rounds}  {name}  {speed:.1f} tokens/s", file=sys.stderr)
    return found


def row(name: str, rounds: list[dict], first: list[int], peer: float | None) -> dict:
    """Returns a program's line of the table."""
    median = {key: statistics.median(each[key] for each in rounds) for key in rounds[0] if key.endswith("seconds")}
    tokens = rounds[0]["tokens"]
    return {
        "program": name,
        "versions": rounds[0]["versions"],
        "tokens_per_second": len(tokens) / median["seconds"],
        "speed_over_transformers": peer / median["seconds"] if peer else None,
        "processor_ms_per_token": 1e3 * median["processor_seconds"] / len(tokens),
        "first_text_seconds": median["first_seconds"],
        "rounds": [len(tokens) / each["seconds"] for each in rounds],
        "same_tokens": next((n for n, (a, b) in enumerate(zip(tokens, first, strict=False)) if a != b), len(first)),
    }


def versions(names: tuple[str, ...]) -> str:
    """Returns what is installed of the libraries, in words."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def main() -> None:
    """Measures everything in turns, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("workdir", "gguf", "exported"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    for name, default in (("rounds", 3), ("repetitions", 3), ("prompt_tokens", 32), ("new_tokens", 128)):
        parser.add_argument(f"--{name}", type=int, default=default, help=argparse.SUPPRESS)
    parser.add_argument("--peer-python", default=sys.executable, help=argparse.SUPPRESS)
    parser.add_argument("--output", default="benchmarks/decode.json", help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=[*PROGRAMS, "export"], help="measure one in this process and print JSON")
    args = parser.parse_args()
    if args.only == "export":
        print(json.dumps(export(args)))
        return
    if args.only:
        print(json.dumps({**PROGRAMS[args.only](args), "versions": versions(LIBRARIES[args.only])}))
        return
    with tempfile.TemporaryDirectory() as folder:
        args.exported = str(Path(folder, "model"))
        if run_alone("export", sys.executable, args) is None:
            raise SystemExit("the model could not be exported")
        found = measure(args)
    peer = statistics.median(each["seconds"] for each in found["transformers"]) if "transformers" in found else None
    rows = [row(name, rounds, found["gptjax"][0]["tokens"], peer) for name, rounds in found.items()]
    words = {name: word for name, word in machine().items() if name in ("cpu", "cores", "python")}
    print("  ".join(f"{key} {value}" for key, value in words.items()))
    print("\n| program | tokens/s | x transformers | processor ms/token | first text s | same tokens | versions |")
    print("|---|---:|---:|---:|---:|---:|---|")
    for each in rows:
        ratio = "-" if each["speed_over_transformers"] is None else f"{each['speed_over_transformers']:.2f}"
        print(
            f"| {each['program']} | {each['tokens_per_second']:.1f} | {ratio} | {each['processor_ms_per_token']:.1f} "
            f"| {each['first_text_seconds']:.1f} | {each['same_tokens']} of {args.new_tokens} | {each['versions']} |"
        )
    Path(args.output).write_text(json.dumps({"machine": words, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
