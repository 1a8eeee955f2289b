"""The memory of a snapshot: pieces of physical memory, in private copies, so that a walk never changes a file."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from typing import Any, Protocol, runtime_checkable

from iommu.errors import FormatError, MemoryAccessError, MisuseError
from iommu.files.mapped import data_in
from iommu.memory import FlatMemory, Memory

PAGE = 1 << 12


@runtime_checkable
class RangedMemory(Memory, Protocol):
    """Memory that says where it is."""

    @property
    def ranges(self) -> Sequence[range]:
        """The addresses at which there is memory, in order."""
        ...

    def used(self) -> Iterator[range]:
        """Those parts of them that can hold anything but zeroes, in order."""
        ...


def ranges_of(memory: Memory) -> Sequence[range]:
    """The addresses at which there is memory, in order. Raises MisuseError for a memory that does not say so."""
    if isinstance(memory, FlatMemory):
        return [range(memory.size)]
    if not isinstance(memory, RangedMemory):
        raise MisuseError(f"a {type(memory).__name__} does not say where it has memory: use a FlatMemory")
    return memory.ranges


def used_of(memory: Memory) -> Iterator[range]:
    """The parts of a memory that can hold anything but zeroes, in order. Raises MisuseError as `ranges_of`."""
    return memory.used() if isinstance(memory, RangedMemory) else iter(ranges_of(memory))


class PiecewiseMemory:
    """Physical memory in pieces, with no memory between them.

    Args:
        pieces: the first address and the contents of each. Writes change the contents in place.

    Raises:
        FormatError: two pieces overlap.
    """

    def __init__(self, pieces: Iterable[tuple[int, bytearray | memoryview]]) -> None:
        self.pieces = sorted(
            ((start, memoryview(piece)) for start, piece in pieces if len(piece)), key=lambda it: it[0]
        )
        end = 0
        for start, piece in self.pieces:
            if start < end:
                raise FormatError("pieces of memory overlap", offset=0, where="memory", field="address", value=start)
            end = start + len(piece)
        self._starts = [start for start, _ in self.pieces]
        self._is_written = False

    @property
    def ranges(self) -> Sequence[range]:
        """See RangedMemory."""
        return [range(start, start + len(piece)) for start, piece in self.pieces]

    def used(self) -> Iterator[range]:
        """See RangedMemory. Holes of a file are left out as long as nothing is written."""
        if self._is_written:
            return iter(self.ranges)
        return (
            range(start + part.start, start + part.stop) for start, piece in self.pieces for part in data_in(piece)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """For copies and pickles: the pieces, with contents of their own."""
        return PiecewiseMemory, ([(start, bytearray(piece)) for start, piece in self.pieces],)

    def _find(self, address: int, length: int) -> memoryview:
        start, piece = self.pieces[bisect_right(self._starts, address) - 1] if self.pieces else (0, memoryview(b""))
        if address < start or address + length > start + len(piece):
            raise MemoryAccessError(address, length)
        return piece[address - start : address - start + length]

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes at `address`. Raises MemoryAccessError if they are not all in one piece."""
        return self._find(address, length).tobytes()

    def write(self, address: int, data: bytes) -> None:
        """Store `data` at `address`. Raises MemoryAccessError if it does not fit into one piece."""
        self._is_written = True
        self._find(address, len(data))[:] = data

    def read_u64(self, address: int) -> int:
        """The little-endian 64-bit number at `address`."""
        return int.from_bytes(self._find(address, 8), "little")


class OverlaidMemory(ABC):
    """Memory that is read in pages from elsewhere. What is written to it stays in this process.

    A class derived from it says what is elsewhere: `stretch`, and what of it can be other than zeroes: `stored`.

    Args:
        ranges: the addresses at which there is memory, ascending.
    """

    def __init__(self, ranges: Iterable[range]) -> None:
        self.ranges = list(ranges)
        self._starts = [each.start for each in self.ranges]
        self._written: dict[int, bytearray] = {}

    @abstractmethod
    def stretch(self, number: int, count: int) -> bytes:
        """Some pages in a row, as they are elsewhere; zeroes where nothing is. `number`: address >> 12."""

    @abstractmethod
    def stored(self) -> Iterator[range]:
        """The addresses that can hold anything but zeroes elsewhere, in order; they may be beyond `ranges`."""

    def used(self) -> Iterator[range]:
        """See RangedMemory."""
        written = (range(number * PAGE, (number + 1) * PAGE) for number in sorted(self._written))
        end = 0
        for each in merge(self.stored(), written, key=lambda it: it.start):
            for index in range(max(bisect_right(self._starts, each.start) - 1, 0), len(self.ranges)):
                known = self.ranges[index]
                if known.start >= each.stop:
                    break
                start, stop = max(each.start, known.start, end), min(each.stop, known.stop)
                if start < stop:
                    yield range(start, stop)
                    end = stop

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes at `address`. Raises MemoryAccessError where there is no memory."""
        self._check(address, length)
        number, at = divmod(address, PAGE)
        count = (at + length - 1) // PAGE + 1
        if self._written.keys().isdisjoint(range(number, number + count)):
            whole = self.stretch(number, count)
        else:
            whole = b"".join(self._page(each) for each in range(number, number + count))
        return whole[at : at + length]

    def read_u64(self, address: int) -> int:
        """The little-endian 64-bit number at `address`. Raises MemoryAccessError where there is no memory."""
        return int.from_bytes(self.read(address, 8), "little")

    def write(self, address: int, data: bytes) -> None:
        """Store `data` at `address`, in this process only. Raises MemoryAccessError where there is no memory."""
        self._check(address, len(data))
        done = 0
        while done < len(data):
            number, at = divmod(address + done, PAGE)
            page = self._written.setdefault(number, bytearray(self._page(number)))
            count = min(PAGE - at, len(data) - done)
            page[at : at + count] = data[done : done + count]
            done += count

    def _page(self, number: int) -> bytes | bytearray:
        return self._written[number] if number in self._written else self.stretch(number, 1)

    def _check(self, address: int, length: int) -> None:
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address + length > self.ranges[index].stop:
            raise MemoryAccessError(address, length)


def from_elf(contents: memoryview, where: str = "memory.elf") -> PiecewiseMemory:
    """The memory in an ELF core, at the physical addresses of its segments. Raises FormatError."""
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415 - few snapshots need it, and the import is slow

    stream: Any = _Stream(contents)
    try:
        segments = [
            (int(each["p_paddr"]), int(each["p_offset"]), int(each["p_filesz"]))
            for each in ELFFile(stream).iter_segments("PT_LOAD")
        ]
    except Exception as error:  # pyelftools lets exceptions of its parsers through
        raise FormatError(f"not an ELF core: {error}", offset=0, where=where, field="header") from error
    for start, offset, size in segments:
        if offset + size > len(contents):
            raise FormatError(
                "the file ends before its last byte", offset=offset, where=where, field="segment", value=start
            )
    return PiecewiseMemory((start, contents[offset : offset + size]) for start, offset, size in segments)


class _Stream(io.RawIOBase):
    """A file over a buffer. BytesIO would copy the buffer, which can be too large for that."""

    def __init__(self, contents: memoryview) -> None:
        super().__init__()
        self._contents, self._at = contents, 0

    def read(self, size: int | None = -1) -> bytes:
        end = len(self._contents) if size is None or size < 0 else self._at + size
        data = self._contents[self._at : end].tobytes()
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, len(self._contents))[whence]
        return self._at

    def tell(self) -> int:
        return self._at
