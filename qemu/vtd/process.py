"""One QEMU process: it cannot outlive us, and is ended on every exit path."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache

from qemu.vtd.errors import QemuDied, QemuNotFound, QemuTimeout

# How long QEMU may take to end by itself, so that a build with coverage can write its data. Usually it takes 10 ms.
_QUIT_SECONDS = 0.5
# How long a killed process may take to exit. SIGKILL cannot be ignored; this allows for a loaded machine.
_REAP_SECONDS = 10.0
# A process that has closed its sockets is exiting; this is how long it may take before it is killed.
_EXIT_SECONDS = 2.0
_STDERR_TAIL = 16384
# What QEMU prints for every idle machine whose clock skips idle time, as ours do, and when we end it.
_NOISE = ("icount sleep disabled and no active timers", "terminating on signal 15")


@cache
def _guard(parent: int) -> tuple[str, ...]:
    """A command prefix that makes the kernel kill the command when `parent`, the process that starts it, dies.

    Empty where setpriv cannot do that.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    # The parent may have died before the death signal was set, so check that it is still the parent.
    words = (setpriv, "--pdeathsig", "KILL", "--", "sh", "-c", 'test "$PPID" = "$0" && exec "$@"', str(parent))
    tried = subprocess.run([*words, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return words if tried.returncode == 0 else ()


class Process:
    """A running program in a session of its own, its output kept in memory.

    In its own session it does not receive the terminal's Ctrl-C, so that we decide when it ends. Where util-linux's
    setpriv exists, the kernel kills it when the thread that started it ends for any reason.

    Args:
        command: the program and its arguments.
        descriptors: the file descriptors it inherits, with the same numbers.

    Raises:
        QemuNotFound: the program cannot be started.
    """

    def __init__(self, command: Sequence[str], descriptors: Sequence[int]) -> None:
        self._output = os.memfd_create("vtd-stderr")
        try:
            self._popen = subprocess.Popen(
                [*_guard(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=descriptors,
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._output)
            raise QemuNotFound(f"cannot run {command[0]}: {error.strerror}") from error
        self._final_output: list[str] | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it is still running."""
        return self._popen.poll() is None

    @property
    def status(self) -> int | None:
        """Its exit status; -N when signal N ended it, None while it is running."""
        return self._popen.poll()

    def stderr(self) -> list[str]:
        """The last lines it wrote, oldest first, without those that every machine of ours prints."""
        if self._final_output is not None:
            return self._final_output
        size = os.fstat(self._output).st_size
        text = os.pread(self._output, _STDERR_TAIL, max(0, size - _STDERR_TAIL)).decode(errors="replace")
        return [line for line in text.splitlines() if line.strip() and not any(noise in line for noise in _NOISE)]

    def died(self) -> QemuDied:
        """End the process after it closed a connection; returns the error to raise."""
        deadline = time.monotonic() + _EXIT_SECONDS
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(max(0.0, deadline - time.monotonic()))
        status = self._popen.poll()
        self.end()
        return QemuDied(status, self.stderr())

    def hung(self, waited_for: str, seconds: float) -> QemuTimeout:
        """End the process after it did not answer within `seconds`; returns the error to raise."""
        self.end()
        return QemuTimeout(waited_for, seconds, self.stderr())

    def end(self) -> None:
        """End and reap the process, and kill whatever it started. A second call does nothing."""
        if self._final_output is not None:
            return
        try:
            if self._popen.poll() is None:
                self._quit()
        finally:
            self._final_output = self.stderr()
            os.close(self._output)

    def _quit(self) -> None:
        """Ask the process to end, and kill it when it does not; Ctrl-C kills it at once."""
        try:
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGTERM)
            self.wait(_QUIT_SECONDS)
        finally:
            # Not yet reaped, so that its number still belongs to its group.
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait(_REAP_SECONDS)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it has ended; at most so long, if `seconds` is given."""
        handle = os.pidfd_open(self._popen.pid)
        try:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            poll.poll(None if seconds is None else seconds * 1000)
        finally:
            os.close(handle)
