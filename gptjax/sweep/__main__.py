"""Lists, runs and reports the runs of an ablation.

  python -m gptjax.sweep --config=experiments/ablations/positions.py --run --parallel=2

Flags -> runs -> commands, processes or a page; nothing else.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from gptjax import flags
from gptjax.types import UserError

HELP = """\
usage: python -m gptjax.sweep --config=FILE [--run] [--report] [--parallel=N] [--workdir=DIR]

Lists the commands of all runs of an ablation, or runs them, or writes what they say together.
Run again, it skips what is done and goes on with the rest.

  --config=FILE           an experiment with sweep(), such as experiments/ablations/positions.py
  --config.a.b=VALUE      changes an option in all runs (repeatable)
  --workdir=DIR           holds a folder for each run (default: runs/<experiment>)
  --run                   runs them on this machine
  --parallel=N            so many at a time (default: 1)
  --report                writes report.html and report.md there, also of half a sweep
  --launcher=slurm        writes an array job there, and says how to submit it
  --help                  this text

In a run's folder: what gptjax.main writes, and stdout.txt and stderr.txt of its last start.
Exit codes: 0 done, 1 some runs failed (or a bug), 2 a mistake that you can mend,
130 and 143 stopped by Ctrl-C or SIGTERM: run it again to go on.
"""
LAUNCHERS = ("local", "slurm")


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code."""
    if "--help" in argv or "-h" in argv:  # answered before anything heavy is imported
        print(HELP, end="")
        return 0
    from gptjax import overrides

    arguments, changes = overrides.split(argv)
    parser = flags.Parser(add_help=False)
    parser.add_argument("--config", required=True)
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--parallel", type=int)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--launcher", default="local", choices=LAUNCHERS)
    args = parser.parse(arguments)
    if args.parallel is not None and args.parallel < 1:
        raise UserError(f"--parallel={args.parallel} is less than 1; choose how many runs go on at a time")
    if args.run and args.launcher != "local":
        raise UserError(f"--run is for this machine; --launcher={args.launcher} writes a job that you submit")

    from gptjax.sweep.runs import load_runs

    folder = args.workdir or Path("runs") / Path(args.config).stem
    runs = load_runs(args.config, changes, folder)
    exit_code = 0
    if args.launcher == "slurm":
        from gptjax.sweep.slurm import write_array

        print("\n".join(write_array(args.config, runs, folder, args.parallel)))
    elif args.run:
        from gptjax.sweep.execute import Execution
        from gptjax.sweep.progress import Board

        exit_code = Execution(runs, args.parallel or 1, Board()).run()
        if exit_code == 0 and not args.report:
            print("the same command with --report writes the page")
    elif not args.report:
        print("\n".join(run.command for run in runs))
    if args.report and exit_code in (0, 1):  # who stopped it does not wait for a page
        from gptjax.sweep.report import write_report

        for path in write_report(args.config, runs, folder, changes):
            print(f"wrote {path}")
    return exit_code


if __name__ == "__main__":
    sys.exit(flags.exit_code(main, sys.argv[1:]))
