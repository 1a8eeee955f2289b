"""Helpers of the engine tests: memory with tables, a unit, and decoded fault records.

Entries are written here as plain numbers, bit by bit: the tests must not depend on the declarations that they test.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from iommu import Access, AddressType, Capabilities, DmaRequest, FlatMemory, Outcome, Policy, RemappingUnit, SourceId
from iommu.engine.caches.caches import Caches

CAP, ECAP, GCMD, GSTS, RTADDR, CCMD = 0x08, 0x10, 0x18, 0x1C, 0x20, 0x28
FSTS, FECTL, FEDATA, FEADDR, FEUADDR = 0x34, 0x38, 0x3C, 0x40, 0x44
TE, SRTP = 1 << 31, 1 << 30

READ, WRITE = Access.READ, Access.WRITE
UNTRANSLATED, TRANSLATION_REQUEST, TRANSLATED = AddressType

NIC = SourceId(0, 4, 0)
DISK = SourceId(0, 5, 0)

R, W, RW = 1, 2, 3
PS = 1 << 7
SNP, TM = 1 << 11, 1 << 62
ABSENT = 1 << 40
"""An address where the tests' memory has nothing, below every host width but the smallest."""


class Record(NamedTuple):
    """One fault recording register, decoded."""

    f: int
    t1: int
    t2: int
    address_type: int
    pasid: int
    reason: int
    pasid_present: int
    execute: int
    privileged: int
    source_id: int
    address: int

    @classmethod
    def of(cls, low: int, high: int) -> Record:
        """From the two quadwords."""
        return cls(
            f=high >> 63,
            t1=high >> 62 & 1,
            t2=high >> 28 & 1,
            address_type=high >> 60 & 3,
            pasid=high >> 40 & 0xFFFFF,
            reason=high >> 32 & 0xFF,
            pasid_present=high >> 31 & 1,
            execute=high >> 30 & 1,
            privileged=high >> 29 & 1,
            source_id=high & 0xFFFF,
            address=low & ~0xFFF,
        )


