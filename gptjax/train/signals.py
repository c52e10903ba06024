"""Ctrl-C and SIGTERM: the first asks the loop to finish its step and save, the second exits at once."""

import os
import signal
from types import FrameType


class StopRequest:
    """Catches both signals while it is entered; `signal_number` is the first that came, or None."""

    def __init__(self):
        self.signal_number: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.signal_number is not None

    @property
    def exit_code(self) -> int:
        """The shell's code for the signal: 130 or 143; SIGTERM's where another process was asked to stop."""
        return 128 + (self.signal_number or signal.SIGTERM)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.signal_number is not None:
            os._exit(128 + number)  # checkpoints are committed by renaming: nothing is torn
        self.signal_number = number
