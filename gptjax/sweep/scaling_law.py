"""Fits a scaling law to the runs of a sweep, and says what the runs do not determine.

  python -m gptjax.sweep.scaling_law --workdir=runs/scaling

Flags -> runs -> fit -> words, JSON and a page; nothing else.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptjax import flags
from gptjax.types import UserError

if TYPE_CHECKING:
    from gptjax.sweep.law import Fit, Law
    from gptjax.sweep.scaling_runs import Runs

HELP = """\
usage: python -m gptjax.sweep.scaling_law --workdir=DIR | --data=FILE [--budget=FLOPS] [--bootstrap=1000] [--seed=0]

Fits L(N, D) = E + A / N^alpha + B / D^beta to runs of N parameters and D tokens, as Hoffmann et al. 2022 do in their
third approach, and says which N and D are best for a budget of 6 N D FLOPs.

  --workdir=DIR     a folder whose subfolders are the runs: workdirs of gptjax.main
  --data=FILE       or a .csv or .jsonl with the columns params, tokens and loss
  --params=total    which parameters of a workdir's model count: total, or non_embedding
  --budget=FLOPS    what N and D are to be found for, as in 5.76e23 (default: the largest run's 6 N D)
  --bootstrap=1000  resamples of the runs, whose percentiles give the 95 % intervals
  --seed=0          of the resamples
  --help            this text

Writes scaling_law.json, scaling_law.svg and scaling_law.html into DIR, or beside FILE.
Exit codes: 0 done, 2 a mistake that you can mend, 1 a bug, 130 and 143 stopped by Ctrl-C or SIGTERM.
"""

WIDE = 10
"""An interval whose ends differ by more than this factor determines nothing."""
FAR = 10
"""A budget more than this many times the largest run's is an extrapolation that is warned of."""


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code."""
    if "--help" in argv or "-h" in argv:  # answered before anything heavy is imported
        print(HELP, end="")
        return 0
    parser = flags.Parser(add_help=False)
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--params")
    parser.add_argument("--budget", type=float)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse(argv)
    problems = []
    if (args.workdir is None) == (args.data is None):
        problems.append("give either --workdir=DIR, a folder of runs, or --data=FILE, a table of them")
    if args.data is not None and args.params is not None:
        problems.append(f"--params={args.params} counts the parameters of workdirs; --data=FILE has its own count")
    if args.budget is not None and not 0 < args.budget < math.inf:
        problems.append(f"--budget={args.budget:g} is no number of FLOPs; write it as 5.76e23")
    if args.bootstrap < 100:
        problems.append(f"--bootstrap={args.bootstrap} is too few for a percentile of 2.5; take 100 or more")
    if args.seed < 0:
        problems.append(f"--seed={args.seed} is negative; take 0 or more")
    if problems:
        raise UserError.join("the flags do not fit", problems)

    import absl.logging
    import jax

    jax.config.update("jax_platforms", "cpu")  # records are read: no chip is started for that
    absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax tells of every folder that it opens

    from gptjax.sweep import scaling_page
    from gptjax.sweep.figure import looks, to_svg
    from gptjax.sweep.law import fit
    from gptjax.sweep.scaling_runs import read_file, read_sweep
    from gptjax.train.workdir import write_atomically

    runs = read_file(args.data) if args.data is not None else read_sweep(args.workdir, args.params or "total")
    runs.require_enough()
    fitted = fit(*runs.arrays(), num_resamples=args.bootstrap, seed=args.seed)
    largest = max(6 * run.params * run.tokens for run in runs.runs)
    budget = args.budget or largest
    lines = words(runs, fitted, budget)
    print("\n".join(lines))
    folder = args.workdir if args.data is None else args.data.parent
    with looks("scaling law"):
        picture = scaling_page.draw(runs, fitted, budget)
        svg, page = to_svg(picture), scaling_page.document(runs.source, lines, picture)
    write_atomically(folder / "scaling_law.json", json.dumps(document(runs, fitted, budget), indent=2) + "\n")
    write_atomically(folder / "scaling_law.svg", svg)
    write_atomically(folder / "scaling_law.html", page)
    print(f"\nwritten: {folder / 'scaling_law.html'}, .svg and .json")
    return 0


def quantities(budget: float) -> dict[str, dict[str, Callable[["Law"], float]]]:
    """Returns what is reported, as functions of a law, by the line that heads them."""
    return {
        "L(N, D) = E + A / N^alpha + B / D^beta, in the unit of the losses": {
            "E": lambda law: law.E,
            "A": lambda law: law.A,
            "B": lambda law: law.B,
            "alpha": lambda law: law.alpha,
            "beta": lambda law: law.beta,
        },
        "Compute-optimal for C = 6 N D: N = G (C / 6)^a, D = (C / 6)^b / G": {
            "a": lambda law: law.a,
            "b": lambda law: law.b,
            "G": lambda law: law.G,
        },
        f"At C = {budget:.4g} FLOPs": {
            "N": lambda law: law.optimum(budget).params,
            "D": lambda law: law.optimum(budget).tokens,
            "D / N": lambda law: law.optimum(budget).tokens / law.optimum(budget).params,
            "L(N, D)": lambda law: law.optimum(budget).loss,
        },
    }


def words(runs: "Runs", fitted: "Fit", budget: float) -> list[str]:
    """Returns the fit in lines for people: what counts, the coefficients, the optimum and what is not determined."""
    left_out = f"; {len(runs.excluded)} left out" if runs.excluded else ""
    lines = [
        f"{len(runs.runs)} runs of {runs.source}{left_out}",
        *(f"  {row.name}: {row.reason}" for row in runs.excluded),
        f"N: {runs.counted}",
    ]
    for title, group in quantities(budget).items():
        lines += ["", title]
        for name, quantity in group.items():
            low, high = fitted.interval(quantity)
            lines.append(f"  {name:<9}{quantity(fitted.law):<12.5g} 95 % from {low:.5g} to {high:.5g}")
    worst = max(range(len(runs.runs)), key=lambda r: abs(fitted.residuals_R[r]))
    lines += [
        "",
        f"Residuals of log loss: median {_median(abs(fitted.residuals_R)):.2g}, largest "
        f"{abs(fitted.residuals_R[worst]):.2g} ({runs.runs[worst].name})",
        f"Intervals: percentiles of {len(fitted.resampled):,} resamples of the runs; they know of no error that all "
        "runs share.",
    ]
    return [*lines, *(f"warning: {warning}" for warning in warnings(runs, fitted, budget))]


def warnings(runs: "Runs", fitted: "Fit", budget: float) -> list[str]:
    """Says in words what cannot be believed."""
    found = list(runs.notes)
    found += [
        f"the fit puts {name} = {getattr(fitted.law, name):.3g} at the edge of its starts or beyond: "
        f"the data does not determine {name}"
        for name in fitted.at_edge
    ]
    wide = [
        name
        for group in quantities(budget).values()
        for name, quantity in group.items()
        for low, high in [fitted.interval(quantity)]
        if not (low > 0 and high <= WIDE * low)
    ]
    if wide:
        found.append(
            f"the data does not determine {', '.join(wide)}: the ends of the interval differ {WIDE}-fold or more"
        )
    times = budget / max(6 * run.params * run.tokens for run in runs.runs)
    if times > FAR:
        found.append(f"the budget is {times:,.0f} times that of the largest run: an extrapolation")
    return found


def document(runs: "Runs", fitted: "Fit", budget: float) -> dict[str, Any]:
    """Returns the fit for programs; a number that is not finite is null."""
    report = {
        name: {"value": _finite(quantity(fitted.law)), "low": _finite(low), "high": _finite(high)}
        for group in quantities(budget).values()
        for name, quantity in group.items()
        for low, high in [fitted.interval(quantity)]
    }
    return {
        "source": runs.source,
        "params_counted": runs.counted,
        "budget_flops": budget,
        "coverage": 0.95,
        "resamples": len(fitted.resampled),
        "quantities": report,
        "warnings": warnings(runs, fitted, budget),
        "runs": [
            {
                "name": run.name,
                "params": run.params,
                "tokens": run.tokens,
                "loss": run.loss,
                "residual": float(residual),
            }
            for run, residual in zip(runs.runs, fitted.residuals_R, strict=True)
        ],
        "excluded": [{"name": row.name, "reason": row.reason} for row in runs.excluded],
    }


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def _median(values: Any) -> float:
    import numpy as np

    return float(np.median(values))


if __name__ == "__main__":
    sys.exit(flags.exit_code(main, sys.argv[1:]))
