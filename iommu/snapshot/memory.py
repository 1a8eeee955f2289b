"""The memory of a snapshot: pieces of physical memory, in private copies, so that a walk never changes a file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from iommu.errors import FormatError, MemoryAccessError, MisuseError
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

    @property
    def ranges(self) -> Sequence[range]:
        """See RangedMemory."""
        return [range(start, start + len(piece)) for start, piece in self.pieces]

    def used(self) -> Iterator[range]:
        """See RangedMemory."""
        return iter(self.ranges)

    def __reduce__(self) -> tuple[Any, ...]:
        """For copies and pickles: the pieces, with contents of their own."""
        return PiecewiseMemory, ([(start, bytearray(piece)) for start, piece in self.pieces],)

    def _find(self, address: int, length: int) -> memoryview:
        for start, piece in self.pieces:
            if start <= address and address + length <= start + len(piece):
                return piece[address - start : address - start + length]
        raise MemoryAccessError(address, length)

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes at `address`. Raises MemoryAccessError if they are not all in one piece."""
        return self._find(address, length).tobytes()

    def write(self, address: int, data: bytes) -> None:
        """Store `data` at `address`. Raises MemoryAccessError if it does not fit into one piece."""
        self._find(address, len(data))[:] = data

    def read_u64(self, address: int) -> int:
        """The little-endian 64-bit number at `address`."""
        return int.from_bytes(self._find(address, 8), "little")


def from_elf(contents: memoryview) -> PiecewiseMemory:
    """The memory in an ELF core, at the physical addresses of its segments. Raises FormatError."""
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415 - few snapshots need it, and the import is slow

    stream: Any = _Stream(contents)
    try:
        segments = [
            (int(each["p_paddr"]), int(each["p_offset"]), int(each["p_filesz"]))
            for each in ELFFile(stream).iter_segments("PT_LOAD")
        ]
    except Exception as error:  # pyelftools lets exceptions of its parsers through
        raise FormatError(f"not an ELF core: {error}", offset=0, where="memory.elf", field="header") from error
    for start, offset, size in segments:
        if offset + size > len(contents):
            raise FormatError(
                "the file ends before its last byte", offset=offset, where="memory.elf", field="segment", value=start
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
