"""One QEMU process: it cannot outlive us, nor can what it starts, and it is ended on every exit path."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from socket import SHUT_WR

from qemu.vtd import guard, guard_program
from qemu.vtd.errors import QemuDied, QemuNotFound, QemuTimeout

# How long the guard may take to end a process: see there. This allows for a loaded machine.
_END_SECONDS = 15.0
# A process that has closed its sockets is exiting; this is how long it may take before it is killed.
_EXIT_SECONDS = 2.0
# What QEMU prints for every idle machine whose clock skips idle time, as ours do, and when we end it.
_NOISE = ("icount sleep disabled and no active timers", "terminating on signal 15")


class Process:
    """A running program in a session of its own; the end of its output is kept in memory.

    In its own session it does not receive the terminal's Ctrl-C, so that we decide when it ends. It is a child of a
    guard, which kills it, and all that it has started, when it ends or when this process ends for any reason.

    Args:
        command: the program and its arguments.
        descriptors: the file descriptors it inherits, with the same numbers.
        remove: a directory with nothing but files, which is to be removed should this process be killed.
        environment: its environment, by default ours; folder: where it runs, by default where we do.
        output: a file for what it prints, of which nothing is kept then.

    Raises:
        QemuNotFound: the program cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        descriptors: Sequence[int],
        *,
        remove: Path | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        output: int | None = None,
    ) -> None:
        order = {
            "words": [os.fsencode(word) for word in command],
            "environment": {
                os.fsencode(name): os.fsencode(value)
                for name, value in (os.environ if environment is None else environment).items()
            },
            "folder": guard.folder() if folder is None else os.fsencode(folder),
            "numbers": list(descriptors),
            "remove": None if remove is None else os.fsencode(remove),
            "output": output is not None,
        }
        handed = descriptors if output is None else [output, *descriptors]
        self._connection = guard.job("run", order, handed)
        self._status: int | None = None
        self._printed = b""
        self._closed = False
        try:
            kind, value = guard_program.message(self._connection)
        except BaseException as error:
            self._connection.close()
            if isinstance(error, (EOFError, OSError)):
                raise QemuNotFound(f"cannot run {command[0]}: the guard does not answer") from error
            raise
        if kind == "failed":
            self._connection.close()
            raise QemuNotFound(f"cannot run {command[0]}: {os.strerror(value)}")
        self._pid = int(value)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._pid

    @property
    def running(self) -> bool:
        """Whether it is still running."""
        return self.status is None

    @property
    def status(self) -> int | None:
        """Its exit status; -N when signal N ended it, None while it is running."""
        self.wait(0)
        return self._status

    def stderr(self) -> list[str]:
        """The last lines it wrote, oldest first, without those that every machine of ours prints."""
        if self.running and not self._closed:
            with suppress(OSError):  # it is ending
                self._connection.send(guard_program.ASK)
            while self._status is None and self._hear() != "printed":
                pass
        text = self._printed.decode(errors="replace")
        return [line for line in text.splitlines() if line.strip() and not any(noise in line for noise in _NOISE)]

    def died(self) -> QemuDied:
        """End the process after it closed a connection; returns the error to raise."""
        self.wait(_EXIT_SECONDS)
        status = self._status
        self.end()
        return QemuDied(status, self.stderr())

    def hung(self, waited_for: str, seconds: float) -> QemuTimeout:
        """End the process after it did not answer within `seconds`; returns the error to raise."""
        self.end()
        return QemuTimeout(waited_for, seconds, self.stderr())

    def end(self) -> None:
        """End the process, and kill whatever it started; Ctrl-C kills it at once. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            with suppress(OSError):  # it has ended
                self._connection.send(guard_program.END)
            self.wait(_END_SECONDS)
        finally:
            if self._status is None:
                with suppress(OSError):
                    self._connection.shutdown(SHUT_WR)
                self.wait(_END_SECONDS)
            self._connection.close()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it has ended; at most so long, if `seconds` is given."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self._status is None and self._connection.fileno() >= 0:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            poll = select.poll()
            poll.register(self._connection, select.POLLIN)
            if not poll.poll(None if left is None else left * 1000):
                return
            self._hear()

    def _hear(self) -> str:
        """Take a message of the guard; its kind."""
        try:
            kind, *values = guard_program.message(self._connection)
        except (EOFError, OSError):  # the guard was killed, and the kernel has killed the process with it; or stopped
            kind, values = "ended", [-SIGKILL, self._printed]
        if kind == "ended":
            self._status, self._printed = values
        else:
            (self._printed,) = values
        return str(kind)


def run(command: Sequence[str]) -> tuple[int, list[str]]:
    """Run a program to its end; its exit status, and the last lines it wrote. Raises QemuNotFound."""
    process = Process(command, [])
    try:
        process.wait()
    finally:
        process.end()
    return process.status or 0, process.stderr()
