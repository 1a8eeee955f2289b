"""The second-stage walk (spec 3.7, 9.8), for legacy and scalable mode: from an address to a page."""

from __future__ import annotations

from typing import NamedTuple

from iommu.engine.attributes import PLAIN, Attributes, second_stage_index
from iommu.engine.caches.caches import Iotlb, StructureCache
from iommu.engine.caches.page import Page, PageKind, Table, kind_of
from iommu.engine.capabilities import Capabilities
from iommu.engine.policy import Policy
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import Access
from iommu.engine.translation.fast_path import SmallPage
from iommu.engine.translation.paging import Intent, Leaf
from iommu.errors import MemoryAccessError
from iommu.memory import Memory
from iommu.structures import (
    SecondStage1GPage,
    SecondStage2MPage,
    SecondStage4KPage,
    SecondStageEntry,
    SecondStageTable,
)

_PAGES: dict[int, type[SecondStage4KPage] | type[SecondStage2MPage] | type[SecondStage1GPage]] = {
    1: SecondStage4KPage,
    2: SecondStage2MPage,
    3: SecondStage1GPage,
}
_PAGE_MASK = {level: layout.ADDR.mask for level, layout in _PAGES.items()}

# An entry with neither R nor W is not present, and all its other bits are ignored.
_PRESENT = SecondStageEntry.R.mask | SecondStageEntry.W.mask
_PAGE_SIZE = SecondStage2MPage.PS.mask
_TABLE = SecondStageTable.ADDR.mask
_READ, _WRITE = SecondStageEntry.R.mask, SecondStageEntry.W.mask
# Without the call of a constructor: there is a page for every request of the short way that is new.
_new = object.__new__

# What makes a small page what it is.
_KIND = (
    _PRESENT
    | SecondStageEntry.D.mask
    | SecondStageEntry.EMT.mask
    | SecondStageEntry.IPAT.mask
    | SecondStage4KPage.SNP.mask
)
_ACCESSED, _DIRTY = SecondStageEntry.A.mask, SecondStageEntry.D.mask


class Codes(NamedTuple):
    """The fault reasons of one mode."""

    top_unreadable: FaultReason
    unreadable: FaultReason
    reserved: FaultReason
    no_write: FaultReason
    no_read: FaultReason
    not_present: FaultReason | None
    """None where "not present" is told as a missing permission."""

    def permission_of(self, intent: Intent, readable: int, writable: int) -> FaultReason:
        """Which permission is missing. An AtomicOp that lacks both is told as a write (doubt D-29)."""
        return self.no_write if intent.write and not writable else self.no_read

    def absent(self, intent: Intent) -> FaultReason:
        """Nothing is mapped."""
        return self.not_present or self.permission_of(intent, 0, 0)


LEGACY = Codes(FaultReason.LCT_4, FaultReason.LSL_1, FaultReason.LSL_2, FaultReason.LGN_2, FaultReason.LGN_3, None)
SCALABLE = Codes(
    FaultReason.SSS_4,
    FaultReason.SSS_1,
    FaultReason.SSS_3,
    FaultReason.SGN_6,
    FaultReason.SGN_7,
    FaultReason.SSS_2,
)


class Tables(NamedTuple):
    """One second stage: its top table, and how it is walked.

    Attributes:
        address: the top table's host address.
        levels: 3, 4 or 5.
        domain_id: the tag its upper entries are cached under.
        attributes: of its pages, by `second_stage_index`.
        marks: accessed and dirty are kept (SSADE).
        snooped: the walk is coherent: it sees what processors hold in their caches, and can update entries.
    """

    address: int
    levels: int
    domain_id: int
    codes: Codes
    attributes: tuple[Attributes, ...]
    marks: int = 0
    snooped: int = 1


