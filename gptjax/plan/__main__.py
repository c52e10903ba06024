"""Plans a run for chips that are not here.

  python -m gptjax.plan --config=experiments/gpt3_175b.py --topology=v5p:8x8x8

Flags -> config -> fleet -> forecast -> table; nothing else.
"""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gptjax import flags
from gptjax.registry import did_you_mean
from gptjax.types import UserError

HELP = """\
usage: python -m gptjax.plan --config=FILE --topology=CHIP:SHAPE [--slices=N] [--json=FILE] [--search]

Compiles the training step of an experiment for chips that are not here, and says whether it
fits, what it moves and computes, what bounds it and how long the run takes at the least.

  --config=FILE           an experiment, such as experiments/gpt3_175b.py
  --config.a.b=VALUE      changes an option, as in --config.mesh.tensor=8 (repeatable)
  --topology=CHIP:SHAPE   v4, v5p, tpu7x: AxBxC chips; v5e, v6e: AxB chips (needs the extra tpu)
                          a100, h100, h200, b200: HOSTSxGPUS (needs the extra plan-gpu)
                          cpu:N: virtual devices of this machine
  --slices=1              so many TPU slices of that shape, joined by the network
  --json=FILE             writes the plan as JSON too
  --search                tries meshes, rules, remat and batches per device; prints the best
  --by=time               what is best: time of a step, wires (bytes between devices), memory
  --limit=300             seconds that the search may take
  --help                  this text

Nothing runs on any chip, and nothing needs the network.
Exit codes: 0 done (whether it fits or not), 2 a mistake that you can mend, 1 a bug.
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code."""
    if "--help" in argv or "-h" in argv:  # answered before anything heavy is imported
        print(HELP, end="")
        return 0
    from gptjax import overrides
    from gptjax.experiment_file import open_experiment

    arguments, changes = overrides.split(argv)
    parser = flags.Parser(add_help=False)
    parser.add_argument("--config", required=True)
    parser.add_argument("--topology", required=True)
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--by", default="time")
    parser.add_argument("--limit", type=float, default=300)
    args = parser.parse(arguments)
    if not 0 < args.limit < float("inf"):
        raise UserError(f"--limit={args.limit:g} is no time; give the search some seconds")
    if args.json is not None and not args.json.parent.is_dir():
        raise UserError(f"--json={args.json}: there is no folder {args.json.parent}; make it first")
    cfg = open_experiment(args.config).read(changes)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # what the partitioner thinks of a mesh shows in the figures

    from gptjax.plan.forecast import Forecast, forecast
    from gptjax.plan.progress import working
    from gptjax.plan.report import best, summary, table
    from gptjax.plan.search import OBJECTIVES, rank, search
    from gptjax.plan.topology import open_fleet, start_no_chip
    from gptjax.plan.worker import CompilerCrashError, Worker

    if args.by not in OBJECTIVES:
        raise UserError(f"--by={args.by} is nothing to search by; {did_you_mean(args.by, OBJECTIVES)}")
    start_no_chip()
    fleet = open_fleet(args.topology, args.slices)
    if args.search:
        plans, worker = [], Worker(args.topology, args.slices, args.config)

        def attempt(cfg, label):
            with working(label):
                try:
                    return worker.forecast(cfg)
                except CompilerCrashError as crash:
                    return crash

        with contextlib.closing(worker):
            for label, found in search(cfg, fleet, args.by, args.limit, attempt):
                print(f"{label}: {summary(found) if isinstance(found, Forecast) else f'crashed: {found}'}", flush=True)
                plans += [found] if isinstance(found, Forecast) else []
        if not plans:
            raise UserError("--search: the compiler crashed on all that was tried; raise --limit or change the config")
        plans.sort(key=lambda plan: rank(plan, args.by))
        print("\n".join(["", *best(plans, OBJECTIVES[args.by].words), ""]))
        plan, more = plans[0], {"search": [dataclasses.asdict(plan) for plan in plans]}
    else:
        with working(f"compiling for {args.topology}"):
            plan, more = forecast(cfg, fleet, args.config), {}
    print("\n".join(table(plan)))
    if args.json is not None:
        document = {**dataclasses.asdict(plan), **more}
        args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(flags.exit_code(main, sys.argv[1:]))
