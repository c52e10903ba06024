"""Plans every preset for the chips that its docstring names: does it fit, what bounds it, how long does planning take.

  python benchmarks/plan_presets.py [NAME ...]

Needs the extras `tpu` and `plan-gpu`; nothing runs on a chip.
"""

import re
import sys
from pathlib import Path

import plans

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def main(names: list[str]) -> None:
    """Prints a table."""
    meant = {}
    for path in sorted(EXPERIMENTS.glob("*.py")):
        found = re.search(r"--config=experiments/(\w+)\.py --topology=(\S+)\)", path.read_text())
        if found and (not names or path.stem in names):
            meant[found[1]] = found[2]
    print(plans.versions())
    print("\n| preset | chips | mesh | peak GiB of | step s, bound by | MFU at most | days at least | planned in s |")
    print("|---|---|---|---:|---|---:|---:|---:|")
    for name, topology in meant.items():
        plan = plans.plan(name, topology, {})
        peak, capacity = plan["peak_hbm_bytes"] / plans.GIB, plan["hbm_capacity_bytes"] / plans.GIB
        time = (
            f"{plan['step_seconds'][plan['bound']]:.3g}, {plan['bound']} | {plan['mfu_bound']:.0%} | {plan['days']:.3g}"
        )
        print(
            f"| {name} | {topology} | {plans.mesh(plan)} | {peak:.2f} of {capacity:.1f} | "
            f"{time if plan['fits'] else 'DOES NOT FIT | | '} | {plan['process_seconds']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
