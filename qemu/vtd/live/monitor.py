"""The monitor of a QEMU that we did not start."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qemu.vtd import answers, guard, guard_program
from qemu.vtd.errors import FalseAnswer, QemuError, QemuUnsuitable
from qemu.vtd.probe import version_text
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
        self.version = f"QEMU {version_text(qmp.read('query-version', answers.version))}"

    def human(self, command: str) -> str:
        """What a command of the human monitor prints. Raises QemuError."""
        said = self._qmp.read("human-monitor-command", answers.text, {"command-line": command})
        return said.replace("\r\n", "\n")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The guest stands still inside the block; it goes on afterwards if it did not stand still before."""
        if not self._qmp.read("query-status", answers.running):
            yield
            return
        with _resumed_by_guard(self.socket):
            self._qmp.execute("stop")
            try:
                yield
            finally:
                self._qmp.execute("cont")


@contextmanager
def _resumed_by_guard(place: Path) -> Iterator[None]:
    """Should this process end inside the block, or should the block fail, the guard lets the guest go on."""
    with guard.job("resume", {"socket": os.fsencode(place), "folder": guard.folder()}) as connection:
        with suppress(EOFError):  # the guard was killed; it does not matter unless we are too
            guard_program.message(connection)
        yield
        with suppress(OSError):
            connection.send(guard_program.END)


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
    except FalseAnswer as error:
        raise QemuUnsuitable(f"{place}: {error}") from None
    finally:
        qmp.close()
