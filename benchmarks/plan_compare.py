"""What the planner finds beside what was measured of MaxText: same model, chips, batch and context, and the mesh that
the search finds.

  python benchmarks/plan_compare.py [--case=NAME] [--seconds=150] [--output=benchmarks/plan_compare.json]

Nothing runs on a chip: both programs' steps are compiled for the same absent ones, with the same jax and libtpu. The
figures of MaxText 0.2.5 (full recomputation, flash attention, default flags) were taken with jax 0.12.0.1 and libtpu
0.0.52, those of the case on GPUs from a plain jax prototype; wire bytes count an all-reduce twice and loops as often as
they run. Needs the extras `tpu` and `plan-gpu`.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import plans


class Case(NamedTuple):
    """A plan, and what its peer needs."""

    words: str
    experiment: str
    topology: str
    overrides: dict[str, object]
    peak_gib: float
    wire_gib: float
    searched_wire_gib: float | None
    """What the search is asked to come to; None: just a shorter step."""
    by: str = "time"
    """What the search looks for."""


SIX_BILLION = {  # GPT-3's shape at 48 layers
    **{"model.num_layers": 48, "model.d_model": 3072, "model.num_heads": 12, "model.vocab_size": 32768},
    **{"model.use_bias": False, "data.batch_size": 128, "mesh.fsdp": 64},
}
CASES = {
    "6b-v5p": Case("GPT-3 6B shape", "gpt3_6700m", "v5p:4x4x4", SIX_BILLION, 3.42, 41.7, 33),
    "8b-v5e": Case(
        "Llama 3 8B",
        "llama3_8b",
        "v5e:16x16",
        {"model.seq_len": 2048, "data.packing": "windows", "data.batch_size": 512, "mesh.fsdp": 256},
        4.42,
        56.0,
        47,
    ),
    "6b-h100": Case("GPT-3 6B shape", "gpt3_6700m", "h100:8x8", SIX_BILLION, 4.49, 30.8, None),
    "175b-v5p": Case(
        "GPT-3 175B",
        "gpt3_175b",
        "v5p:8x8x8",
        {"data.batch_size": 1024, "mesh.fsdp": 512},
        21.0,
        1303,
        1303 / 2,
        "wires",
    ),
}
COMMON = {
    **{"model.remat": "full", "train.max_sequences_per_device": 2, "train.loss_chunks": 8},
    **{"mesh.rules": "fsdp_manual", "mesh.replica": 1, "mesh.tensor": 1},
}


def plan(case: Case, *flags: str) -> dict:
    """Plans a case."""
    return plans.plan(case.experiment, case.topology, {**COMMON, **case.overrides}, *flags)


def describe(found: dict) -> str:
    """Returns the cells of a plan."""
    seconds = found["step_seconds"]
    return (
        f"{plans.mesh(found)}, {found['rules']}, {found['remat']}, {found['sequences_per_device']} | "
        f"{found['peak_hbm_bytes'] / plans.GIB:.2f} | {plans.wires(found):,.1f} | {seconds[found['bound']]:.3f} | "
        f"{seconds['interconnect']:.3f}"
    )


def main() -> None:
    """Prints a table and writes all plans."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    found = {}
    for name in args.case or CASES:
        case = CASES[name]
        search = ("--search", f"--by={case.by}", f"--limit={args.seconds:g}")
        found[name] = {"same mesh": plan(case), f"searched by {case.by}": plan(case, *search)}
    print(plans.versions())
    print(
        "\n| case | plan | mesh, rules, remat, sequences at a time | peak GiB | wire GiB | step s | of that wires s |"
    )
    print("|---|---|---|---:|---:|---:|---:|")
    for name, both in found.items():
        case = CASES[name]
        half = "" if case.searched_wire_gib is None else f" (search: {case.searched_wire_gib:,.1f})"
        print(f"| {case.words}, {case.topology} | asked | | {case.peak_gib:.2f} | {case.wire_gib:,.1f}{half} | | |")
        for label, each in both.items():
            print(f"| | {label} | {describe(each)} |")
    if args.output:
        args.output.write_text(json.dumps({"versions": plans.versions(), "plans": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
