"""A DMAR inside a memory image: an ELF core (QEMU's dump-guest-memory), or plain physical memory from 0 on.

It is found as an operating system finds it: RSDP, then XSDT or RSDT, then the table (ACPI 5.2.5 to 5.2.8).
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from typing import NamedTuple, Protocol

from iommu.errors import FormatError

_RSDP = b"RSD PTR "
_HEADER = 36
_MOST = 1 << 20  # no ACPI table is larger
_MOST_OF_ALL = 4 << 20


class Bytes(Protocol):
    """bytes, or a mapped file."""

    def __len__(self) -> int: ...
    def __getitem__(self, where: slice, /) -> bytes: ...
    def find(self, what: bytes, start: int = ..., /) -> int: ...


class Segment(NamedTuple):
    """A part of memory that an image has: where it begins, where it is in the file, its size in bytes."""

    start: int
    offset: int
    size: int

    @property
    def stop(self) -> int:
        """The first address after it."""
        return self.start + self.size


class Image:
    """Physical memory, or those parts of it that the image has. Where parts overlap, the first in the file counts."""

    def __init__(self, data: Bytes) -> None:
        self.data = data
        parts = list(_elf_parts(data)) if data[0:4] == b"\x7fELF" else [Segment(0, 0, len(data))]
        self._borders, self._parts = _by_address(parts)

    def read(self, address: int, length: int) -> bytes:
        """Bytes of memory; fewer, or none, where the image lacks them."""
        part = self._parts[bisect_right(self._borders, address)]
        if part is None:
            return b""
        start = part.offset + address - part.start
        return self.data[start : start + min(length, part.stop - address)]

    def table(self, address: int) -> bytes:
        """The table at an address, as long as its length field states; empty if that makes no sense."""
        length = int.from_bytes(self.read(address + 4, 4), "little")
        return self.read(address, length) if _HEADER <= length <= _MOST else b""

    def dmars(self) -> Iterator[tuple[int, bytes]]:
        """Address and bytes of every DMAR that can be reached from an RSDP.

        Raises FormatError when there are far more tables than firmware makes: an image can describe 2**30.
        """
        roots, found, total = set(), set(), 0
        for rsdp in self.rsdps():
            if len(rsdp) < 20 or sum(rsdp[:20]) & 0xFF:
                continue
            revision, rsdt = rsdp[15], int.from_bytes(rsdp[16:20], "little")
            xsdt = int.from_bytes(rsdp[24:32], "little") if revision >= 2 else 0
            root = (xsdt, "Q") if xsdt else (rsdt, "I")
            if root in roots:
                continue
            roots.add(root)
            entries = self._entries(*root)
            total = _within(total + 8 * len(entries), root[0])
            for address in entries:
                if address not in found and self.read(address, 4) == b"DMAR":
                    found.add(address)
                    table = self.table(address)
                    total = _within(total + len(table), address)
                    yield address, table

    def _entries(self, root: int, number: str) -> Sequence[int]:
        """The addresses in an XSDT ("Q": of 64 bits) or RSDT ("I")."""
        body = self.table(root)[_HEADER:]
        count = len(body) // struct.calcsize(number)
        return struct.unpack_from(f"<{count}{number}", body)

    def rsdps(self) -> Iterator[bytes]:
        """What begins like an RSDP, 36 bytes of it."""
        where = self.data.find(_RSDP, 0)
        while where >= 0:
            yield self.data[where : where + 36]
            where = self.data.find(_RSDP, where + 1)


def _within(total: int, address: int) -> int:
    """The bytes of all tables so far. Raises FormatError when they are too many."""
    if total > _MOST_OF_ALL:
        message = f"the RSDPs lead to more than {_MOST_OF_ALL >> 20} MiB of tables"
        raise FormatError(message, offset=address, where="memory", field="address")
    return total


def _by_address(parts: list[Segment]) -> tuple[list[int], list[Segment | None]]:
    """The addresses at which another part begins to count, and the part before the first of them and after each."""
    ahead = sorted(range(len(parts)), key=lambda number: parts[number].start, reverse=True)
    borders = sorted({border for part in parts for border in (part.start, part.stop)})
    counting: list[Segment | None] = [None]
    here: list[int] = []  # numbers of parts that have begun, the first in the file on top
    for border in borders:
        while ahead and parts[ahead[-1]].start <= border:
            heappush(here, ahead.pop())
        while here and parts[here[0]].stop <= border:
            heappop(here)
        counting.append(parts[here[0]] if here else None)
    return borders, counting


def _elf_parts(data: Bytes) -> Iterator[Segment]:
    """The loaded segments of a 64- or 32-bit little-endian ELF file, at their physical addresses."""
    wide = data[4:5] == b"\x02"
    layout, at = ("<Q", 32) if wide else ("<I", 28)
    table = data[at : at + struct.calcsize(layout)]
    counts = data[54:58] if wide else data[42:46]
    if len(counts) < 4 or len(table) < struct.calcsize(layout):
        return
    (offset,) = struct.unpack(layout, table)
    each, count = struct.unpack("<HH", counts)
    for number in range(count):
        entry = data[offset + number * each : offset + (number + 1) * each]
        if len(entry) < (56 if wide else 32):
            return
        if wide:
            kind, _, begins, _, address, size = struct.unpack_from("<IIQQQQ", entry)
        else:
            kind, begins, _, address, size = struct.unpack_from("<IIIII", entry)
        if kind == 1:
            yield Segment(address, begins, size)
