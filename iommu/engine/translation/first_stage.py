"""The first-stage walk (spec 3.6, 9.7), alone or nested in a second stage (spec 3.8)."""

from __future__ import annotations

from typing import NamedTuple

from iommu.engine.attributes import Attributes
from iommu.engine.caches.caches import StructureCache
from iommu.engine.caches.page import Page, PageKind, Table, kind_of
from iommu.engine.capabilities import Capabilities
from iommu.engine.policy import Policy
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import Access
from iommu.engine.translation.fast_path import SmallPage
from iommu.engine.translation.paging import Intent, Leaf
from iommu.engine.translation.second_stage import SecondStage, Tables
from iommu.errors import MemoryAccessError
from iommu.memory import Memory
from iommu.structures import (
    FirstStage1GPage,
    FirstStage2MPage,
    FirstStage4KPage,
    FirstStageEntry,
    FirstStageTable,
)

_PAGES: dict[int, type[FirstStage4KPage] | type[FirstStage2MPage] | type[FirstStage1GPage]] = {
    1: FirstStage4KPage,
    2: FirstStage2MPage,
    3: FirstStage1GPage,
}
_PAGE_MASK = {level: layout.ADDR.mask for level, layout in _PAGES.items()}
_PRESENT = FirstStageEntry.P.mask
_PAGE_SIZE = FirstStage2MPage.PS.mask
_TABLE = FirstStageTable.ADDR.mask
# Without the call of a constructor: there is a page for every request of the short way that is new.
_new = object.__new__
_ACCESSED, _DIRTY, _EXTENDED = FirstStageEntry.A.mask, FirstStageEntry.D.mask, FirstStageEntry.EA.mask

_USER, _WRITE, _NO_EXECUTE = FirstStageEntry.US.mask, FirstStageEntry.RW.mask, FirstStageEntry.XD.mask
_RIGHTS = _USER | _WRITE
_PAT_SMALL, _PAT_LARGE = FirstStage4KPage.PAT.lsb, FirstStage2MPage.PAT.lsb
# What makes a small page what it is; P is always set then, and stands for the tables' own say in executing.
_KIND = (
    _WRITE | _NO_EXECUTE | _DIRTY | FirstStage4KPage.PAT.mask | FirstStageEntry.PCD.mask | FirstStageEntry.PWT.mask
)

_READS = Intent(read=True, write=False)


class Directory(NamedTuple):
    """One first stage and how it is walked: what the PASID-table entry says of it.

    Attributes:
        address: the top table; a host address, or a guest address where `second` is there.
        levels: 4 or 5.
        attributes: of its pages, by the three bits that choose a memory type: PAT, PCD, PWT.
        domain_id, pasid: the tag its upper entries are cached under.
        write_protect: supervisor writes need R/W too (WPE).
        extended: the extended-accessed flag is kept (EAFE).
        snooped: the walk is coherent: it sees what processors hold in their caches, and can update entries.
        second: the second stage that table addresses and pages go through; None where the first stage is alone.
    """

    address: int
    levels: int
    domain_id: int
    pasid: int
    write_protect: int
    extended: int
    snooped: int
    second: Tables | None
    attributes: tuple[Attributes, ...]


class Place(NamedTuple):
    """Where an entry stands in host memory, and where nested the page of the second stage it stands in."""

    host: int
    within: Leaf | None


class Found(NamedTuple):
    """The end of a first-stage walk: the page, still unmarked, and the entry that maps it."""

    page: Page
    place: Place
    entry: int


