"""One training step, side by side: gptjax, PyTorch's GPT-2 (eager and compiled) and the machine's own matmul peak.

  python benchmarks/train_step.py [--rounds=3] [--seconds=6] [--output=benchmarks/train_step.json]

Every measurement is a process of its own that tells the mean of its steps, and the programs take turns, so that a slow
moment of the machine falls on all of them; the table shows the median over the rounds. PyTorch (`pip install torch
transformers`) is optional. The last lines compare the loop of `gptjax.main`, data and records included, with the bare
step.
"""

import argparse
import contextlib
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPES = {  # layers, heads, width, context, batch, vocabulary
    "small": (4, 4, 128, 64, 12, 65),
    "medium": (6, 6, 384, 256, 8, 65),
}
PROGRAMS = ("gptjax", "torch eager", "torch compiled")
DTYPES = ("float32", "bfloat16")


# ---- measured inside a process of their own; each returns seconds a step


def measure(step, seconds: float) -> float:
    """Returns the mean time of a step, in seconds; `step` waits for its own result."""
    for _ in range(3):
        step()
    count, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds or count < 5:
        step()
        count += 1
    return (time.perf_counter() - start) / count


def experiment_config(shape: str, dtype: str, text: Path, cache: Path):
    """Returns the config of a GPT-2 of that shape over a text of random bytes."""
    import dataclasses

    from gptjax.config import ExperimentConfig
    from gptjax.registry import Choice

    num_layers, num_heads, d_model, seq_len, batch_size, vocab_size = SHAPES[shape]
    cfg = ExperimentConfig()
    characters = "".join(chr(33 + i) for i in range(vocab_size))
    text.write_text(characters * 400, encoding="utf-8")
    return dataclasses.replace(
        cfg,
        model=dataclasses.replace(
            cfg.model,
            num_layers=num_layers,
            num_heads=num_heads,
            d_model=d_model,
            seq_len=seq_len,
            vocab_multiple=1,  # as PyTorch has it
            dtype=dtype,
            scan_layers=False,
        ),
        data=dataclasses.replace(
            cfg.data, path=str(text), tokenizer=Choice("char"), batch_size=batch_size, cache_dir=str(cache)
        ),
        sample=dataclasses.replace(cfg.sample, prompts=()),
    )


def gptjax_step(shape: str, dtype: str, seconds: float) -> dict:
    """Times the compiled step of an experiment on one batch, and counts its flops."""
    import jax

    from gptjax import distributed, experiment
    from gptjax.train.state import create_state

    distributed.start()
    with tempfile.TemporaryDirectory() as folder:
        built = experiment.build(experiment_config(shape, dtype, Path(folder, "text"), Path(folder)))
        train_step = built.lower_train_step().compile()
        state = create_state(built.init_params, built.tx, jax.random.key(0), built.abstract)
        batch = next(built.train_batches(0))

        def step():
            nonlocal state
            state, metrics = train_step(state, batch)
            jax.block_until_ready((state, metrics))

        return {"seconds": measure(step, seconds), "flops": built.flops_per_step}


def gptjax_loop(shape: str, dtype: str, seconds: float) -> dict:
    """Times the loop by the rows that it writes, a mean of ten steps each; the first, which warms up, left out."""
    import dataclasses
    import io

    from gptjax import distributed, run

    distributed.start()
    num_steps = 40 if shape == "medium" else 600
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        cfg = experiment_config(shape, dtype, Path(folder, "text"), Path(folder))
        cfg = dataclasses.replace(
            cfg,
            optim=dataclasses.replace(cfg.optim, num_steps=num_steps, warmup_steps=10),
            train=dataclasses.replace(cfg.train, log_every=10),
            evaluation=dataclasses.replace(cfg.evaluation, every=num_steps),
            checkpoint=dataclasses.replace(cfg.checkpoint, every=num_steps),
        )
        run.train(cfg, f"{folder}/run", [])
        rows = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    times = [row["step_seconds"] for row in rows if row["split"] == "train"]
    return {"seconds": statistics.mean(times[1:])}


