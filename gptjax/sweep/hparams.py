"""A run's overrides in TensorBoard's table of runs."""

from gptjax.sweep.runs import Run, as_text
from gptjax.train.workdir import writing
from gptjax.train.writer import TensorBoard


def write_hparams(run: Run) -> None:
    """Writes the overrides of a run that has not begun; later on, a new file of events would cut off the run's own."""
    if any(run.workdir.glob("events.out.tfevents.*")):
        return
    with writing(run.workdir):
        run.workdir.mkdir(parents=True, exist_ok=True)
    board = TensorBoard(run.workdir, 0)
    values = {option: v if isinstance(v, bool | int | float) else as_text(v) for option, v in run.overrides.items()}
    board.hparams(run.name, values)
    board.close()
