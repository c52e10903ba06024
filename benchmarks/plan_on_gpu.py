"""What the planner says of one GPU, beside what the GPU does: step time, utilisation and memory.

  python benchmarks/plan_on_gpu.py [--topology=h100:1x1] [--steps=20] [--output=benchmarks/plan_on_gpu.json] [CASE ..]

Needs the GPU. Every plan and every measurement is a process of its own; the plan's sees no GPU. Batches are random
tokens, in bfloat16. Measured memory is the largest that jax's allocator gave out, so the state of the initialisation
counts too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

CASES = {
    "gpt2_124m": {"data.batch_size": 48},
    "gpt2_124m, remat none": {"data.batch_size": 48, "model.remat": "none"},
    "gpt2_124m, remat none, loss in 8 chunks": {"data.batch_size": 48, "model.remat": "none", "train.loss_chunks": 8},
    "gpt2_1558m": {"data.batch_size": 16, "train.max_sequences_per_device": 8, "train.loss_chunks": 8},
}


def measure(case: str, steps: int) -> dict[str, float | str | None]:
    """Runs steps of a case on the first device."""
    import jax
    import numpy as np

    from gptjax import distributed
    from gptjax.experiment_file import open_experiment
    from gptjax.program import build_program
    from gptjax.tasks.mixture import build_tasks
    from gptjax.tasks.task import Setting
    from gptjax.train.state import create_state
    from gptjax.train.throughput import peak_flops
    from gptjax.types import Batch

    distributed.start()
    changes = [(name, str(value)) for name, value in CASES[case].items()]
    cfg = open_experiment(f"experiments/{case.partition(',')[0]}.py").read(changes)
    tasks = build_tasks(cfg.tasks, Setting("", num_chunks=cfg.train.loss_chunks))
    built = build_program(cfg, cfg.model.resolve(), tasks)
    start = time.perf_counter()
    step = built.lower_train_step().compile()
    compile_seconds = time.perf_counter() - start
    state = create_state(built.init_params, built.tx, jax.random.key(0), built.abstract)
    shape = (cfg.data.batch_size, built.model.seq_len)
    tokens_BT = np.random.default_rng(0).integers(0, built.model.vocab_size, (shape[0], shape[1] + 1), np.int32)
    ones_BT, places_BT = np.ones(shape, np.int32), np.arange(shape[1], dtype=np.int32) * np.ones(shape, np.int32)
    batch = Batch(tokens_BT[:, :-1], tokens_BT[:, 1:], ones_BT.astype(np.float32), ones_BT, places_BT, {})
    batch = jax.tree.map(lambda x: jax.device_put(x, built.batch_sharding), batch)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times[2:])
    peak = peak_flops(cfg.model.dtype)
    return {
        "device": jax.devices()[0].device_kind,
        "seconds": seconds,
        "tokens_per_second": built.tokens_per_step / seconds,
        "mfu": built.flops_per_step / seconds / peak if peak else None,
        "peak_bytes": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
        "compile_seconds": compile_seconds,
    }


def alone(*command: str, **environment: str) -> str:
    """Runs a command to its end and returns what it printed."""
    result = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env={**os.environ, **environment}
    )
    if result.returncode:
        raise SystemExit(result.stderr)
    return result.stdout


def planned(case: str, topology: str) -> dict:
    """Returns the plan of a case, as JSON."""
    from plans import plan

    os.environ["JAX_PLATFORMS"] = "cpu"
    return plan(case.partition(",")[0], topology, CASES[case])


def main() -> None:
    """Measures each case, plans it, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: {'; '.join(CASES)}")
    parser.add_argument("--topology", default="h100:1x1")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", default="benchmarks/plan_on_gpu.json")
    parser.add_argument("--only", choices=CASES, help="measure one case in this process and print JSON")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, args.steps)))
        return
    rows = []
    print("| case | step ms | plan at least | tokens/s | MFU | plan at most | peak GiB | plan | compiled in s |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for case in args.cases or CASES:
        found = json.loads(alone(__file__, f"--only={case}", f"--steps={args.steps}").splitlines()[-1])
        plan = planned(case, args.topology)
        rows.append({"case": case, "measured": found, "plan": plan})
        bound = plan["step_seconds"][plan["bound"]]
        print(
            f"| {case} | {1e3 * found['seconds']:.1f} | {1e3 * bound:.1f} | {found['tokens_per_second']:,.0f} "
            f"| {found['mfu'] or 0:.1%} | {plan['mfu_bound']:.1%} | {(found['peak_bytes'] or 0) / 2**30:.2f} "
            f"| {plan['peak_hbm_bytes'] / 2**30:.2f} | {found['compile_seconds']:.0f} |",
            flush=True,
        )
    Path(args.output).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
