"""The monitor of a QEMU that we did not start."""

from __future__ import annotations

import signal
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qemu.vtd.errors import QemuError
from qemu.vtd.qmp import Qmp

_SECONDS = 5.0
_CREDENTIALS = struct.Struct("3i")


class _Stranger:
    """What to report of a QEMU that is not ours to end."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.greeted = False

    def died(self) -> QemuError:
        """The connection is lost."""
        if not self.greeted:
            return QemuError(f"{self._place} does not speak QMP")
        return QemuError(f"QEMU broke off the connection at {self._place}")

    def hung(self, waited_for: str, seconds: float) -> QemuError:
        """There was no answer in time."""
        if not self.greeted:
            return QemuError(
                f"{self._place}: no QMP greeting within {seconds:g} s: it is not QEMU's, or another client has it"
            )
        return QemuError(f"no answer from QEMU at {self._place} within {seconds:g} s ({waited_for})")


class Monitor:
    """The monitor of a running QEMU.

    Attributes:
        socket: where it was reached.
        pid: the process that has opened the socket; 0 if it is not visible from here.
        version: "QEMU 10.0.2".
    """

    def __init__(self, place: Path, qmp: Qmp, pid: int) -> None:
        self.socket, self.pid, self._qmp = place, pid, qmp
        numbers = qmp.execute("query-version")["qemu"]
        self.version = f"QEMU {numbers['major']}.{numbers['minor']}.{numbers['micro']}"

    def human(self, command: str) -> str:
        """What a command of the human monitor prints. Raises QemuError."""
        return str(self._qmp.execute("human-monitor-command", {"command-line": command})).replace("\r\n", "\n")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The guest stands still inside the block; it goes on afterwards if it did not stand still before."""
        if not self._qmp.execute("query-status")["running"]:
            yield
            return
        with _ending_by_exception():
            self._qmp.execute("stop")
            try:
                yield
            finally:
                self._qmp.execute("cont")


@contextmanager
def _ending_by_exception() -> Iterator[None]:
    """Signals that would end this process raise SystemExit inside the block: its guest must not be left standing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def monitor(place: Path, seconds: float = _SECONDS) -> Iterator[Monitor]:
    """Connect to a QMP socket; `seconds` bounds each answer. Raises QemuError."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(place))
    except OSError as error:
        connection.close()
        raise QemuError(f"{place}: {error.strerror or error}") from None
    pid, _, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    stranger = _Stranger(place)
    qmp = Qmp(connection, stranger, seconds)
    try:
        qmp.connect()
        stranger.greeted = True
        yield Monitor(place, qmp, pid)
    finally:
        qmp.close()