class SecondStage:
    """Walks second-stage tables in `memory` as a unit with these capabilities does.

    `unsnooped` is the same memory without what processors hold of it in their caches.
    """

    def __init__(
        self, memory: Memory, unsnooped: Memory, capabilities: Capabilities, policy: Policy, cache: StructureCache
    ) -> None:
        self.memory, self.unsnooped, self.policy, self.cache = memory, unsnooped, policy, cache
        self.address_width = capabilities.address_width
        self.caches_tables = policy.cache_upper_levels
        width, offered = capabilities.host_address_width, capabilities.offered
        self._table_reserved = SecondStageTable.reserved_mask(width, offered)
        self._page_reserved = {level: layout.reserved_mask(width, offered) for level, layout in _PAGES.items()}

    def covers(self, tables: Tables, address: int) -> bool:
        """Whether the address is within the guest address width and what the levels can index (spec 3.7)."""
        return not address >> self.reach(tables)

    def reach(self, tables: Tables) -> int:
        """How many bits of address the tables map."""
        return min(self.address_width, 12 + 9 * tables.levels)

    def walk(self, tables: Tables, address: int, intent: Intent) -> Leaf:
        """The page that maps `address`, with the permissions of all levels combined; the page itself is not marked.

        Permissions are left to the caller, but for those that no level further down can give back.

        Raises:
            Blocked: by the codes of the mode.
        """
        table, levels, domain_id, codes, marks = (
            tables.address,
            tables.levels,
            tables.domain_id,
            tables.codes,
            tables.marks,
        )
        level, rights, fresh, per_level = levels, _PRESENT, False, self.policy.permission_per_level
        known = self.cache.find(domain_id, None, address, levels) if self.caches_tables else None
        if known is not None:
            level, (table, rights, _) = known
        while True:
            where = table + (address >> 3 + 9 * level & 0x1FF) * 8
            try:
                entry = self.read_entry(where, tables.snooped)
            except MemoryAccessError:
                raise Blocked(codes.top_unreadable if level == levels else codes.unreadable) from None
            if fresh:  # only now is it known that there is such a table
                self.cache.fill(domain_id, None, address, level, Table(table, rights))
            if not entry & _PRESENT:
                raise Blocked(codes.absent(intent))
            rights &= entry
            if per_level and intent.lacks(rights & _READ, rights & _WRITE):
                raise Blocked(codes.permission_of(intent, rights & _READ, rights & _WRITE))
            is_page = level == 1 or (level <= 3 and entry & _PAGE_SIZE)
            if entry & (self._page_reserved[level] if is_page else self._table_reserved):
                raise Blocked(codes.reserved)
            if not rights:
                # Nothing further down can give back what the levels so far have taken.
                raise Blocked(codes.absent(intent))
            if is_page:
                readable, writable = rights & _READ == _READ, rights & _WRITE == _WRITE
                dirty = not marks or entry & _DIRTY == _DIRTY
                attributes = tables.attributes[second_stage_index(entry)]
                kind = kind_of(8 << 9 * level, readable, writable, writable, True, True, dirty, attributes)
                return Page(entry & _PAGE_MASK[level], kind), where, entry
            if marks:
                self.mark(tables, where, entry, _ACCESSED)
            level, table, fresh = level - 1, entry & _TABLE, self.caches_tables

    def walk_or_remember(self, tables: Tables, address: int, intent: Intent, iotlb: Iotlb) -> Leaf:
        """The same; what is not present or has reserved bits is remembered, as caching mode may do (spec 6.1)."""
        try:
            return self.walk(tables, address, intent)
        except Blocked as condition:
            kind = self.faulty(tables.codes, condition.reason)
            if kind is not None:
                iotlb.fill(tables.domain_id, None, address, Page(0, kind))
            raise

    def faulty(self, codes: Codes, reason: FaultReason) -> PageKind | None:
        """What is remembered where a walk has ended so; None for nothing.

        Where "not present" is told as a missing permission, by whoever asks, it is a page without permissions. One
        that was missing further up may be there for another access.
        """
        if reason is codes.reserved or reason is codes.not_present:
            return kind_of(4096, False, False, False, False, False, True, PLAIN, False, reason)
        if reason in (codes.no_read, codes.no_write) and not self.policy.permission_per_level:
            return kind_of(4096, False, False, False, False, False, True, PLAIN)
        return None

    def small_pages(self, tables: Tables) -> SmallPage:
        """How the entries of last tables are read for the short way."""
        read_entry = (self.memory if tables.snooped else self.unsnooped).read_u64
        reserved, attributes = self._page_reserved[1], tables.attributes
        # By access: R and W of an entry count as READ and WRITE do, and marks have to be set already.
        marked, written = (_ACCESSED, _ACCESSED | _DIRTY) if tables.marks else (0, 0)
        wanted = (0, _READ | marked, _WRITE | written, _READ | _WRITE | written)
        clean = 0 if tables.marks else _DIRTY

        def kind(entry: int) -> PageKind:
            readable, writable, dirty = (entry & bit == bit for bit in (_READ, _WRITE, _DIRTY))
            told = attributes[second_stage_index(entry)]
            return kind_of(4096, readable, writable, writable, True, True, dirty, told)

        kinds: dict[int, PageKind] = {}

        def small_page(table: Table, address: int, access: Access) -> Page | None:
            entry = read_entry(table.address + (address >> 9 & 0xFF8))
            allowed = entry & (table.rights | ~_PRESENT)
            if allowed & wanted[access] != wanted[access] or entry & reserved:
                return None
            key = (allowed | clean) & _KIND
            found = kinds.get(key)
            if found is None:
                found = kinds[key] = kind(key)
            page = _new(Page)
            page.host, page.kind = entry & _TABLE, found
            return page

        return small_page

    def read_entry(self, where: int, snooped: int) -> int:
        """One 64-bit entry, by way of the processors' caches where the walk is snooped. Raises MemoryAccessError."""
        return (self.memory if snooped else self.unsnooped).read_u64(where)

    def mark_page(self, tables: Tables, leaf: Leaf, *, dirty: bool) -> Page:
        """Record the access in the page's own entry, A and D in one update; the page as it is from then on."""
        page, where, entry = leaf
        if not tables.marks:
            return page
        self.mark(tables, where, entry, _ACCESSED | _DIRTY if dirty else _ACCESSED)
        return Page(page.host, page.kind.but(dirty=dirty))

    def mark(self, tables: Tables, where: int, entry: int, bits: int) -> None:
        """Set bits of an entry in memory, if they are not set already: then nothing is written (spec 3.7.2)."""
        if entry & bits == bits:
            return
        if not tables.snooped:
            raise Blocked(FaultReason.SSS_5)
        try:
            self.memory.write(where, (entry | bits).to_bytes(8, "little"))
        except MemoryAccessError:
            raise Blocked(FaultReason.SSS_6) from None
