"""A sweep as a page, in HTML and in Markdown: means with intervals, curves, what differs, and what is missing.

Nothing is averaged in silence: each row says how many of its runs finished, and the others are listed with the reason.
"""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from gptjax.experiment_file import Changes
from gptjax.sweep import plots
from gptjax.sweep.by_option import Line
from gptjax.sweep.by_option import lines as lines_by_option
from gptjax.sweep.by_position import Profile, profiles
from gptjax.sweep.page import page
from gptjax.sweep.results import STATES, Arm, Estimate, Result, differing_options, group, read_result
from gptjax.sweep.runs import Run
from gptjax.sweep.table import Table
from gptjax.train.progress import duration, number
from gptjax.train.workdir import write_atomically, writing

NOTES = """\
Losses are in nats a token. Means are over the runs that finished, a run for each seed. ± is the half width of the 95 %
interval of that mean, by Student's t over seeds: how much other seeds would move it, on this text and with these
settings. Differences are from the first arm, run by run of the same seed, and their interval is that of the paired
differences (so many pairs in brackets); of a loss, below zero is better than the first arm. Intervals are each by
itself, not corrected for the number of arms. A dash instead of an interval: one seed does not tell how much seeds
matter. A run is called diverged where its last loss is not finite, or, where runs are judged by their loss, if the last
on validation is above the first in training. Time is that of the training steps.
"""
CURVES = """\
A line is a run, in the colour of its arm; nothing is averaged over runs. The scale leaves out the first part of each
curve, and a run that diverges may go out by the top. FLOPs are those of the model (gptjax/model/accounting.py);
training time is that of the steps alone, without compilation, evaluations and checkpoints, beside whatever else ran.
"""
POSITIONS = """\
The loss at the positions below each end and from the end before on. An arm stops improving at the first end after which
no mean is lower by more than 2 %. Other positions hold other tokens: small rises and falls that all arms share are the
text's, and no interval over seeds tells of them. The difference from the first arm is free of that where both have the
same windows of text.
"""
OPTIONS = """\
Final validation losses, and the number whose mean is lowest. Where that is the first or the last which was tried, a
better one may lie beyond.
"""
_MEASURED = (
    *("data.source", "data.path", "data.valid", "data.tokenizer", "data.packing"),
    *("evaluation.num_windows", "model.seq_len"),
)
"""Beginnings of options that decide over which tokens the validation loss is taken."""


def write_report(config: str, runs: Sequence[Run], folder: Path, changes: Changes = ()) -> list[Path]:
    """Writes report.html and report.md into the sweep's folder and returns their paths; `changes` are in all runs."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    results = [read_result(run) for run in runs]
    arms = group(results)
    content = (_command(config, changes, folder), arms, results, findings(arms))
    pages = {"report.html": _html(*content), "report.md": _markdown(*content)}
    for name, text in pages.items():
        write_atomically(folder / name, text)
    return [folder / name for name in pages]


# ---- what both pages say


def _summary(results: Sequence[Result]) -> str:
    counts = Counter(result.state for result in results)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    places = {f"{result.facts['num_devices']} x {result.facts['platform']}" for result in results if result.facts}
    return f"{len(results)} runs: {states}." + (f" Devices a run: {', '.join(sorted(places))}." if places else "")


def _caution(arms: Sequence[Arm]) -> str | None:
    """Says so where the arms' losses are not means over the same tokens."""
    differing = [path for path in differing_options(arms) if path.startswith(_MEASURED)]
    if not differing:
        return None
    return (
        f"Arms differ in {', '.join(differing)}: their losses are over other tokens, and neither the losses nor their "
        f"differences can be compared. Bits a byte can, where the validation text is the same."
    )


def _command(config: str, changes: Changes, folder: Path) -> str:
    where = [] if folder == Path("runs") / Path(config).stem else [f"--workdir={folder}"]
    flags = [f"--config={config}", *(f"--config.{option}={value}" for option, value in changes), *where]
    return shlex.join(["python", "-m", "gptjax.sweep", *flags, "--run", "--report"])


