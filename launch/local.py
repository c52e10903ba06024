"""Runs one job as several processes on this machine's CPUs, the way a cluster runs it on several hosts.

  python launch/local.py --processes=4 --devices-per-process=2 -- --config=experiments/tiny.py

Knows how to start processes, to relay what they say and to end them; the standard library is all it needs.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import IO

EPILOG = """\
Everything after -- goes to python -m gptjax.main in each process. Lines come out as "[process] line".
Exit code: 0 where all processes end well, else that of the first that did not (128 + n where signal n ended it).
Ctrl-C and SIGTERM are passed on: the processes save, and the same command goes on from there.
"""
GRACE = 10.0  # seconds in which the others may end by themselves, once one has ended early
# It leads the workers' process group, and ends it, with all that the workers started, when its standard input closes.
# The kernel closes that however the launcher ends. Unlike a parent-death signal this needs no Linux and no code in the
# workers, and it reaches the processes that they start as well.
GUARD = f"import os, sys; sys.stdin.read(); os.killpg(0, {signal.SIGKILL:d})"


class Job:
    """Processes that start together and end together."""

    def __init__(self, num_processes: int, devices_per_process: int, port: int, arguments: Sequence[str]):
        devices = f"--xla_force_host_platform_device_count={devices_per_process}"
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": f"{num_processes}",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {devices}".strip(),
        }
        self._guard = subprocess.Popen([sys.executable, "-c", GUARD], stdin=subprocess.PIPE, process_group=0)
        self._workers = [
            subprocess.Popen(
                [sys.executable, "-m", "gptjax.main", *arguments],
                env={**environment, "JAX_PROCESS_ID": f"{number}"},
                process_group=self._guard.pid,  # not the terminal's: its Ctrl-C would reach them twice
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for number in range(num_processes)
        ]
        self._lock = threading.Lock()  # held for a line
        self._stop_codes: set[int] = set()

    def signal(self, number: int, _: FrameType | None) -> None:
        """Passes a signal on."""
        self._stop_codes.add(128 + number)
        for worker in self._workers:
            worker.send_signal(number)

    def wait(self) -> int:
        """Relays what the processes say until all have ended, and returns the exit code of the job."""
        relays = [
            threading.Thread(target=self._relay, args=(number, pipe, stream))
            for number, worker in enumerate(self._workers)
            for pipe, stream in ((worker.stdout, sys.stdout.buffer), (worker.stderr, sys.stderr.buffer))
        ]
        for relay in relays:
            relay.start()
        exit_code = self._wait_for_workers()
        self._guard.communicate()  # closes its input: what the workers have left behind ends here
        for relay in relays:
            relay.join()
        return exit_code

    def _wait_for_workers(self) -> int:
        running = {worker.pid: number for number, worker in enumerate(self._workers)}
        exit_code, killer = 0, threading.Timer(GRACE, self._kill)
        while running:
            pid, status = os.wait()  # in the order in which they end
            if pid not in running:
                continue
            number = running.pop(pid)
            code = self._workers[number].returncode = os.waitstatus_to_exitcode(status)
            if code == 0 or exit_code != 0:
                continue
            exit_code = code if code > 0 else 128 - code
            if exit_code not in self._stop_codes:
                how = f"ended with exit code {code}" if code > 0 else f"died (signal {-code})"
                self._say(f"process {number} {how}" + ("; ending the others" if running else ""))
            killer.start()
        killer.cancel()
        return exit_code

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()

    def _relay(self, number: int, pipe: IO[bytes], stream: IO[bytes]) -> None:
        for line in pipe:
            self._write(stream, f"[{number}] ".encode() + line.rstrip(b"\n") + b"\n")

    def _say(self, text: str) -> None:
        self._write(sys.stderr.buffer, f"{text}\n".encode())

    def _write(self, stream: IO[bytes], line: bytes) -> None:
        with self._lock:
            try:
                stream.write(line)
                stream.flush()
            except BrokenPipeError:  # whoever read it has left; the job goes on
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def free_port() -> int:
    """Returns a port of the loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def in_use(port: int) -> bool:
    """Whether somebody listens on a port of the loopback."""
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, Sequence[str]]:
    """Returns the launcher's own options and the arguments of the processes; a mistake ends with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python launch/local.py",
        usage="%(prog)s --processes=N --devices-per-process=N [--port=PORT] -- --config=FILE [...]",
        description="Runs one job as several processes on this machine's CPUs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--processes", type=int, default=2, help="how many (default: 2)")
    parser.add_argument("--devices-per-process", type=int, default=1, help="CPU devices that each has (default: 1)")
    parser.add_argument("--port", type=int, help="where process 0 listens for the others (default: one that is free)")
    end = argv.index("--") if "--" in argv else len(argv)
    args, arguments = parser.parse_args(argv[:end]), argv[end + 1 :]
    for name, count in (("processes", args.processes), ("devices-per-process", args.devices_per_process)):
        if count < 1:
            parser.error(f"--{name}={count} is less than 1; choose a positive number")
    if not arguments:
        parser.error("what the processes run is missing; put it after --, as in -- --config=experiments/tiny.py")
    if args.port is not None and not 0 < args.port < 2**16:
        parser.error(f"--port={args.port} is not between 1 and 65535; leave it out to take a free one")
    if args.port is not None and in_use(args.port):
        parser.error(f"--port={args.port} is in use; choose another, or leave it out to take a free one")
    return args, arguments


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code."""
    args, arguments = parse(argv)
    job = Job(args.processes, args.devices_per_process, args.port or free_port(), arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, job.signal)
    return job.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
