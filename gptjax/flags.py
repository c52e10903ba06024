"""What every entry point does with its command line: strict parsing, and mistakes turned into exit codes."""

import argparse
import io
import os
import signal
import sys
import typing
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from gptjax import registry
from gptjax.types import UserError


def exit_code(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Runs an entry point and returns its exit code: 2 for a UserError, in plain lines; 130 and 143 for signals."""

    def stop(number: int, _: FrameType | None) -> None:
        # The first may come where a library swallows it, as in a garbage collection; nothing that is written is torn.
        signal.signal(number, lambda number, _: os._exit(128 + number))
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        print("terminated; run the same command to go on", file=sys.stderr)
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows no Unicode is no reason to fail
    try:
        return main(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are UserErrors, that takes no positional arguments and no abbreviations."""

    def __init__(self, **kwargs: Any):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str) -> typing.NoReturn:
        """Raises what argparse would print."""
        raise UserError(message)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parses all arguments; an unknown one is a UserError with the nearest flag."""
        known, unknown = self.parse_known_args(list(argv))
        for argument in unknown:
            if not argument.startswith("-"):
                raise UserError(f"unexpected argument {argument!r}; every option is written --name=value")
            name = argument.split("=")[0]
            flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
            raise UserError(f"there is no flag {name}; {registry.did_you_mean(name, flags)}")
        return known


def checkpoint(text: str) -> str | int:
    """Reads which checkpoint a flag means: latest, best or a step."""
    return text if text in ("latest", "best") else int(text)
