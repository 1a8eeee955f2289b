"""The qtest protocol: ports, memory and the virtual clock of a QEMU, one command or thousands at a time.

    qtest.read(0xFED90000, 4)                   one round trip
    with qtest.pipeline() as pipeline:          one round trip for both
        pipeline.write(0xFED90020, table, 8)
        status = pipeline.read(0xFED9001C, 4)
    status.value

The commands of a pipeline are executed in order, with nothing between them.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

from qemu.vtd.errors import QtestError
from qemu.vtd.pipeline import Answer, Pipeline
from qemu.vtd.process import Process

T = TypeVar("T")

_CHUNK = 1 << 16


class Qtest:
    """The qtest connection of one QEMU.

    Args:
        connection: our end of the socket pair; owned from here on.
        process: the QEMU process; killed when it does not answer.
        timeout: seconds without any answer after which QEMU counts as hung.

    Attributes:
        watch: called with the commands and answers of each exchange, if not None; without answers if it failed.
    """

    watch: Callable[[Sequence[str], Sequence[str]], None] | None = None

    def __init__(self, connection: socket.socket, process: Process, timeout: float) -> None:
        self._connection = connection
        self._connection.setblocking(False)
        self._process = process
        self._timeout = timeout
        self._interrupted = False

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        """Collect commands in a with-block; they run at its end, unless an exception leaves it."""
        pipeline = Pipeline(self.exchange)
        yield pipeline
        pipeline.run()

    def _run_one(self, command: Callable[[Pipeline], Answer[T]]) -> T:
        pipeline = Pipeline(self.exchange)
        answer = command(pipeline)
        pipeline.run()
        return answer.value

    def port_in(self, port: int, size: int) -> int:
        """Read 1, 2 or 4 bytes from an I/O port."""
        return self._run_one(lambda pipeline: pipeline.port_in(port, size))

    def port_out(self, port: int, value: int, size: int) -> None:
        """Write 1, 2 or 4 bytes to an I/O port."""
        self._run_one(lambda pipeline: pipeline.port_out(port, value, size))

    def read(self, address: int, size: int) -> int:
        """Read 1, 2, 4 or 8 bytes at a physical address, as the processor would."""
        return self._run_one(lambda pipeline: pipeline.read(address, size))

    def write(self, address: int, value: int, size: int) -> None:
        """Write 1, 2, 4 or 8 bytes at a physical address, as the processor would."""
        self._run_one(lambda pipeline: pipeline.write(address, value, size))

    def read_bytes(self, address: int, length: int) -> bytes:
        """Read `length` bytes; at least one."""
        return self._run_one(lambda pipeline: pipeline.read_bytes(address, length))

    def write_bytes(self, address: int, data: bytes) -> None:
        """Write `data`; at least one byte."""
        self._run_one(lambda pipeline: pipeline.write_bytes(address, data))

    def clock_step(self, nanoseconds: int) -> int:
        """Advance the virtual clock; returns its new value in nanoseconds. Only under the qtest accelerator."""
        return self._run_one(lambda pipeline: pipeline.clock_step(nanoseconds))

    def exchange(self, lines: Sequence[str]) -> list[str]:
        """Send command lines; returns what follows "OK" in each answer.

        Raises:
            QtestError: a command was refused or answered with nonsense, or an earlier exchange was interrupted and
                answers no longer match.
            QemuDied, QemuTimeout: QEMU has ended.
        """
        if not lines:
            return []
        values = [""] * len(lines)
        try:
            values = self._exchange(lines)
        finally:
            if self.watch is not None:
                self.watch(lines, values)
        return values

    def _exchange(self, lines: Sequence[str]) -> list[str]:
        if self._interrupted:
            raise QtestError(lines[0], "not sent: an earlier exchange was cut short")
        self._interrupted = True
        answers = self._send_and_receive("".join(f"{line}\n" for line in lines).encode(), len(lines))
        if len(answers) != len(lines):
            raise QtestError(lines[0][:80], f"{len(answers)} answers to {len(lines)} commands")
        self._interrupted = False
        for line, answer in zip(lines, answers, strict=True):
            if not answer.startswith("OK"):
                raise QtestError(line[:80], answer[:80])
        return [answer[3:] for answer in answers]

    def _send_and_receive(self, data: bytes, count: int) -> list[str]:
        """Send `data` while reading, since QEMU stops reading when its answers are not received."""
        connection, unsent = self._connection, memoryview(data)
        received = bytearray()
        poll = select.poll()
        deadline = time.monotonic() + self._timeout
        lacking = count
        try:
            while lacking > 0:
                if unsent:
                    with suppress(BlockingIOError):
                        unsent = unsent[connection.send(unsent[:_CHUNK]) :]
                poll.register(connection, select.POLLIN | (select.POLLOUT if unsent else 0))
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    raise self._process.hung(f"qtest: {lacking} of {count} answers missing", self._timeout)
                try:
                    chunk = connection.recv(_CHUNK)
                except BlockingIOError:
                    continue
                if not chunk:
                    raise self._process.died()
                deadline = time.monotonic() + self._timeout
                received += chunk
                lacking -= chunk.count(b"\n")
        except ConnectionError:
            raise self._process.died() from None
        # What is not ASCII cannot be parsed, which is reported when the answer is used.
        return received.decode("ascii", errors="replace").removesuffix("\n").split("\n")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