def arm_table(arms: Sequence[Arm]) -> Table:
    """Returns the table of arms: how many runs finished, and their means; first of what they are judged by."""
    metrics = list(dict.fromkeys([*(result.metric for arm in arms for result in arm.results), "loss"]))
    rows = []
    for arm in arms:
        rows.append(
            [
                arm.name,
                _finished(arm),
                *(cell for metric in metrics for cell in _compared(arm, arms[0], metric)),
                _with_interval(arm.estimate(lambda result: result.last("bits_per_byte")), ".4f"),
                number(_mean(arm.estimate(lambda result: result.num_params)), ",.0f"),
                number(_mean(arm.estimate(lambda result: result.last("tokens_seen"))), ",.0f"),
                _time(arm.estimate(lambda result: result.seconds)),
            ]
        )
    titles = (
        "arm",
        "finished",
        *(title for metric in metrics for title in (f"validation {metric}", f"difference in {metric}")),
        "bits a byte",
        "parameters",
        "tokens",
        "time",
    )
    return Table(titles, rows, num_words=2, marks=[plots.swatch(number) for number in range(len(arms))])


def _compared(arm: Arm, first: Arm, metric: str) -> tuple[str, str]:
    """Returns an arm's mean of a metric, and what it differs by from the first arm's."""
    mean = _with_interval(arm.estimate(lambda result: result.last(metric)), ".4f")
    difference = _with_interval(arm.difference(first, metric), "+.4f", counted=True)
    return mean, "(first arm)" if arm is first else difference


def _finished(arm: Arm) -> str:
    diverged = sum(result.state == "diverged" for result in arm.results)
    words = f"{len(arm.finished)} of {len(arm.results)}"
    return f"{words}, {diverged} diverged" if diverged else words


def _with_interval(value: Estimate | None, form: str, *, counted: bool = False) -> str:
    if value is None:
        return "-"
    seeds = f" ({value.count})" if counted and value.half_width is not None else ""
    digits = form.lstrip("+")
    interval = "– (one seed)" if value.half_width is None else f"± {value.half_width:{digits}}{seeds}"
    return f"{value.mean:{form}} {interval}"


def _mean(value: Estimate | None) -> float | None:
    return None if value is None else value.mean


def _time(value: Estimate | None) -> str:
    return "-" if value is None else duration(value.mean)


def missing_table(results: Sequence[Result]) -> Table | None:
    """Returns the runs that enter no mean, with the reason, or None where all finished."""
    rows = [[result.run.name, result.state, result.why] for result in results if result.state != "finished"]
    return Table(("run", "state", "why"), rows, num_words=3) if rows else None


def run_table(results: Sequence[Result]) -> Table:
    """Returns all runs with their last numbers."""
    rows = [
        [
            result.run.name,
            result.state,
            f"{result.step:,}",
            number(result.last("loss", "train"), ".4f"),
            number(result.last("loss"), ".4f"),
            number(result.last("bits_per_byte"), ".4f"),
            duration(result.seconds),
        ]
        for result in results
    ]
    titles = ("run", "state", "step", "last training loss", "last validation loss", "bits a byte", "training time")
    return Table(titles, rows, num_words=2)


def option_table(arms: Sequence[Arm]) -> Table | None:
    """Returns the options in which the arms' resolved configs differ, or None where there are none."""
    differing = differing_options(arms)
    rows = [[arm.name, *(_value(values[i]) for values in differing.values())] for i, arm in enumerate(arms)]
    return Table(("arm", *differing), rows, num_words=1 + len(differing)) if differing else None


def _value(value: Any) -> str:
    return "-" if value is None else str(value)


def line_table(option: str, lines: Sequence[Line]) -> Table:
    """Returns the final loss by a number, a row for each setting of the rest, with the number that does best."""
    values = sorted({value for line in lines for value in line.points})
    rows = [
        [
            line.setting or "all",
            f"{line.best:g}{', the end of those tried' if line.is_open else ''}",
            *(_with_interval(line.points.get(value), ".3f") for value in values),
        ]
        for line in lines
    ]
    marks = [plots.swatch(number) for number in range(len(lines))]
    return Table(("setting", f"best {option}", *(f"{value:g}" for value in values)), rows, num_words=2, marks=marks)


