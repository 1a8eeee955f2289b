"""Our side of the guard, the process that ends what we have started when we end, by kill -9 too.

One guard serves this process and its forks; it is started when there is something to guard, and ends with us.
See qemu.vtd.guard_program for what it does.
"""

from __future__ import annotations

import array
import atexit
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from qemu.vtd import guard_program
from qemu.vtd.errors import QemuError

_END_SECONDS = 1.0
# It answers at once, unless somebody has stopped it.
_ANSWER_SECONDS = 15.0
_lock = threading.Lock()


class _Guard:
    """A guard that runs."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", guard_program.__file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
            )

    def close(self) -> None:
        """Let it end; its jobs have ended by now."""
        self.control.close()
        if self.owner == os.getpid():
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_END_SECONDS)


_guard: _Guard | None = None


@atexit.register
def _close() -> None:
    if _guard is not None:
        _guard.close()


def pid() -> int | None:
    """The process id of the guard, if there is one."""
    return None if _guard is None else _guard.process.pid


def job(kind: str, order: dict[str, Any], descriptors: Sequence[int] = ()) -> socket.socket:
    """Give the guard a job; returns the connection over which to hear of it. When it is closed, the job ends.

    The guard's locale may be another one: names of files are sent as bytes.

    Raises QemuError when the guard cannot be started.
    """
    ours, theirs = socket.socketpair()
    ours.settimeout(_ANSWER_SECONDS)
    try:
        with theirs:
            owner = os.pidfd_open(os.getpid())
            try:
                _hand_over([theirs.fileno(), owner, *descriptors])
            finally:
                os.close(owner)
        guard_program.send(ours, (kind, order))
    except BaseException as error:
        ours.close()
        if isinstance(error, OSError):
            raise QemuError(f"{sys.executable} cannot be run as the guard: {error.strerror}") from error
        raise
    return ours


def _hand_over(descriptors: Sequence[int]) -> None:
    global _guard  # noqa: PLW0603 - one for the process
    with _lock:
        for last in (False, True):
            if _guard is None:
                _guard = _Guard()
            try:
                content = array.array("i", descriptors)
                _guard.control.sendmsg([b"e"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, content)])
                return
            except (BrokenPipeError, ConnectionResetError):  # somebody has killed it
                _guard.close()
                _guard = None
                if last:
                    raise


def folder() -> bytes | None:
    """The working directory; None when it has been removed."""
    with suppress(FileNotFoundError):
        return os.fsencode(Path.cwd())
    return None
