"""Checks that activations keep their size when a model widens.

  python -m gptjax.sweep.coordinate_check --config=experiments/tiny.py --config.model.mup_base_width=64

Flags -> config -> a few steps at each width -> table and picture; nothing else.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from gptjax import flags
from gptjax.types import UserError

HELP = """\
usage: python -m gptjax.sweep.coordinate_check --config=FILE [--widths=64,128,256,512] [--svg=FILE]

Trains an experiment for a few steps at growing widths, and prints how large its activations are,
layer by layer, and with which power of the width they grow: near 0 under muP, more without.

  --config=FILE           an experiment, such as experiments/tiny.py
  --config.a.b=VALUE      changes an option; --config.model.mup_base_width=64 turns muP on
  --widths=64,128,256,512 widths to train, three or more
  --steps=4               updates, at the peak learning rate
  --svg=FILE              draws sizes against width, a panel for each kind of activation
  --help                  this text

Exit codes: 0 done (whether they grow or not), 2 a mistake that you can mend, 1 a bug.
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code."""
    if "--help" in argv or "-h" in argv:  # answered before anything heavy is imported
        print(HELP, end="")
        return 0
    from gptjax import distributed, overrides
    from gptjax.experiment_file import open_experiment

    arguments, changes = overrides.split(argv)
    parser = flags.Parser(add_help=False)
    parser.add_argument("--config", required=True)
    parser.add_argument("--widths", default="64,128,256,512")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--svg", type=Path)
    args = parser.parse(arguments)
    widths = _widths(args.widths)
    if args.steps < 1:
        raise UserError(f"--steps={args.steps} is less than 1; take a few")
    if args.svg is not None and not args.svg.parent.is_dir():
        raise UserError(f"--svg={args.svg}: there is no folder {args.svg.parent}; make it first")
    if args.svg is not None and args.svg.is_dir():
        raise UserError(f"--svg={args.svg} is a folder; name a file in it")
    cfg = open_experiment(args.config).read(changes)
    distributed.start()

    from gptjax.sweep.coordinate_plot import draw
    from gptjax.sweep.coordinates import at_width, gather, measure

    for width in widths:
        at_width(cfg, width, args.steps, args.config)  # said before the first is trained
    measured = []
    for width, sizes in measure(cfg, widths, args.steps, args.config):
        print(f"width {width}: done", flush=True)
        measured.append((width, sizes))
    found = gather(measured)
    print("\n".join(["", *table(found), ""]))
    if args.svg is not None:
        args.svg.write_text(draw(found), encoding="utf-8")
        print(f"picture   {args.svg}")
    return 0


def _widths(text: str) -> list[int]:
    parts = text.split(",")
    widths = {int(part) for part in parts if part.isdecimal()}
    if not all(part.isdecimal() for part in parts) or len(widths) < 3:
        raise UserError(f"--widths={text} is no list of three widths or more, such as 64,128,256")
    return sorted(widths)


def table(found) -> list[str]:
    """Returns lines of the sizes after the last step, by layer and width, and the power with which they grow."""
    last = next(iter(found.sizes.values())).shape[1] - 1
    lines = [f"mean |activation| after {last} steps", " " * 24 + "".join(f"{width:>10}" for width in found.widths)]
    lines[1] += "    grows as"
    for name, sizes in found.sizes.items():
        for layer in range(sizes.shape[2]):
            label = name if sizes.shape[2] == 1 else f"{name} {layer}"
            numbers = "".join(f"{size:>10.4f}" for size in sizes[:, -1, layer])
            lines.append(f"{label:24}{numbers}  width^{found.growth(name)[-1, layer]:.2f}")
    return lines


if __name__ == "__main__":
    sys.exit(flags.exit_code(main, sys.argv[1:]))
