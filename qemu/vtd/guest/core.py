"""A guest's memory through an ELF core, as QEMU dumps it: the model must find the same in it as in shared memory."""

from __future__ import annotations

import mmap
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

from iommu.engine.request import Access, DmaRequest
from iommu.memory import Memory
from iommu.snapshot import UnitSnapshot
from iommu.snapshot.memory import PiecewiseMemory, from_elf
from qemu.vtd.guest.check import DEVICE, Inspection
from qemu.vtd.guest.guest import Guest
from qemu.vtd.quirks import POLICY, profile

_PAGE = 0x1000


class Touched:
    """Memory that records which of its pages were read or written."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.pages: set[int] = set()

    def _touch(self, address: int, length: int) -> None:
        self.pages.update(range(address & -_PAGE, address + length, _PAGE))

    def read(self, address: int, length: int) -> bytes:
        """As Memory.read."""
        self._touch(address, length)
        return self._memory.read(address, length)

    def write(self, address: int, data: bytes) -> None:
        """As Memory.write."""
        self._touch(address, len(data))
        self._memory.write(address, data)

    def read_u64(self, address: int) -> int:
        """As Memory.read_u64."""
        self._touch(address, 8)
        return self._memory.read_u64(address)


async def check_core(found: Inspection) -> None:
    """All tables and all mapped pages are in the core as they are in shared memory, and resolve alike."""
    guest = found.guest
    async with guest.snapshot() as shared:
        core = await dumped(guest)
        tables = Touched(shared.memory)
        resolved = _resolve(found, shared, tables)
        mapped = [(frame, each.page) for each in found.mapped for _, frame in each.pages()]
        # The core has not been walked yet: a walk may set accessed bits in it.
        for page, size in [*((table, _PAGE) for table in sorted(tables.pages)), *mapped]:
            witness, seen = guest.memory.read(page, size), core.read(page, size)
            found.compare(
                f"checksum of {size:#x} bytes at {page:#x} in the core", hex(crc32(witness)), hex(crc32(seen))
            )
        for (address, host), (_, other) in zip(resolved, _resolve(found, shared, core), strict=True):
            found.compare(f"{address:#x}: resolved in the core", host, other)
    found.story.append(
        f"an ELF core holds the same in {len(tables.pages)} pages of tables, {len(mapped)} mapped ones"
    )


def _resolve(found: Inspection, shared: UnitSnapshot, memory: Memory) -> list[tuple[int, str]]:
    """Each mapped page, and where the model finds it in this memory."""
    snapshot = UnitSnapshot("guest", shared.registers, memory, shared.host_address_width, shared.register_base)
    unit = snapshot.unit(POLICY, profile(found.guest.build.version))
    pages = [address for each in found.mapped for address, _ in each.pages()]
    outcomes = [unit.translate(DmaRequest(DEVICE, address, Access.READ)) for address in pages]
    return [
        (address, f"{outcome.host_address} {outcome.page_size} {outcome.fault}")
        for address, outcome in zip(pages, outcomes, strict=True)
    ]


async def dumped(guest: Guest) -> PiecewiseMemory:
    """The guest's memory out of a core that QEMU writes into a private file, which is gone afterwards."""
    with TemporaryDirectory(prefix="vtd-core-") as folder:
        path = Path(folder) / "core"
        await guest.qmp("dump-guest-memory", paging=False, protocol=f"file:{path}")
        # In memory, and not mapped: a mapping would keep the file open as long as anything refers to it.
        contents = mmap.mmap(-1, path.stat().st_size)
        with path.open("rb") as file:
            file.readinto(contents)
    return from_elf(memoryview(contents))
