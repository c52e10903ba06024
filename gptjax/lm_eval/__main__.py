"""Scores the model of a workdir on tasks of EleutherAI's lm-eval harness.

  python -m gptjax.lm_eval --workdir=runs/small --tasks=arc_easy,my_task.yaml

Flags -> tasks -> model -> the harness -> its table; nothing else.
"""

import difflib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gptjax import flags
from gptjax.types import UserError

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

HELP = """\
usage: python -m gptjax.lm_eval --workdir=DIR --tasks=TASK[,TASK..] [--num_fewshot=N] ...

Scores the model of DIR on tasks of EleutherAI's lm-eval harness (pip install 'gptjax[lm-eval]'),
and prints its table.

  --workdir=DIR         what was trained or converted, such as runs/small
  --tasks=TASK[,TASK..] the harness's tasks, groups and tags, such as arc_easy, or 'mmlu_*';
                        or FILE.yaml, a task of your own; `lm-eval ls tasks` lists them
  --num_fewshot=N       so many examples stand before each question, instead of what the task says
  --limit=N             only the first N examples of each task
  --batch_size=16       texts at a time
  --step=latest         which checkpoint: latest, best (by evaluation.metric) or a number
  --output=FILE         all results, as JSON
  --help                this text

The harness fetches its own tasks' data from the Hugging Face hub; a task of your own may name local
files.
Exit codes: 0 done, 2 a mistake that you can mend, 1 a bug, 130 and 143 stopped by a signal.
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code."""
    if "--help" in argv or "-h" in argv:  # answered before anything heavy is imported
        print(HELP, end="")
        return 0
    parser = flags.Parser(add_help=False)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--num_fewshot", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--step", type=flags.checkpoint, default="latest")
    parser.add_argument("--output", type=Path)
    args = parser.parse(argv)
    problems = [
        f"--{name}={value} is less than {least}; {cure}"
        for name, value, least, cure in (
            ("num_fewshot", args.num_fewshot, 0, "0 shows none"),
            ("limit", args.limit, 1, "leave it out to take all"),
            ("batch_size", args.batch_size, 1, "16 is the default"),
        )
        if value is not None and value < least
    ]
    names = [name.strip() for name in args.tasks.split(",") if name.strip()]
    if not names:
        problems.append("--tasks= names no task; `lm-eval ls tasks` lists all")
    for name in filter(is_file, names):
        if not Path(name).is_file():
            problems.append(f"--tasks={name} does not exist; give the path of a task's file")
    if args.output is not None and not os.access(args.output.absolute().parent, os.W_OK):
        problems.append(f"--output={args.output} cannot be written; its folder must exist, with permission to write")
    if problems:
        raise UserError("\n".join(problems))
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("the lm-eval harness is not installed; pip install 'gptjax[lm-eval]'")

    from gptjax import distributed

    distributed.start()

    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import handle_non_serializable, make_table

    from gptjax.lm_eval.workdir_lm import WorkdirLM
    from gptjax.train.workdir import write_atomically

    lm = WorkdirLM(args.workdir, args.step, args.batch_size)
    # The harness takes a while to read what tasks of its own there are; a task's file refers to none, a group's may.
    manager = TaskManager(include_defaults=not all(is_file(name) and "group" not in keys(Path(name)) for name in names))
    tasks = found(names, manager)
    try:
        results = simple_evaluate(
            lm,
            tasks=tasks,
            num_fewshot=args.num_fewshot,
            batch_size=args.batch_size,
            limit=args.limit,
            log_samples=False,
            task_manager=manager,
        )
    except OSError as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"data of --tasks={args.tasks} cannot be read ({reason}); fetch it where there is a network, or name local "
            f"files in a task of your own"
        ) from error
    if args.output is not None:
        write_atomically(args.output, json.dumps(results, indent=2, default=handle_non_serializable) + "\n")
    print(make_table(results))
    if "groups" in results:
        print(make_table(results, "groups"))
    return 0


def is_file(name: str) -> bool:
    """Returns whether a task is meant as a file."""
    return name.endswith((".yaml", ".yml"))


def keys(path: Path) -> set[str]:
    """Returns the fields of a task's file; raises UserError where it is none."""
    import yaml

    try:
        node = yaml.compose(path.read_text(encoding="utf-8"))  # which runs none of the functions that it may name
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"--tasks={path} is no YAML: {' '.join(str(error).split())}") from None
    fields = {key.value for key, _ in node.value} if isinstance(node, yaml.MappingNode) else set()
    if not fields & {"task", "group", "include"}:
        raise UserError(f"--tasks={path} has no field `task` or `group` with its name, and is no task of the harness")
    return fields


def found(names: Sequence[str], manager: "TaskManager") -> list[str]:
    """Returns the tasks that are meant, by pattern or as files; raises UserError for names that the harness lacks."""
    tasks, problems = [], []
    for name in names:
        matches = [name] if is_file(name) else manager.match_tasks([name])
        tasks += matches
        if not matches:
            near = difflib.get_close_matches(name, manager.all_tasks)
            cure = f"did you mean {' or '.join(near)}?" if near else "`lm-eval ls tasks` lists all"
            problems.append(f"--tasks={name} is no task of the harness; {cure}")
    if problems:
        raise UserError("\n".join(problems))
    return tasks


if __name__ == "__main__":
    sys.exit(flags.exit_code(main, sys.argv[1:]))
