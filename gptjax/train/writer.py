"""TensorBoard events, without TensorFlow. The only file that knows their format."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from gptjax.train.workdir import writing


class TensorBoard:
    """Scalars and texts by step, in a directory that `tensorboard --logdir` reads."""

    def __init__(self, directory: Path, last_step: int):
        """Opens a new event file for a run that continues after `last_step`; TensorBoard then drops later points."""
        name = f"events.out.tfevents.{time.time_ns() // 1000}.{socket.gethostname()}.{os.getpid()}"
        self._path = directory / name
        with writing(self._path):
            self._file = open(self._path, "wb")  # noqa: SIM115 - closed by close()
        self._records = RecordWriter(self._file)
        self._add(0, file_version="brain.Event:2")
        self._add(last_step + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Writes one point a name; None is left out."""
        for name, value in values.items():
            if value is not None:
                self._add(step, summary=scalar_pb(name, value))

    def text(self, step: int, name: str, text: str) -> None:
        """Writes a text, shown as it stands (indented, so that Markdown leaves it alone)."""
        self._add(step, summary=text_pb(name, "\n".join(f"    {line}" for line in text.splitlines())))

    def hparams(self, name: str, values: Mapping[str, bool | int | float | str]) -> None:
        """Writes the settings that tell a run from others, under its name: a row of TensorBoard's table of runs."""
        self._add(0, summary=hparams_pb(dict(values), trial_id=name))

    def flush(self) -> None:
        """Hands the events to the system, so that a TensorBoard that watches shows them."""
        with writing(self._path):
            self._file.flush()

    def close(self) -> None:
        """Closes the event file."""
        with writing(self._path):
            self._file.close()

    def _add(self, step: int, **content) -> None:
        with writing(self._path):
            self._records.write(Event(step=step, wall_time=time.time(), **content).SerializeToString())