def position_table(arms: Sequence[Arm], found: Mapping[str, Profile]) -> Table:
    """Returns the loss by position in the context, and where it stops falling, of the arms that measured it."""
    ends = sorted({end for profile in found.values() for end in profile.ends})
    rows = []
    for name, profile in found.items():
        losses = dict(zip(profile.ends, profile.losses, strict=True))
        cells = [_with_interval(losses.get(end), ".3f") for end in ends]
        stops = f"{'not before' if profile.settled == profile.ends[-1] else 'at'} {profile.settled}"
        rows.append([name, stops, *cells])
    marks = [plots.swatch(number) for number, arm in enumerate(arms) if arm.name in found]
    return Table(("arm", "stops improving", *(f"below {end}" for end in ends)), rows, num_words=2, marks=marks)


class Finding(NamedTuple):
    """A section that only some sweeps have."""

    title: str
    table: Table
    figure: str
    note: str


def findings(arms: Sequence[Arm]) -> list[Finding]:
    """Returns the loss by each number that is varied, and by the position in the context where it was measured."""
    found = [
        Finding(f"Loss by {option}", line_table(option, lines), plots.loss_by_option(option, lines), OPTIONS)
        for option, lines in lines_by_option(arms).items()
    ]
    if by_position := profiles(arms):
        table, figure = position_table(arms, by_position), plots.loss_by_position(arms, by_position)
        found.append(Finding("Loss by position", table, figure, POSITIONS))
    return found


# ---- the two pages


def _markdown(command: str, arms: Sequence[Arm], results: Sequence[Result], found: Sequence[Finding]) -> str:
    folder = results[0].run.workdir.parent
    parts = [f"# {folder.name}", _summary(results), f"```\n{command}\n```"]
    caution = _caution(arms)
    parts += ["## Results", *([f"**{caution}**"] if caution else []), arm_table(arms).markdown(), NOTES.rstrip()]
    missing, options = missing_table(results), option_table(arms)
    if missing is not None:
        parts += ["## Not in the means", missing.markdown()]
    for finding in found:
        parts += [f"## {finding.title}", finding.table.markdown(), finding.note.rstrip()]
    if options is not None:
        parts += ["## What differs", options.markdown()]
    parts += ["## Runs", run_table(results).markdown(), "Loss curves are in report.html."]
    return "\n\n".join(parts) + "\n"


def _html(command: str, arms: Sequence[Arm], results: Sequence[Result], found: Sequence[Finding]) -> str:
    folder = results[0].run.workdir.parent
    parts = [
        f"<h1>{escape(folder.name)}</h1>",
        f"<p>{escape(_summary(results))}</p>",
        f"<pre>{escape(command)}</pre>",
        "<h2>Results</h2>",
        *([f'<p class="caution">{escape(caution)}</p>'] if (caution := _caution(arms)) else []),
        arm_table(arms).html(),
        f'<p class="note">{escape(NOTES)}</p>',
    ]
    missing, options = missing_table(results), option_table(arms)
    if missing is not None:
        parts.append(f'<section class="missing"><h2>Not in the means</h2>\n{missing.html()}</section>')
    for finding in found:
        note = f'<p class="note">{escape(finding.note)}</p>'
        parts.append(f"<h2>{escape(finding.title)}</h2>\n{finding.table.html()}\n{finding.figure}\n{note}")
    legend = "".join(f"<li>{plots.swatch(i)}{escape(arm.name)}</li>" for i, arm in enumerate(arms))
    parts.append(f'<h2>Loss curves</h2>\n<ul class="legend">{legend}</ul>')
    for split, title in (("valid", "Validation"), ("train", "Training")):
        window = plots.window_for(arms, split)
        curves = plots.loss_curves(arms, split, window)
        of = f", each point the mean of {window} rows" if window > 1 else ""
        parts.append(f"<h3>{title}{of}</h3>\n{curves or '<p>No run has a point yet.</p>'}")
    parts.append(f'<p class="note">{escape(CURVES)}</p>')
    if options is not None:
        what = "<p>Options of the resolved configs, the seed apart.</p>"
        parts.append(f"<h2>What differs</h2>\n{what}\n{options.html()}")
    parts.append(f"<h2>Runs</h2>\n{run_table(results).html()}")
    return page(folder.name, "\n".join(parts))
