"""The qtest protocol: ports, memory and the virtual clock of a QEMU, one command or thousands in one send.

    qtest.read(0xFED90000, 4)                   one round trip
    with qtest.pipeline() as pipeline:          one round trip for all
        pipeline.write(0xFED90020, table, 8)
        status = pipeline.read(0xFED9001C, 4)
    status.value

Commands that share a pipeline are carried out in order, with nothing between them.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

from iommu.errors import MisuseError
from qemu.vtd.errors import QtestError
from qemu.vtd.process import Process

T = TypeVar("T")

_SUFFIX = {1: "b", 2: "w", 4: "l", 8: "q"}
_CHUNK = 1 << 16


class Answer(Generic[T]):
    """What a command in a pipeline will have returned once the pipeline has been run."""

    __slots__ = ("_parse", "text")

    def __init__(self, parse: Callable[[str], T]) -> None:
        self._parse = parse
        self.text: str | None = None

    @property
    def value(self) -> T:
        """The command's result. Raises MisuseError while the pipeline has not been run."""
        if self.text is None:
            raise MisuseError("the pipeline this answer belongs to has not been run")
        return self._parse(self.text)


def _number(text: str) -> int:
    return int(text, 0)


def _octets(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def _nothing(text: str) -> None:
    return None


class Pipeline:
    """Commands to be sent together. Nothing happens before `run`; each command's result is in its Answer then."""

    def __init__(self, exchange: Callable[[Sequence[str]], list[str]]) -> None:
        self._exchange = exchange
        self._lines: list[str] = []
        self._answers: list[Answer[int] | Answer[bytes] | Answer[None]] = []

    def __len__(self) -> int:
        return len(self._lines)

    def _add(self, line: str, parse: Callable[[str], T]) -> Answer[T]:
        answer = Answer(parse)
        self._lines.append(line)
        self._answers.append(answer)  # type: ignore[arg-type]  # T is one of the three
        return answer

    def port_in(self, port: int, size: int) -> Answer[int]:
        """Read 1, 2 or 4 bytes from an I/O port."""
        return self._add(f"in{_suffix(size, 4)} {_port(port):#x}", _number)

    def port_out(self, port: int, value: int, size: int) -> Answer[None]:
        """Write 1, 2 or 4 bytes to an I/O port."""
        return self._add(f"out{_suffix(size, 4)} {_port(port):#x} {_fitting(value, size):#x}", _nothing)

    def read(self, address: int, size: int) -> Answer[int]:
        """Read 1, 2, 4 or 8 bytes at a physical address, as the processor would."""
        return self._add(f"read{_suffix(size, 8)} {_fitting(address, 8):#x}", _number)

    def write(self, address: int, value: int, size: int) -> Answer[None]:
        """Write 1, 2, 4 or 8 bytes at a physical address, as the processor would."""
        line = f"write{_suffix(size, 8)} {_fitting(address, 8):#x} {_fitting(value, size):#x}"
        return self._add(line, _nothing)

    def read_bytes(self, address: int, length: int) -> Answer[bytes]:
        """Read a run of bytes; at least one."""
        if length <= 0:
            raise MisuseError(f"cannot read {length} bytes")
        return self._add(f"read {_fitting(address, 8):#x} {length:#x}", _octets)

    def write_bytes(self, address: int, data: bytes) -> Answer[None]:
        """Write a run of bytes; at least one."""
        if not data:
            raise MisuseError("cannot write 0 bytes")
        return self._add(f"write {_fitting(address, 8):#x} {len(data):#x} 0x{data.hex()}", _nothing)

    def clock_step(self, nanoseconds: int) -> Answer[int]:
        """Move the virtual clock on; its new value in nanoseconds. Only under the qtest accelerator."""
        return self._add(f"clock_step {nanoseconds}", _number)

    def run(self) -> None:
        """Send everything, fill in the answers, and begin anew.

        Raises:
            QtestError: a command was refused (the others were carried out all the same).
            QemuDied, QemuTimeout: QEMU is gone.
        """
        lines, answers = self._lines, self._answers
        self._lines, self._answers = [], []
        for answer, text in zip(answers, self._exchange(lines), strict=True):
            answer.text = text


def _suffix(size: int, largest: int) -> str:
    if size not in _SUFFIX or size > largest:
        raise MisuseError(f"access size {size} is not one of 1, 2, 4{', 8' if largest == 8 else ''} bytes")
    return _SUFFIX[size]


def _port(port: int) -> int:
    """QEMU gives up the ghost over a port beyond 16 bits, as over any number beyond 64."""
    if port >> 16:
        raise MisuseError(f"no I/O port {port:#x}")
    return port


def _fitting(number: int, size: int) -> int:
    if number >> 8 * size:
        raise MisuseError(f"{number:#x} does not fit in {size} bytes")
    return number


class Qtest:
    """The qtest connection of one QEMU.

    Args:
        connection: our end of the socket pair; owned from here on.
        process: who is asked, and ended when it does not answer.
        timeout: seconds without any answer after which it counts as lost.
    """

    def __init__(self, connection: socket.socket, process: Process, timeout: float) -> None:
        self._connection = connection
        self._connection.setblocking(False)
        self._process = process
        self._timeout = timeout
        self._interrupted = False

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        """Collect commands in a with-block; they run at its end, unless it is left by an exception."""
        pipeline = Pipeline(self.exchange)
        yield pipeline
        pipeline.run()

    def _now(self, command: Callable[[Pipeline], Answer[T]]) -> T:
        pipeline = Pipeline(self.exchange)
        answer = command(pipeline)
        pipeline.run()
        return answer.value

    def port_in(self, port: int, size: int) -> int:
        """Read 1, 2 or 4 bytes from an I/O port."""
        return self._now(lambda pipeline: pipeline.port_in(port, size))

    def port_out(self, port: int, value: int, size: int) -> None:
        """Write 1, 2 or 4 bytes to an I/O port."""
        self._now(lambda pipeline: pipeline.port_out(port, value, size))

    def read(self, address: int, size: int) -> int:
        """Read 1, 2, 4 or 8 bytes at a physical address, as the processor would."""
        return self._now(lambda pipeline: pipeline.read(address, size))

    def write(self, address: int, value: int, size: int) -> None:
        """Write 1, 2, 4 or 8 bytes at a physical address, as the processor would."""
        self._now(lambda pipeline: pipeline.write(address, value, size))

    def read_bytes(self, address: int, length: int) -> bytes:
        """Read a run of bytes; at least one."""
        return self._now(lambda pipeline: pipeline.read_bytes(address, length))

    def write_bytes(self, address: int, data: bytes) -> None:
        """Write a run of bytes; at least one."""
        self._now(lambda pipeline: pipeline.write_bytes(address, data))

    def clock_step(self, nanoseconds: int) -> int:
        """Move the virtual clock on; its new value in nanoseconds. Only under the qtest accelerator."""
        return self._now(lambda pipeline: pipeline.clock_step(nanoseconds))

    def exchange(self, lines: Sequence[str]) -> list[str]:
        """Send command lines, and return what follows "OK" in each answer.

        Raises:
            QtestError: a command was refused, or an earlier exchange was cut short: answers no longer match.
            QemuDied, QemuTimeout: QEMU is gone.
        """
        if not lines:
            return []
        if self._interrupted:
            raise QtestError(lines[0], "nothing: an earlier exchange was cut short")
        self._interrupted = True
        answers = self._converse("".join(f"{line}\n" for line in lines).encode(), len(lines))
        self._interrupted = False
        for line, answer in zip(lines, answers, strict=True):
            if not answer.startswith("OK"):
                raise QtestError(line[:80], answer)
        return [answer[3:] for answer in answers]

    def _converse(self, data: bytes, count: int) -> list[str]:
        """Send `data` while reading, since QEMU stops listening when its answers are not fetched."""
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
                    raise self._process.hung(f"qtest, {lacking} of {count} answers", self._timeout)
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
        return received.decode("ascii").splitlines()

    def close(self) -> None:
        """Give up the connection."""
        self._connection.close()
