"""The first-stage walk (spec 3.6, 9.7), alone or nested in a second stage (spec 3.8)."""

from __future__ import annotations

from iommu.engine.attributes import nested
from iommu.engine.caches.caches import StructureCache
from iommu.engine.caches.page import Intent, Page, PageKind, kind_of
from iommu.engine.caches.tables import SECOND_STAGE, FirstStageRoot, SecondStageRoot, Table
from iommu.engine.entry_format import PagingFormat, Rules
from iommu.engine.policy import Policy
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.table_access import TableAccess
from iommu.engine.translation.paging import Leaf, StageWalk
from iommu.engine.translation.second_stage import SecondStage
from iommu.errors import MemoryAccessError
from iommu.structures import FirstStage2MPage, FirstStage4KPage, FirstStageEntry, FirstStageTable

_ACCESSED, _DIRTY, _EXTENDED = FirstStageEntry.A.mask, FirstStageEntry.D.mask, FirstStageEntry.EA.mask
_USER, _WRITE, _NO_EXECUTE = FirstStageEntry.US.mask, FirstStageEntry.RW.mask, FirstStageEntry.XD.mask
_EXECUTE = 1
"""In the rights: no level has XD."""
RIGHTS = _USER | _WRITE | _EXECUTE
"""All rights that a cached table can leave."""
_TABLE = FirstStageTable.ADDR.mask
_PAT_SMALL, _PAT_LARGE = FirstStage4KPage.PAT.lsb, FirstStage2MPage.PAT.lsb

_READS, _READS_AND_WRITES = Intent(read=True, write=False), Intent(read=True, write=True)


