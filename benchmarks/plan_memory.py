"""What each lever of memory costs and saves, by the planner: the tables of docs/memory.md.

  python benchmarks/plan_memory.py

Needs the extra `tpu`; nothing runs on a chip.
"""

import sys
from collections.abc import Mapping

import plans

EXPERIMENT, TOPOLOGY = "gpt2_1558m", "v5e:4x4"
BASE = {"data.batch_size": 128, "train.max_sequences_per_device": 8, "train.loss_chunks": 8, "model.remat": "full"}
LEVERS = {
    "as it is": {},
    "remat none": {"model.remat": "none"},
    "remat dots": {"model.remat": "dots"},
    "remat minimal": {"model.remat": "minimal"},
    "remat offload": {"model.remat": "offload"},
    "loss in one piece": {"train.loss_chunks": 1},
    "accumulation: 4 sequences at a time": {"train.max_sequences_per_device": 4},
    "accumulation: 2 sequences at a time": {"train.max_sequences_per_device": 2},
    "first moment in bfloat16": {"optim.optimizer.mu_dtype": "bfloat16"},
    "weights replicated (rules dp)": {"mesh.rules": "dp"},
    "weights gathered by hand (rules fsdp_manual)": {"mesh.rules": "fsdp_manual"},
    "two copies of the weights (replica 2)": {"mesh.replica": 2},
    "tensor 4, norms split too (rules fsdp_tp_sp)": {
        "mesh.rules": "fsdp_tp_sp",
        "mesh.tensor": 4,
        "model.num_heads": 20,
    },
}

# Twelve blocks: 48 that are not scanned take the compiler longer than anyone waits.
FEW = "gpt2_124m"
UNROLLED = {
    "scanned": {},
    "unrolled": {"model.scan_layers": False},
    "scanned, remat none": {"model.remat": "none"},
    "unrolled, remat none": {"model.remat": "none", "model.scan_layers": False},
}

LONG, LONG_TOPOLOGY = "llama3_8b", "v5p:4x4x4"
LONG_BASE = {"model.seq_len": 32_768, "train.max_sequences_per_device": 1, "mesh.rules": "context"}


def row(words: str, plan: Mapping) -> str:
    """Returns a line of a table."""
    if plan["bound"] is None:
        return f"| {words} | {plan['peak_hbm_bytes'] / plans.GIB:.2f}: does not fit | | | |"
    seconds = plan["step_seconds"]
    return (
        f"| {words} | {plan['peak_hbm_bytes'] / plans.GIB:.2f} | {plan['temp_bytes'] / plans.GIB:.2f} | "
        f"{seconds['compute']:.3f} | {plans.wires(plan):.1f} |"
    )


def main() -> None:
    """Prints the tables."""
    print(plans.versions())
    print(f"\n{EXPERIMENT} on {TOPOLOGY}, {BASE}")
    print("\n| | peak GiB | of that temporaries | compute s a step | wire GiB |\n|---|---:|---:|---:|---:|")
    for words, changes in LEVERS.items():
        print(row(words, plans.plan(EXPERIMENT, TOPOLOGY, {**BASE, **changes})), flush=True)
    print(f"\n{FEW} on {TOPOLOGY}, {BASE}")
    print("\n| | peak GiB | of that temporaries | compute s a step | wire GiB | compile s |")
    print("|---|---:|---:|---:|---:|---:|")
    for words, changes in UNROLLED.items():
        found = plans.plan(FEW, TOPOLOGY, {**BASE, **changes})
        print(f"{row(words, found)} {found['compile_seconds']:.0f} |", flush=True)
    print(f"\n{LONG} on {LONG_TOPOLOGY}, {LONG_BASE}")
    print("\n| context | peak GiB | of that temporaries | compute s a step | wire GiB |\n|---|---:|---:|---:|---:|")
    for context in (1, 2, 4, 8, 16):
        sizes = {"mesh.context": context, "data.batch_size": 64 // context}
        print(row(str(context), plans.plan(LONG, LONG_TOPOLOGY, {**LONG_BASE, **sizes})), flush=True)


if __name__ == "__main__":
    sys.exit(main())
