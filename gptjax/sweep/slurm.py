"""A sweep as an array of SLURM: a script with one task a run, each of which runs launch/slurm/job.sh."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from gptjax.sweep.hparams import write_hparams
from gptjax.sweep.results import is_done
from gptjax.sweep.runs import Run
from gptjax.train.workdir import write_atomically, writing
from gptjax.types import UserError

JOB = Path("launch/slurm/job.sh")
_SCRIPT = """\
#!/usr/bin/env bash
# The runs of {config}, a task each; written by python -m gptjax.sweep, which names the command to submit it.
#
# SIGTERM reaches the processes and not this script: they save and exit with 143, and the task is queued again.
#SBATCH --job-name={name}
#SBATCH --array={array}
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

case $SLURM_ARRAY_TASK_ID in
{cases}
  *) echo "there is no run $SLURM_ARRAY_TASK_ID" >&2 && exit 2 ;;
esac
exec {job} "$@"
"""


def write_array(config: str, runs: Sequence[Run], folder: Path, parallel: int | None) -> list[str]:
    """Writes array.sh for the runs that are not done and returns what to do with it, in lines."""
    if not JOB.is_file():
        raise UserError(f"there is no {JOB} here; run from the root of the checkout")
    numbers = [number for number, run in enumerate(runs) if not is_done(run)]
    if not numbers:
        return [f"all {len(runs)} runs are done; there is nothing to submit"]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    script = folder / "array.sh"
    limit = f"%{parallel}" if parallel else ""
    text = _SCRIPT.format(
        config=config,
        name=folder.name,
        array=",".join(map(str, numbers)) + limit,
        cases="\n".join(f"  {number}) set -- {shlex.join(run.flags)} ;;" for number, run in enumerate(runs)),
        job=JOB,
    )
    write_atomically(script, text)
    for number in numbers:
        write_hparams(runs[number])
    log = shlex.quote(f"{folder}/slurm-%a.log")
    return [
        f"{script} holds {len(runs)} runs, {len(numbers)} of them to do; submit it from here with",
        f"  sbatch --output={log} --gpus-per-node=1 --time=4:00:00 {shlex.quote(str(script))}",
        "(GPUs and time are those of one run: choose yours; with several GPUs give --ntasks-per-node the same number)",
    ]