class FirstStage:
    """Walks first-stage tables in `memory` as a unit with these capabilities does; `unsnooped` as in SecondStage."""

    def __init__(
        self,
        memory: Memory,
        unsnooped: Memory,
        capabilities: Capabilities,
        policy: Policy,
        cache: StructureCache,
        second_stage: SecondStage,
    ) -> None:
        self.memory, self.unsnooped = memory, unsnooped
        self.policy, self.cache, self.second_stage = policy, cache, second_stage
        self.caches_tables = policy.cache_upper_levels
        width, offered = capabilities.host_address_width, capabilities.offered
        self._table_reserved = FirstStageTable.reserved_mask(width, offered)
        self._page_reserved = {level: layout.reserved_mask(width, offered) for level, layout in _PAGES.items()}

    def walk(self, tables: Directory, address: int, intent: Intent) -> Found:
        """The page that maps a canonical address, permitted and not yet marked; where nested, `host` is the guest's.

        Raises:
            Blocked: SGN.2, SGN.3, SGN.6, SFS.*; where nested, SSS.* of the tables' own translation.
        """
        level, table, rights, executable, fresh = tables.levels, tables.address, _RIGHTS, True, False
        tag, per_level = (tables.domain_id, tables.pasid), self.policy.permission_per_level
        known = self.cache.find(*tag, address, level) if self.caches_tables else None
        if known is not None:
            level, (table, rights, executable) = known
        while True:
            place = self.place_of(tables, table + (address >> 3 + 9 * level & 0x1FF) * 8, level)
            try:
                entry = self.read_entry(place.host, tables.snooped)
            except MemoryAccessError:
                raise Blocked(FaultReason.SFS_4 if level == tables.levels else FaultReason.SFS_1) from None
            if fresh:  # only now is it known that there is such a table
                self.cache.fill(*tag, address, level, Table(table, rights, executable))
            if not entry & _PRESENT:
                raise Blocked(FaultReason.SFS_2)
            rights &= entry
            executable = executable and not entry & _NO_EXECUTE
            writable = rights & _WRITE == _WRITE
            kind = kind_of(
                8 << 9 * level,
                True,
                writable,
                writable or not tables.write_protect,
                rights & _USER == _USER,
                executable,
                entry & _DIRTY == _DIRTY,
                tables.attributes[_memory_type(entry, level)],
            )
            if per_level:  # execution is looked at last, as in an entry on its own
                check(kind.but(executable=True), intent)
            is_page = level == 1 or (level <= 3 and entry & _PAGE_SIZE)
            if entry & (self._page_reserved[level] if is_page else self._table_reserved):
                raise Blocked(FaultReason.SFS_3)
            if is_page or per_level:
                check(kind, intent)
            if is_page:
                return Found(Page(entry & _PAGE_MASK[level], kind), place, entry)
            self.mark(tables, place, entry, dirty=False)
            level, table, fresh = level - 1, entry & _TABLE, self.caches_tables

    def small_pages(self, tables: Directory) -> SmallPage:
        """How the entries of last tables are read for the short way, where the first stage is alone."""
        read_entry = (self.memory if tables.snooped else self.unsnooped).read_u64
        reserved, attributes = self._page_reserved[1], tables.attributes
        # By access: whether the request writes. Marks have to be set already.
        reads = _PRESENT | _USER | _ACCESSED | (_EXTENDED if tables.extended else 0)
        writes = reads | _WRITE | _DIRTY
        wanted, protected = (0, reads, writes, writes), bool(tables.write_protect)

        def kind(entry: int, executable: bool) -> PageKind:
            writable, dirty = entry & _WRITE == _WRITE, entry & _DIRTY == _DIRTY
            told = attributes[_memory_type(entry, 1)]
            return kind_of(4096, True, writable, writable or not protected, True, executable, dirty, told)

        kinds: dict[int, PageKind] = {}

        def small_page(table: Table, address: int, access: Access) -> Page | None:
            entry = read_entry(table.address + (address >> 9 & 0xFF8))
            allowed = entry & (table.rights | ~_RIGHTS)
            if allowed & wanted[access] != wanted[access] or entry & reserved:
                return None
            key = allowed & _KIND | table.executable
            found = kinds.get(key)
            if found is None:
                found = kinds[key] = kind(allowed, table.executable and not entry & _NO_EXECUTE)
            page = _new(Page)
            page.host, page.kind = entry & _TABLE, found
            return page

        return small_page

    def read_entry(self, where: int, snooped: int) -> int:
        """One 64-bit entry, by way of the processors' caches where the walk is snooped. Raises MemoryAccessError."""
        return (self.memory if snooped else self.unsnooped).read_u64(where)

    def place_of(self, tables: Directory, address: int, level: int) -> Place:
        """Where the entry at `address` really is; where nested, by way of the second stage (spec 3.8).

        Raises Blocked: SFS.5 to SFS.7, SSS.*.
        """
        second = tables.second
        if second is None:
            return Place(address, None)
        if not self.second_stage.covers(second, address):
            raise Blocked(FaultReason.SFS_5)
        unreadable = FaultReason.SFS_6 if level == tables.levels else FaultReason.SFS_7
        try:
            leaf = self.second_stage.walk(second, address, _READS)
        except Blocked as condition:
            absent = condition.reason is FaultReason.SSS_2 and self.policy.nested_absent_is_no_permission
            if absent or condition.reason is FaultReason.SGN_7:
                raise Blocked(unreadable) from None
            raise
        page, _, _ = leaf
        if not page.kind.readable:
            raise Blocked(unreadable)
        self.second_stage.mark_page(second, leaf, dirty=False)
        return Place(page.host | address & page.kind.size - 1, leaf)

    def mark_page(self, tables: Directory, found: Found, *, dirty: bool) -> Page:
        """Record the access in the page's own entry; the page as it is from then on."""
        self.mark(tables, found.place, found.entry, dirty=dirty)
        return Page(found.page.host, found.page.kind.but(dirty=dirty))

    def mark(self, tables: Directory, place: Place, entry: int, *, dirty: bool) -> None:
        """Set A, EA where it is kept, and D, all in one update; nothing is written when they are set already."""
        bits = _ACCESSED | (_EXTENDED if tables.extended else 0) | (_DIRTY if dirty else 0)
        if entry & bits == bits:
            return
        if not tables.snooped:
            raise Blocked(FaultReason.SFS_9)
        if place.within is not None and tables.second is not None:
            page, where, _ = place.within
            if not page.kind.writable:
                raise Blocked(FaultReason.SFS_8)
            # The second stage sees the update as a write to the page of tables.
            leaf = page, where, self.second_stage.read_entry(where, tables.snooped)
            self.second_stage.mark_page(tables.second, leaf, dirty=True)
        try:
            self.memory.write(place.host, (entry | bits).to_bytes(8, "little"))
        except MemoryAccessError:
            raise Blocked(FaultReason.SFS_10) from None


def _memory_type(entry: int, level: int) -> int:
    """PAT, PCD and PWT of an entry that maps a page, as a number of three bits (spec 3.6.5)."""
    return entry >> 3 & 3 | entry >> (_PAT_LARGE if level > 1 else _PAT_SMALL) - 2 & 4


def is_canonical(address: int, levels: int) -> bool:
    """Whether the bits above what `levels` can index all equal the top one they can (spec 3.6.1)."""
    above = address >> 11 + 9 * levels
    return above in (0, (1 << 53 - 9 * levels) - 1)


def check(kind: PageKind, intent: Intent) -> None:
    """Whether a page that a first stage maps permits the request (spec 3.6.1). Raises Blocked: SGN.2, 3, 6, 7."""
    if intent.user and not kind.user:
        raise Blocked(FaultReason.SGN_2)
    if intent.write and not (kind.writable if intent.user else kind.supervisor_writable):
        raise Blocked(FaultReason.SGN_6)
    if intent.read and not kind.readable:
        raise Blocked(FaultReason.SGN_7)
    if intent.execute and not kind.executable:
        raise Blocked(FaultReason.SGN_3)
