"""A DMAR inside a memory image: an ELF core (QEMU's dump-guest-memory), or plain physical memory from 0 on.

It is found as an operating system finds it: RSDP, then XSDT or RSDT, then the table (ACPI 5.2.5 to 5.2.8).
"""

import struct
from collections.abc import Iterator
from typing import Protocol

_RSDP = b"RSD PTR "
_HEADER = 36
_MOST = 1 << 20  # no ACPI table is larger


class Bytes(Protocol):
    """bytes, or a mapped file."""

    def __len__(self) -> int: ...
    def __getitem__(self, where: slice, /) -> bytes: ...
    def find(self, what: bytes, start: int = ..., /) -> int: ...


class Image:
    """Physical memory, or those parts of it that the image has."""

    def __init__(self, data: Bytes) -> None:
        self.data = data
        self.parts = list(_elf_parts(data)) if data[0:4] == b"\x7fELF" else [(0, 0, len(data))]

    def read(self, address: int, length: int) -> bytes:
        """Bytes of memory; fewer, or none, where the image lacks them."""
        for start, offset, size in self.parts:
            if start <= address < start + size:
                length = min(length, start + size - address)
                return self.data[offset + address - start : offset + address - start + length]
        return b""

    def table(self, address: int) -> bytes:
        """The table at an address, as long as its length field states; empty if that makes no sense."""
        length = int.from_bytes(self.read(address + 4, 4), "little")
        return self.read(address, length) if _HEADER <= length <= _MOST else b""

    def dmars(self) -> Iterator[tuple[int, bytes]]:
        """Address and bytes of every DMAR that can be reached from an RSDP."""
        seen = set()
        for rsdp in self.rsdps():
            if len(rsdp) < 20 or sum(rsdp[:20]) & 0xFF:
                continue
            revision, rsdt = rsdp[15], int.from_bytes(rsdp[16:20], "little")
            xsdt = int.from_bytes(rsdp[24:32], "little") if revision >= 2 else 0
            root, size = (self.table(xsdt), 8) if xsdt else (self.table(rsdt), 4)
            for at in range(_HEADER, len(root) - size + 1, size):
                address = int.from_bytes(root[at : at + size], "little")
                if address not in seen and self.read(address, 4) == b"DMAR":
                    seen.add(address)
                    yield address, self.table(address)

    def rsdps(self) -> Iterator[bytes]:
        """What begins like an RSDP, 36 bytes of it."""
        where = self.data.find(_RSDP, 0)
        while where >= 0:
            yield self.data[where : where + 36]
            where = self.data.find(_RSDP, where + 1)


def _elf_parts(data: Bytes) -> Iterator[tuple[int, int, int]]:
    """Physical address, file offset and size of each loaded segment of a 64- or 32-bit little-endian ELF file."""
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
            yield address, begins, size
