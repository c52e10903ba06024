"""Trains, evaluates or checks an experiment.

  python -m gptjax.main --config=experiments/small.py

Flags -> config -> validation -> start-up -> run.<mode>; nothing else.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from gptjax import flags

HELP = """\
usage: python -m gptjax.main --config=FILE [--workdir=DIR] [--mode=MODE] [--config.a.b=VALUE ...]

Trains the experiment in FILE. Run again, it resumes from its last checkpoint or says it is done.

  --config=FILE           an experiment, such as experiments/small.py
  --config.a.b=VALUE      changes an option, as in --config.optim.peak_lr=3e-4 (repeatable)
                          --config.data.path=FILE_OR_GLOB trains on your own text;
                          an experiment may have dials too: speedrun.py has --config.depth=N
  --workdir=DIR           where the run keeps everything (default: runs/<experiment>)
  --mode=train            train (default)
         evaluate         score a checkpoint of DIR on the experiment's tasks
         check            validate; print parameters, memory and the plan of batches
  --step=latest           which checkpoint is scored: latest, best or a number
  --allow_change=a.b      resume although this option has changed (repeatable)
  --help                  this text

In DIR: config.json, metrics.jsonl, TensorBoard events, checkpoints/, samples/, evaluation/, log.txt
Exit codes: 0 the last step was reached, 2 a mistake that you can mend, 1 a bug,
130 and 143 stopped by Ctrl-C or SIGTERM with a checkpoint: run it again to go on.
"""
MODES = ("train", "evaluate", "check")


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code."""
    if "--help" in argv or "-h" in argv:  # answered before anything heavy is imported
        print(HELP, end="")
        return 0
    from gptjax import config, distributed, overrides
    from gptjax.experiment_file import open_experiment

    arguments, changes = overrides.split(argv)
    parser = flags.Parser(add_help=False)
    parser.add_argument("--config", required=True)
    parser.add_argument("--workdir")
    parser.add_argument("--mode", default="train", choices=MODES)
    parser.add_argument("--step", type=flags.checkpoint, default="latest")
    parser.add_argument("--allow_change", action="append", default=[])
    args = parser.parse(arguments)

    cfg = open_experiment(args.config).read(changes)
    num_devices = distributed.start()
    with distributed.AsOne():
        config.validate(cfg, num_devices, args.config)

    from gptjax import run

    name = Path(args.config).stem
    workdir = args.workdir or f"runs/{name}"
    if args.mode == "check":
        return run.check(cfg)
    if args.mode == "evaluate":
        return run.evaluate(cfg, workdir, args.step, name)
    return run.train(cfg, workdir, args.allow_change)


if __name__ == "__main__":
    sys.exit(flags.exit_code(main, sys.argv[1:]))
