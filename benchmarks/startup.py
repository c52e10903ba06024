"""How long a user waits: for the import, for --help, and for the first step of a first and of a second start.

  python benchmarks/startup.py [--runs=5] [--output=benchmarks/startup.json]

Every figure is a process of its own, and the median over the runs. The starts train experiments/tiny.py for one step;
the first finds an empty cache of compiled programs, the second the one that the first has left. The text is prepared
before, in neither.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORT = "import time; start = time.perf_counter(); import gptjax; print(time.perf_counter() - start)"


def seconds(command: list[str], **environment: str) -> float:
    """Returns how long a process takes, from outside; raises where it fails."""
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=True, capture_output=True)
    return time.perf_counter() - start


def measure(folder: Path) -> dict[str, float]:
    """Returns one round of figures, in seconds."""
    text, cache = folder / "text.txt", folder / "cache"
    text.write_text("".join(f"{i} and {i * i}\n" for i in range(4000)))
    environment = {"JAX_PLATFORMS": "cpu", "GPTJAX_CACHE": str(cache)}
    main = [sys.executable, "-m", "gptjax.main"]
    train = [*main, "--config=experiments/tiny.py", f"--config.data.path={text}", "--config.optim.num_steps=1"]
    train += ["--config.optim.warmup_steps=0", "--config.evaluation.num_windows=32", "--config.sample.prompts="]
    seconds([*train, "--mode=check"], **environment | {"JAX_ENABLE_COMPILATION_CACHE": "false"})
    return {
        "import gptjax": float(subprocess.check_output([sys.executable, "-c", IMPORT], cwd=ROOT, text=True)),
        "--help": seconds([*main, "--help"]),
        "first start, one step": seconds([*train, f"--workdir={folder}/first"], **environment),
        "second start, one step": seconds([*train, f"--workdir={folder}/second"], **environment),
    }


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", default="benchmarks/startup.json")
    args = parser.parse_args()
    rounds = []
    for number in range(args.runs):
        print(f"round {number + 1}/{args.runs}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(measure(Path(folder)))
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    print("| wait | median |\n|---|---:|")
    for name, value in medians.items():
        print(f"| {name} | {value * 1e3:,.1f} ms |" if value < 0.1 else f"| {name} | {value:.2f} s |")
    Path(args.output).write_text(json.dumps({"seconds": medians, "rounds": rounds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