class FirstStage(StageWalk):
    """Walks first-stage tables."""

    def __init__(self, access: TableAccess, policy: Policy, cache: StructureCache, second_stage: SecondStage) -> None:
        super().__init__(access, policy, cache)
        self.second_stage = second_stage

    def address_bits(self, tables: FirstStageRoot) -> int:
        """The number of address bits in the lower canonical half (3.6.1)."""
        return 11 + 9 * tables.levels

    def check_address(self, tables: FirstStageRoot, address: int) -> None:
        """Raises Blocked for an address that is not canonical."""
        # SGN.1: the address is not canonical: the bits above the top indexed bit do not all equal it.
        bits = self.address_bits(tables)
        if address >> bits not in (0, (1 << 64 - bits) - 1):
            raise Blocked(FaultReason.SGN_1)

    def find(self, tables: FirstStageRoot, address: int, intent: Intent) -> Leaf:
        """The page that maps a canonical address and permits the request; its own entry is not updated yet.

        Raises Blocked: SFS.*, SGN.2, SGN.3, SGN.6; if nested, also SSS.*, SGN.5 to SGN.7.
        """
        leaf = self.walk(tables, address, intent)
        return leaf if tables.second is None else self.find_nested(tables.second, leaf, address, intent)

    def find_nested(self, second: SecondStageRoot, leaf: Leaf, address: int, intent: Intent) -> Leaf:
        """In a nested walk the page has a guest address, which the second stage translates (spec 3.8)."""
        guest = leaf.page.host | address & leaf.page.kind.size - 1
        # SFS.5: the page is beyond the guest address width.
        if guest >> self.second_stage.address_bits(second):
            raise Blocked(FaultReason.SFS_5)
        page_leaf = self.second_stage.find(second, guest, intent)
        SECOND_STAGE.check(page_leaf.page.kind, intent)
        return leaf._replace(page=combine(leaf.page, page_leaf.page, guest), page_leaf=page_leaf)

    def walk(self, tables: FirstStageRoot, address: int, intent: Intent) -> Leaf:
        """The page that the first stage alone gives; if nested, its `host` is a guest address."""
        level, table, rights, is_new = tables.levels, tables.address, RIGHTS, False
        cached = self.cached_table(tables, address)
        if cached is not None:
            level, (table, rights) = cached
        while True:
            entry_format = tables.formats[level]
            where, table_leaf = self.locate_entry(tables, table + (address >> 3 + 9 * level & 0x1FF) * 8, level)
            try:
                entry = self.read_entry(entry_format, where, tables.snooped)
            except MemoryAccessError:
                # SFS.4 in the top table, SFS.1 below: the entry could not be read.
                raise Blocked(self.unreadable(tables, level)) from None
            rules = entry_format.rules(entry)
            if is_new:  # the table is cached only now that an entry of it could be read
                self.cache.fill(tables.domain_id, tables.pasid, address, level, Table(table, rights))
            rights = self.check_entry(tables, entry_format, rules, rights, entry, intent)
            if rules is entry_format.page:
                kind = self.kind(tables, entry_format, rights, entry)
                tables.codes.check(kind, intent)
                return Leaf(Page(entry & entry_format.page_address, kind), where, entry, entry_format, table_leaf)
            self.set_bits(
                tables, entry_format, where, entry, self.bits_to_set(tables, entry, dirty=False), table_leaf
            )
            level, table, is_new = level - 1, entry & _TABLE, self.policy.cache_upper_levels

    def cached_table(self, tables: FirstStageRoot, address: int) -> tuple[int, Table] | None:
        """Where the walk starts: the lowest table that is cached, and its level."""
        if not self.policy.cache_upper_levels:
            return None
        return self.cache.find(tables.domain_id, tables.pasid, address, tables.levels)

    def locate_entry(self, tables: FirstStageRoot, address: int, level: int) -> tuple[int, Leaf | None]:
        """The host address of an entry, and if nested the leaf of the second stage, which translates `address` (3.8).

        Raises Blocked: SFS.5 to SFS.7, SSS.*.
        """
        second = tables.second
        if second is None:
            return address, None
        # SFS.5: the first-stage table is beyond the guest address width.
        if address >> self.second_stage.address_bits(second):
            raise Blocked(FaultReason.SFS_5)
        unreadable = FaultReason.SFS_6 if level == tables.levels else FaultReason.SFS_7
        # With SSADE, reading a table needs write permission too (3.8.1).
        needs = _READS_AND_WRITES if second.accessed_dirty else _READS
        try:
            leaf = self.second_stage.find(second, address, needs)
        except Blocked as condition:
            # SFS.6, SFS.7: the second stage does not permit to read the table.
            if condition.reason in (FaultReason.SGN_6, FaultReason.SGN_7):
                raise Blocked(unreadable) from None
            raise
        # SFS.6 for the top table, SFS.7 below: the second stage does not permit to read the table.
        if needs.lacks(leaf.page.kind) is not None:
            raise Blocked(unreadable)
        self.second_stage.set_accessed_dirty(second, leaf, dirty=False)
        return leaf.page.host | address & leaf.page.kind.size - 1, leaf

    def check_entry(
        self,
        tables: FirstStageRoot,
        entry_format: PagingFormat,
        rules: Rules,
        rights: int,
        entry: int,
        intent: Intent,
    ) -> int:
        """The rights that remain below an entry. Raises Blocked."""
        # SFS.2: the entry is not present, and all its other bits are ignored.
        if not entry & entry_format.present:
            raise Blocked(FaultReason.SFS_2)
        rights &= entry & (_USER | _WRITE) | (0 if entry & _NO_EXECUTE else _EXECUTE)
        if self.policy.permission_per_level:
            # SGN.2, SGN.6 before the reserved bits of the entry, SGN.3 after them (doubt D-4).
            kind = self.kind(tables, entry_format, rights, entry)
            tables.codes.check(kind, intent._replace(execute=False))
        # SFS.3: a reserved bit is set in a present entry.
        if entry & rules.reserved:
            raise Blocked(FaultReason.SFS_3)
        if self.policy.permission_per_level:
            tables.codes.check(kind, intent)
        return rights

    def kind(self, tables: FirstStageRoot, entry_format: PagingFormat, rights: int, entry: int) -> PageKind:
        """The kind of page that an entry maps, given the rights of all levels. A page that is present is readable."""
        writable = rights & _WRITE == _WRITE
        return kind_of(
            entry_format.page_size,
            True,
            writable,
            writable or not tables.write_protect,
            rights & _USER == _USER,
            rights & _EXECUTE == _EXECUTE,
            entry & _DIRTY == _DIRTY,
            tables.attributes[_memory_type(entry, entry_format.level)],
        )

    def check_leaf(self, tables: FirstStageRoot, table: Table, entry: int, intent: Intent) -> PageKind:
        """The kind of page that an entry of a last-level table maps. Raises Blocked."""
        entry_format = tables.formats[1]
        rights = self.check_entry(tables, entry_format, entry_format.page, table.rights, entry, intent)
        return self.kind(tables, entry_format, rights, entry)

    def bits_to_set(self, tables: FirstStageRoot, entry: int, *, dirty: bool) -> int:
        """The bits that an access still has to set in an entry: A, EA if it is enabled, D in the leaf for a write."""
        return (_ACCESSED | (_EXTENDED if tables.extended else 0) | (_DIRTY if dirty else 0)) & ~entry

    def faulty_kind(self, tables: FirstStageRoot, reason: FaultReason) -> PageKind | None:
        """None: faults of a first stage are not cached, even in caching mode (spec 6.1)."""
        return None

    def set_accessed_dirty(self, tables: FirstStageRoot, leaf: Leaf, *, dirty: bool) -> Page:
        """Set accessed and dirty in the leaf entries of both stages. Returns the page with them. Raises Blocked."""
        missing = self.bits_to_set(tables, leaf.entry, dirty=dirty)
        self.set_bits(tables, leaf.format, leaf.where, leaf.entry, missing, leaf.table_leaf)
        if leaf.page_leaf is not None and tables.second is not None:
            self.second_stage.set_accessed_dirty(tables.second, leaf.page_leaf, dirty=dirty)
        return Page(leaf.page.host, leaf.page.kind.with_flags(dirty=dirty))

    def set_bits(
        self,
        tables: FirstStageRoot,
        entry_format: PagingFormat,
        where: int,
        entry: int,
        bits: int,
        table_leaf: Leaf | None,
    ) -> None:
        """Set bits of an entry in one update; nothing is written if all are set already (3.6.2).

        Raises Blocked, and EntryChanged.
        """
        if entry & bits == bits:
            return
        # SFS.9: the entry needs an update, but the walk is not snooped.
        if not tables.snooped:
            raise Blocked(FaultReason.SFS_9)
        if table_leaf is not None and tables.second is not None:
            # SFS.8: the second stage gives no write permission for the table.
            if not table_leaf.page.kind.writable:
                raise Blocked(FaultReason.SFS_8)
            # For the second stage, the update is a write to the page that holds the table. Its accessed bit was set
            # when the table was found.
            now = table_leaf.entry | self.second_stage.bits_to_set(tables.second, table_leaf.entry, dirty=False)
            self.second_stage.set_accessed_dirty(tables.second, table_leaf._replace(entry=now), dirty=True)
        try:
            self.access.update(entry_format, where, entry, bits, FaultReason.SFS_10)
        except MemoryAccessError:
            # SFS.10: the entry could not be updated.
            raise Blocked(FaultReason.SFS_10) from None


def _memory_type(entry: int, level: int) -> int:
    """PAT, PCD and PWT of an entry that maps a page, as a three-bit number (spec 3.6.5)."""
    return entry >> 3 & 3 | entry >> (_PAT_LARGE if level > 1 else _PAT_SMALL) - 2 & 4


def combine(first: Page, second: Page, guest: int) -> Page:
    """A nested translation: the smaller of the two pages, and the permissions that both give (spec 3.8)."""
    one, other = first.kind, second.kind
    size = min(one.size, other.size)
    host = second.host | guest & other.size - 1
    kind = kind_of(
        size,
        one.readable and other.readable,
        one.writable and other.writable,
        one.supervisor_writable and other.writable,
        one.user,
        one.executable,
        one.dirty and other.dirty,
        nested(one.attributes, other.attributes),
    )
    return Page(host & -size, kind)