def torch_step(shape: str, dtype: str, seconds: float, compiled: bool) -> dict:
    """Times Hugging Face's GPT2LMHeadModel with AdamW and clipping; bfloat16 by autocast over float32 weights."""
    import torch  # type: ignore
    from transformers import GPT2Config, GPT2LMHeadModel  # type: ignore

    num_layers, num_heads, d_model, seq_len, batch_size, vocab_size = SHAPES[shape]
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab_size,
            n_positions=seq_len,
            n_embd=d_model,
            n_layer=num_layers,
            n_head=num_heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    tokens = torch.randint(vocab_size, (batch_size, seq_len + 1))

    def loss_fn(inputs, targets):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(inputs).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    if compiled:
        loss_fn = torch.compile(loss_fn)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss_fn(tokens[:, :-1], tokens[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return {"seconds": measure(step, seconds)}


def matmul_peak(shape: str, dtype: str, seconds: float) -> dict:
    """Measures the best FLOP/s of a square matrix product, through jax, as the loop's MFU does."""
    from gptjax.train.throughput import measured_matmul_flops

    return {"flops": measured_matmul_flops(dtype, size=2048, repeats=16)}


MEASUREMENTS = {
    "gptjax": gptjax_step,
    "gptjax loop": gptjax_loop,
    "torch eager": lambda *args: torch_step(*args, compiled=False),
    "torch compiled": lambda *args: torch_step(*args, compiled=True),
    "matmul peak": matmul_peak,
}


# ---- the table


def run_alone(name: str, shape: str, dtype: str, seconds: float) -> dict | None:
    """Measures in a new process; None where it cannot run here, with the last line of its error shown."""
    flags = {"only": name, "shape": shape, "dtype": dtype, "seconds": seconds}
    command = [sys.executable, __file__, *(f"--{flag}={value}" for flag, value in flags.items())]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    if result.returncode:
        print(f"{name} {shape} {dtype}: {result.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(result.stdout.splitlines()[-1])


def machine() -> dict[str, str]:
    """Names the machine and the libraries in words."""
    from importlib.metadata import PackageNotFoundError, version

    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ":")
    words = {"cpu": cpu.split(":")[1].strip(), "cores": str(os.cpu_count()), "python": platform.python_version()}
    for package in ("jax", "flax", "torch", "transformers"):
        try:
            words[package] = version(package)
        except PackageNotFoundError:
            words[package] = "absent"
    return words


def main() -> None:
    """Measures everything in turns, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--output", default="benchmarks/train_step.json")
    parser.add_argument("--only", choices=MEASUREMENTS, help="measure one thing in this process and print JSON")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(MEASUREMENTS[args.only](args.shape, args.dtype, args.seconds)))
        return

    found: dict[tuple[str, str, str], list[dict]] = {}
    with contextlib.suppress(KeyboardInterrupt):  # the table then shows what was measured so far
        for number, shape, dtype, name in itertools.product(range(args.rounds), SHAPES, DTYPES, MEASUREMENTS):
            if number and not found.get((name, shape, dtype)):
                continue  # it cannot run here
            measured = run_alone(name, shape, dtype, args.seconds)
            print(f"round {number + 1}/{args.rounds}  {shape}  {dtype}  {name}  {measured}", file=sys.stderr)
            if measured is not None:
                found.setdefault((name, shape, dtype), []).append(measured)

    def median(name, shape, dtype, key):
        values = [each[key] for each in found.get((name, shape, dtype), [])]
        return statistics.median(values) if values else None

    rows = []
    for shape, dtype in itertools.product(SHAPES, DTYPES):
        eager = median("torch eager", shape, "float32", "seconds")
        flops, peak = median("gptjax", shape, dtype, "flops"), median("matmul peak", shape, dtype, "flops")
        for name in (*PROGRAMS, "gptjax loop"):
            seconds = median(name, shape, dtype, "seconds")
            if seconds is None:
                continue
            tokens = SHAPES[shape][3] * SHAPES[shape][4]
            rows.append(
                {
                    "shape": shape,
                    "dtype": dtype,
                    "program": name,
                    "step_ms": 1e3 * seconds,
                    "tokens_per_second": tokens / seconds,
                    "matmul_peak_fraction": flops / seconds / peak if flops and peak else None,
                    "speed_over_torch_eager_float32": eager / seconds if eager else None,
                }
            )
    words = machine()
    print("  ".join(f"{key} {value}" for key, value in words.items()))
    print("\n| shape | dtype | program | step ms | tokens/s | of matmul peak | x PyTorch eager float32 |")
    print("|---|---|---|---:|---:|---:|---:|")
    for row in rows:
        fraction = "-" if row["matmul_peak_fraction"] is None else f"{row['matmul_peak_fraction']:.1%}"
        ratio = "-" if row["speed_over_torch_eager_float32"] is None else f"{row['speed_over_torch_eager_float32']:.2f}"
        print(
            f"| {row['shape']} | {row['dtype']} | {row['program']} | {row['step_ms']:.1f} "
            f"| {row['tokens_per_second']:,.0f} | {fraction} | {ratio} |"
        )
    print()
    for shape in SHAPES:
        bare, loop = (median(name, shape, "float32", "seconds") for name in ("gptjax", "gptjax loop"))
        if bare and loop:
            print(f"loop overhead, {shape}, float32: {loop / bare - 1:+.1%}")
    Path(args.output).write_text(json.dumps({"machine": words, "shapes": SHAPES, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