class World:
    """A unit and its memory: a root table, and further tables as the tests ask for them.

    Keyword arguments are those of Capabilities; `width` sets both address widths.
    """

    kind_of_memory: type[FlatMemory] = FlatMemory

    def __init__(self, *, policy: Policy | None = None, size: int = 16 << 20, **capabilities: Any) -> None:
        self.memory = self.kind_of_memory(size)
        self.capabilities = Capabilities(**capabilities)
        self.unit = RemappingUnit(self.memory, self.capabilities, policy)
        self._free = 0x1000
        self.root = self.page()
        self.iva = 16 * (self.unit.mmio_read(ECAP, 8) >> 8 & 0x3FF)
        self.iotlb = self.iva + 8
        self.frcd = 16 * (self.unit.mmio_read(CAP, 8) >> 24 & 0x3FF)

    def page(self) -> int:
        """The address of an unused page of zeroes."""
        self._free += 0x1000
        return self._free - 0x1000

    # Registers

    def start(self, root: int | None = None) -> World:
        """Latch the root table and turn translation on."""
        self.latch(self.root if root is None else root)
        self.unit.mmio_write(GCMD, TE, 4)
        return self

    def latch(self, rtaddr: int) -> None:
        """Write RTADDR and give the SRTP command; translation stays as it is."""
        self.unit.mmio_write(RTADDR, rtaddr, 8)
        self.unit.mmio_write(GCMD, self.read(GSTS) & 0x96FF_FFFF | SRTP, 4)

    def read(self, offset: int, size: int = 4) -> int:
        """Read a register."""
        return self.unit.mmio_read(offset, size)

    def write(self, offset: int, value: int, size: int = 4) -> None:
        """Write a register."""
        self.unit.mmio_write(offset, value, size)

    def invalidate_contexts(self, cirg: int, *, did: int = 0, sid: int = 0, fm: int = 0) -> int:
        """A CCMD command; returns CAIG."""
        self.write(CCMD, 1 << 63 | cirg << 61 | fm << 32 | sid << 16 | did, 8)
        done = self.read(CCMD, 8)
        assert done >> 63 == 0, "ICC is still set"
        return done >> 59 & 3

    def invalidate_pages(self, iirg: int, *, did: int = 0, address: int = 0, am: int = 0, ih: int = 0) -> int:
        """An IOTLB command, IVA first; returns IAIG."""
        self.write(self.iva, address | ih << 6 | am, 8)
        self.write(self.iotlb, 1 << 63 | iirg << 60 | did << 32, 8)
        done = self.read(self.iotlb, 8)
        assert done >> 63 == 0, "IVT is still set"
        return done >> 57 & 3

    def record(self, n: int = 0) -> Record:
        """Fault recording register n."""
        return Record.of(self.read(self.frcd + 16 * n, 8), self.read(self.frcd + 16 * n + 8, 8))

    def records(self) -> list[Record]:
        """All fault recording registers whose F is set."""
        return [record for n in range(self.capabilities.fault_records) if (record := self.record(n)).f]

    def clear_record(self, n: int = 0) -> None:
        """Write 1 to F of record n."""
        self.write(self.frcd + 16 * n + 12, 1 << 31)

    # Tables

    def put(self, address: int, *quadwords: int) -> None:
        """Write quadwords."""
        for n, quadword in enumerate(quadwords):
            self.memory.write_u64(address + 8 * n, quadword)

    def context_address(self, source_id: SourceId) -> int:
        """The address of a device's context entry; a missing root entry or context table is created."""
        at = self.root + 16 * source_id.bus
        if not self.memory.read_u64(at):
            self.put(at, self.page() | 1, 0)
        return (self.memory.read_u64(at) & ~0xFFF) + 16 * source_id.devfn

    def context(
        self,
        source_id: SourceId = NIC,
        *,
        table: int = 0,
        did: int = 1,
        levels: int = 4,
        tt: int = 0,
        fpd: int = 0,
        p: int = 1,
        extra: int = 0,
    ) -> int:
        """Write a context entry; `extra` are further bits of the 128. Returns the entry's address."""
        at = self.context_address(source_id)
        entry = (did << 8 | levels - 2) << 64 | table | tt << 2 | fpd << 1 | p
        entry ^= extra
        self.put(at, entry & (1 << 64) - 1, entry >> 64)
        return at

    def map(self, top: int, levels: int, address: int, entry: int, leaf: int = 1) -> dict[int, int]:
        """Write `entry` at level `leaf` of the path to `address`; tables in between are made, readable and writable.

        Returns the address of the entry of each level.
        """
        places, table = {}, top
        for level in range(levels, leaf - 1, -1):
            at = table + 8 * (address >> 3 + 9 * level & 0x1FF)
            places[level] = at
            if level == leaf:
                self.put(at, entry)
            else:
                if not self.memory.read_u64(at) & RW:
                    self.put(at, self.page() | RW)
                table = self.memory.read_u64(at) & 0xF_FFFF_FFFF_F000
        return places

    def device(self, source_id: SourceId = NIC, *, levels: int = 4, **context: Any) -> int:
        """Give a device a new, empty top table. Returns the address of the table."""
        top = self.page()
        self.context(source_id, table=top, levels=levels, **context)
        return top

    # Requests

    def dma(
        self,
        address: int = 0,
        access: Access = WRITE,
        source_id: SourceId = NIC,
        *,
        length: int = 1,
        kind: AddressType = UNTRANSLATED,
        pasid: int | None = None,
        privileged: bool = False,
    ) -> Outcome:
        """One request."""
        return self.unit.translate(DmaRequest(source_id, address, access, length, pasid, privileged, kind))

    def fault(self, address: int = 0, access: Access = WRITE, source_id: SourceId = NIC, **rest: Any) -> int:
        """The fault code of a request that must not go through; 0 when it was dropped without one."""
        outcome = self.dma(address, access, source_id, **rest)
        assert outcome.host_address is None, outcome
        return int(outcome.fault or 0)


def held(caches: Caches) -> dict[str, Any]:
    """Everything that the caches hold, without tags under which nothing is cached."""
    tagged: list[Any] = [caches.iotlb, caches.first_stage, caches.second_stage]
    keyed = (caches.contexts, caches.scalable_contexts, caches.pasids, caches.interrupts)
    found: dict[str, Any] = {type(cache).__name__: cache._entries for cache in keyed}
    for number, cache in enumerate(tagged):
        found[f"tags {number}"] = {tag: items for tag, items in cache._tags.items() if any(items)}
        found[f"count {number}"] = cache._count
    return found


def mapped(
    address: int = 0x5000, entry: int = 0x9000 | RW, *, did: int = 1, tt: int = 0, **capabilities: Any
) -> World:
    """A world in which NIC has one 4 KiB page, of four levels, and translation is on."""
    world = World(**capabilities)
    world.map(world.device(did=did, tt=tt), 4, address, entry)
    return world.start()
