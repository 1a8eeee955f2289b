"""qtest commands that are sent together, and their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from iommu.errors import MisuseError
from qemu.vtd.errors import QtestError

T = TypeVar("T")

_SUFFIX = {1: "b", 2: "w", 4: "l", 8: "q"}


class Answer(Generic[T]):
    """The result of a command in a pipeline, available once the pipeline has been run."""

    __slots__ = ("_command", "_parse", "text")

    def __init__(self, command: str, parse: Callable[[str], T]) -> None:
        self._command = command
        self._parse = parse
        self.text: str | None = None

    @property
    def value(self) -> T:
        """The command's result.

        Raises MisuseError before the pipeline has been run, QtestError when the answer does not fit the command.
        """
        if self.text is None:
            raise MisuseError("the pipeline this answer belongs to has not been run")
        try:
            return self._parse(self.text)
        except ValueError:
            raise QtestError(self._command[:80], self.text[:80]) from None


def _number(text: str) -> int:
    return int(text, 0)


def _octets(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def _nothing(text: str) -> None:
    return None


class Pipeline:
    """Commands to be sent together. Nothing is sent before `run`, which fills in each command's Answer."""

    def __init__(self, exchange: Callable[[Sequence[str]], list[str]]) -> None:
        self._exchange = exchange
        self._lines: list[str] = []
        self._answers: list[Answer[int] | Answer[bytes] | Answer[None]] = []

    def __len__(self) -> int:
        return len(self._lines)

    def _add(self, line: str, parse: Callable[[str], T]) -> Answer[T]:
        answer = Answer(line, parse)
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
        """Read `length` bytes; at least one."""
        if length <= 0:
            raise MisuseError(f"cannot read {length} bytes")
        return self._add(f"read {_fitting(address, 8):#x} {length:#x}", _octets)

    def write_bytes(self, address: int, data: bytes) -> Answer[None]:
        """Write `data`; at least one byte."""
        if not data:
            raise MisuseError("cannot write 0 bytes")
        return self._add(f"write {_fitting(address, 8):#x} {len(data):#x} 0x{data.hex()}", _nothing)

    def set_irq(self, device: str, number: int, level: int) -> Answer[None]:
        """Set an unnamed interrupt input of a device, given by its QOM path."""
        return self._add(f"set_irq_in {device} unnamed-gpio-in {number} {level}", _nothing)

    def clock_step(self, nanoseconds: int) -> Answer[int]:
        """Advance the virtual clock; returns its new value in nanoseconds. Only under the qtest accelerator."""
        return self._add(f"clock_step {nanoseconds}", _number)

    def run(self) -> None:
        """Send the commands, fill in their answers, and start a new, empty pipeline.

        Raises:
            QtestError: a command was refused (the others were still executed).
            QemuDied, QemuTimeout: QEMU has ended.
        """
        lines, fill = self.take()
        fill(self._exchange(lines))

    def take(self) -> tuple[list[str], Callable[[Sequence[str]], None]]:
        """The commands, for a caller that sends them itself, and what takes their answers; a new pipeline starts."""
        lines, answers = self._lines, self._answers
        self._lines, self._answers = [], []

        def fill(texts: Sequence[str]) -> None:
            for answer, text in zip(answers, texts, strict=True):
                answer.text = text

        return lines, fill


def _suffix(size: int, largest: int) -> str:
    if size not in _SUFFIX or size > largest:
        raise MisuseError(f"access size {size} is not one of 1, 2, 4{', 8' if largest == 8 else ''} bytes")
    return _SUFFIX[size]


def _port(port: int) -> int:
    """Check a port number: QEMU aborts on a port wider than 16 bits, as on any number wider than 64."""
    if port >> 16:
        raise MisuseError(f"no I/O port {port:#x}")
    return port


def _fitting(number: int, size: int) -> int:
    if number >> 8 * size:
        raise MisuseError(f"{number:#x} does not fit in {size} bytes")
    return number
