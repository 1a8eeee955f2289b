"""The part of the bench that builds the tables of scalable mode (spec 9.2, 9.4 to 9.7), and turns it on."""

from __future__ import annotations

from collections.abc import Callable

from iommu.registers import Granularity, TableMode
from iommu.structures import (
    ContextDescriptor,
    DescriptorType,
    FirstStageMapper,
    FirstStageTable,
    IotlbDescriptor,
    PasidCacheDescriptor,
    PasidDirectoryEntry,
    PasidEntry,
    PasidGranularity,
    PasidTranslationType,
    ScalableContextEntry,
    ScalableRootHalf,
)
from qemu.vtd.driver import Driver
from qemu.vtd.platform import Platform

FIRST, SECOND = PasidTranslationType.FIRST_STAGE, PasidTranslationType.SECOND_STAGE
NESTED, PASS_THROUGH = PasidTranslationType.NESTED, PasidTranslationType.PASS_THROUGH

PAGE = 0x1000


class _FirstStageMapper(FirstStageMapper):
    """Sets A in the entries of tables too: a walk that is not snooped cannot set it (spec 3.6.2)."""

    _TABLE = FirstStageTable.make(P=1, RW=1, US=1, A=1)


class ScalableTables:
    """The tables of scalable mode on a bench. What leads to an entry is created when it is missing.

    Requests of the bench's devices carry no PASID: they use the entry of RID_PASID, which is 0 unless said otherwise.
    """

    def __init__(self, platform: Platform, driver: Driver, root: int, new_table: Callable[[], int]) -> None:
        self.platform, self.memory = platform, platform.memory
        self.driver, self.root, self.new_table = driver, root, new_table

    # Where the entries are.

    def root_at(self, device: str) -> int:
        """The address of the half of the root entry that serves the device."""
        source_id = self.platform.source_ids[device]
        return self.root + 16 * source_id.bus + 8 * (source_id.devfn >> 7)

    def context_at(self, device: str) -> int:
        """The address of the device's context entry."""
        half = self.root_at(device)
        if not self.memory.read_u64(half):
            self.memory.write_u64(half, ScalableRootHalf.make(P=1, CTP=self.new_table()))
        table = ScalableRootHalf.CTP.get(self.memory.read_u64(half))
        return table + 32 * (self.platform.source_ids[device].devfn & 0x7F)

    def directory_at(self, device: str, pasid: int = 0) -> int:
        """The address of the PASID directory entry for a PASID."""
        where = self.context_at(device)
        if not self.memory.read_u64(where):
            self.context(device)
        return ScalableContextEntry.PASIDDIRPTR.get(self.memory.read_u64(where)) + 8 * (pasid >> 6)

    def entry_at(self, device: str, pasid: int = 0) -> int:
        """The address of the PASID-table entry for a PASID."""
        where = self.directory_at(device, pasid)
        if not self.memory.read_u64(where):
            self.directory(device, pasid=pasid)
        return PasidDirectoryEntry.SMPTBLPTR.get(self.memory.read_u64(where)) + 64 * (pasid & 0x3F)

    # Writing them. `also` holds further bits to set.

    def context(self, device: str, *, fpd: int = 0, rid_pasid: int = 0, also: int = 0) -> int:
        """Write a context entry with a directory of 512 entries, or the one it has. Returns its address."""
        where = self.context_at(device)
        directory = ScalableContextEntry.PASIDDIRPTR.get(self.memory.read_u64(where)) or self.new_table()
        entry = ScalableContextEntry.make(P=1, FPD=fpd, PDTS=2, PASIDDIRPTR=directory, RID_PASID=rid_pasid)
        self.memory.write(where, (entry | also).to_bytes(32, "little"))
        return where

    def directory(self, device: str, *, pasid: int = 0, fpd: int = 0, also: int = 0) -> int:
        """Write the PASID directory entry for a PASID, with a table of its own. Returns its address."""
        where = self.directory_at(device, pasid)
        self.memory.write_u64(where, PasidDirectoryEntry.make(P=1, FPD=fpd, SMPTBLPTR=self.new_table()) | also)
        return where

    def entry(
        self,
        device: str,
        type_: int,
        table: int = 0,
        *,
        pasid: int = 0,
        domain: int = 1,
        levels: int = 4,
        fpd: int = 0,
        also: int = 0,
    ) -> int:
        """Write a PASID-table entry: of a first or second stage whose top table is `table`, or of pass-through.

        Returns its address.
        """
        fields = {"P": 1, "FPD": fpd, "PGTT": type_, "DID": domain}
        if type_ == FIRST:
            fields |= {"FSPTPTR": table, "FSPM": levels - 4}
        elif type_ == PASS_THROUGH:
            # AW does not count; drivers write the largest. Without a second stage it is reserved (9.6).
            capabilities = self.driver.capabilities
            fields |= {"SSPTPTR": table, "AW": max(capabilities.levels) - 2 if capabilities.second_stage else 0}
        else:
            fields |= {"SSPTPTR": table, "AW": levels - 2}
        where = self.entry_at(device, pasid)
        self.memory.write(where, (PasidEntry.make(**fields) | also).to_bytes(64, "little"))
        return where

    def map_first(
        self,
        table: int,
        address: int,
        page: int,
        *,
        write: bool = True,
        user: bool = True,
        accessed: bool = True,
        dirty: bool = True,
        size: int = 1,
    ) -> int:
        """Map a page in the first-stage tables at `table`; returns the address of the page's entry.

        `size` is the level of the entry: 1 for 4 KiB, 2 for 2 MiB, 3 for 1 GiB. A and D are set, so that nothing is
        left for the unit to set.
        """
        mapper = _FirstStageMapper(self.memory, self.new_table, root=table)
        length = PAGE << 9 * (size - 1)
        mapper.map(
            address & -length,
            page,
            length,
            write=write,
            user=user,
            accessed=accessed,
            dirty=dirty and write,
            page_size=length,
        )
        found = mapper.lookup(address & -PAGE)
        assert found is not None, "it has just been mapped"
        return found.where

    # Software.

    def turn_on(self) -> None:
        """Set the root table and the mode, turn the queue on, invalidate everything, enable translation."""
        self.driver.set_root_table(self.root, TableMode.SCALABLE)
        self.driver.start_queue(self.new_table(), wide=True)
        self.invalidate_everything()
        self.driver.enable()

    def invalidate_everything(self) -> None:
        """Invalidate the context cache, the PASID cache and the IOTLB, in the order of spec 6.5.3.3."""
        everything = Granularity.GLOBAL
        self.driver.submit(
            ContextDescriptor.make(TYPE=DescriptorType.CONTEXT, G=everything),
            PasidCacheDescriptor.make(TYPE=DescriptorType.PASID_CACHE, G=PasidGranularity.GLOBAL),
            IotlbDescriptor.make(TYPE=DescriptorType.IOTLB, G=everything),
        )
