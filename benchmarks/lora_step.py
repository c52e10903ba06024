"""A training step with adapters against one of all parameters: SmolLM2-135M's shape, float32, 4 x 128 tokens.

  python benchmarks/lora_step.py [--rounds=3] [--seconds=20] [--output=benchmarks/lora_step.json]

Each arm is measured in a process of its own, the arms take turns, and the table shows medians over the rounds. Adapters
have rank 8, on all projections of attention and feed-forward. Memory of the step is what the compiler gives it
(arguments, results that are none of them, and temporaries), memory of the process its largest resident size. Weights
are random: time and memory do not depend on them.
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

BATCH, SEQ_LEN, RANK = 4, 128, 8
ARMS = {
    "full": {},
    "adapters": {"trained": "adapters"},
    "adapters of the top 10 layers": {"trained": "adapters", "top_layers": 10},
    "top 10 layers": {"top_layers": 10},
    "final norm": {"trained": "final_norm/.*"},
}


def program(arm: str, loss_chunks: int):
    """Returns the compiled parts of a run of an arm."""
    from gptjax.experiment_file import open_experiment
    from gptjax.model.config import LoRAConfig
    from gptjax.program import build_program
    from gptjax.tasks.mixture import build_tasks
    from gptjax.tasks.task import Setting

    cfg = open_experiment("experiments/smollm2_135m.py").read()
    lora = LoRAConfig(rank=RANK) if arm.startswith("adapters") else LoRAConfig()
    shape = {"seq_len": SEQ_LEN, "dtype": "float32", "remat": "none", "scan_layers": False, "lora": lora}
    cfg = dataclasses.replace(
        cfg,
        model=dataclasses.replace(cfg.model, **shape),
        data=dataclasses.replace(cfg.data, batch_size=BATCH),
        optim=dataclasses.replace(cfg.optim, **ARMS[arm]),
        train=dataclasses.replace(cfg.train, max_sequences_per_device=None, loss_chunks=loss_chunks),
    )
    return build_program(cfg, cfg.model.resolve(), build_tasks(cfg.tasks, Setting("", num_chunks=loss_chunks)))


def measure(arm: str, loss_chunks: int, seconds: float) -> dict[str, float]:
    """Times the steps of an arm, and says what it takes."""
    import jax
    import numpy as np

    from gptjax import distributed
    from gptjax.train.state import create_state
    from gptjax.types import Batch

    distributed.start()
    built = program(arm, loss_chunks)
    step = built.lower_train_step().compile()
    state = create_state(built.init_params, built.tx, jax.random.key(0), built.abstract)
    tokens_BT = np.random.default_rng(0).integers(0, built.model.vocab_size, (BATCH, SEQ_LEN + 1), np.int32)
    ones_BT = np.ones((BATCH, SEQ_LEN), np.int32)
    positions_BT = np.arange(SEQ_LEN, dtype=np.int32) * ones_BT
    batch = Batch(tokens_BT[:, :-1], tokens_BT[:, 1:], ones_BT.astype(np.float32), ones_BT, positions_BT, {})
    batch = jax.tree.map(lambda x: jax.device_put(x, built.batch_sharding), batch)
    times: list[float] = []
    while len(times) < 5 or sum(times) < seconds:
        start = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - start)
    memory = step.memory_analysis()
    own = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "seconds": statistics.median(times[2:]),
        "step_bytes": own + memory.temp_size_in_bytes,
        "process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "flops": built.flops_per_step,
    }


def alone(arm: str, loss_chunks: int, seconds: float) -> dict[str, float]:
    """Measures in a new process."""
    command = [sys.executable, __file__, f"--only={arm}", f"--chunks={loss_chunks}", f"--seconds={seconds}"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    if result.returncode:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Measures everything in turns, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--output", default="benchmarks/lora_step.json")
    parser.add_argument("--only", choices=ARMS, help="measure one arm in this process and print JSON")
    parser.add_argument("--chunks", type=int, default=1, help="train.loss_chunks of --only")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, args.chunks, args.seconds)))
        return
    cases = [*((arm, 1) for arm in ARMS), ("full", 4), ("adapters", 4)]
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for number in range(args.rounds):
        for case in cases:
            found.setdefault(case, []).append(alone(*case, args.seconds))
            print(f"round {number + 1}/{args.rounds}  {case}  {found[case][-1]}", file=sys.stderr)
    rows = [
        {"arm": arm, "loss_chunks": chunks, **{key: statistics.median(each[key] for each in runs) for key in runs[0]}}
        for (arm, chunks), runs in found.items()
    ]
    print("| arm | loss chunks | step s | of full | step GiB | of full | process GiB | of full | FLOPs of full |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        full = next(other for other in rows if (other["arm"], other["loss_chunks"]) == ("full", row["loss_chunks"]))
        cells = [f"{row['seconds']:.2f}", f"{row['seconds'] / full['seconds']:.2f}"]
        for key in ("step_bytes", "process_bytes"):
            cells += [f"{row[key] / 2**30:.2f}", f"{row[key] / full[key]:.2f}"]
        cells.append(f"{row['flops'] / full['flops']:.2f}")
        print(f"| {row['arm']} | {row['loss_chunks']} | {' | '.join(cells)} |")
    written = {"batch": [BATCH, SEQ_LEN], "rank": RANK, "cores": os.cpu_count(), "rows": rows}
    Path(args.output).write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
