"""The DMAR that firmware has left in memory."""

from __future__ import annotations

from collections.abc import Iterator

from iommu.dmar.images import Image
from iommu.errors import MemoryAccessError
from iommu.memory import Memory
from iommu.snapshot.memory import PAGE, used_of

_BIOS = range(0xE0000, 0x100000)
_RSDP, _RSDP_BYTES = b"RSD PTR ", 36
_CHUNK = 1 << 20


class _MemoryImage(Image):
    """Physical memory in which ACPI tables are looked for."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def read(self, address: int, length: int) -> bytes:
        """The bytes, or none where memory lacks one of them."""
        try:
            return self.memory.read(address, length)
        except MemoryAccessError:
            return b""

    def rsdps(self) -> Iterator[bytes]:
        """Those in the area of a BIOS; if there are none, those elsewhere, where UEFI leaves them."""
        used = list(used_of(self.memory))
        places = [range(max(each.start, _BIOS.start), min(each.stop, _BIOS.stop)) for each in used]
        found = False
        for rsdp in self._in(places):
            found = True
            yield rsdp
        if not found:
            yield from self._in(used)

    def _in(self, places: list[range]) -> Iterator[bytes]:
        for place in places:
            for start in range(place.start & -PAGE, place.stop, _CHUNK):
                data = self.read(start, min(_CHUNK, place.stop - start))
                # It lies at a multiple of 16 (ACPI 5.2.5.1), so its signature is not cut by a chunk.
                at = data.find(_RSDP)
                while at >= 0:
                    yield self.read(start + at, _RSDP_BYTES)
                    at = data.find(_RSDP, at + 1)


def find_dmar(memory: Memory) -> bytes | None:
    """The first DMAR that can be reached from an RSDP in memory (ACPI 5.2.5 to 5.2.8); None if there is none."""
    return next((table for _, table in _MemoryImage(memory).dmars() if table), None)
