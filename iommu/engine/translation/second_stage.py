"""The second-stage walk (spec 3.7, 9.8), for legacy and scalable mode."""

from __future__ import annotations

from iommu.engine.attributes import PLAIN, second_stage_index
from iommu.engine.caches.caches import StructureCache
from iommu.engine.caches.page import Intent, Page, PageKind, kind_of
from iommu.engine.caches.tables import SecondStageRoot, Table
from iommu.engine.capabilities import Capabilities
from iommu.engine.entry_format import PagingFormat, Rules
from iommu.engine.policy import Policy
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.table_access import TableAccess
from iommu.engine.translation.paging import Leaf, StageWalk
from iommu.errors import MemoryAccessError
from iommu.structures import SecondStageEntry, SecondStageTable

_READ, _WRITE = SecondStageEntry.R.mask, SecondStageEntry.W.mask
RIGHTS = _READ | _WRITE
"""All rights that a cached table can leave."""
_ACCESSED, _DIRTY = SecondStageEntry.A.mask, SecondStageEntry.D.mask
_TABLE = SecondStageTable.ADDR.mask


class SecondStage(StageWalk):
    """Walks second-stage tables."""

    def __init__(
        self, access: TableAccess, capabilities: Capabilities, policy: Policy, cache: StructureCache
    ) -> None:
        super().__init__(access, policy, cache)
        self.address_width = capabilities.address_width

    def address_bits(self, tables: SecondStageRoot) -> int:
        """The number of address bits that the tables map: limited by the guest address width and the levels (3.7)."""
        return min(self.address_width, 12 + 9 * tables.levels)

    def check_address(self, tables: SecondStageRoot, address: int) -> None:
        """Raises Blocked for an address beyond what the tables can map."""
        # LGN.1, SGN.5: the address is beyond the guest address width, or beyond what the levels can index.
        if address >> self.address_width or address >> 12 + 9 * tables.levels:
            raise Blocked(tables.codes.beyond)

    def find(self, tables: SecondStageRoot, address: int, intent: Intent) -> Leaf:
        """The page that maps `address`, with the permissions of all levels; its own entry is not updated yet.

        The caller checks the permissions. The walk ends early only if neither read nor write permission is left.

        Raises Blocked with the reasons of the mode.
        """
        level, table, rights, is_new = tables.levels, tables.address, RIGHTS, False
        cached = self.cached_table(tables, address)
        if cached is not None:
            level, (table, rights) = cached
        while True:
            entry_format, where = tables.formats[level], table + (address >> 3 + 9 * level & 0x1FF) * 8
            try:
                entry = self.read_entry(entry_format, where, tables.snooped)
            except MemoryAccessError:
                # LCT.4, SSS.4 in the top table; LSL.1, SSS.1 below: the entry could not be read.
                raise Blocked(self.unreadable(tables, level)) from None
            rules = entry_format.rules(entry)
            if is_new:  # the table is cached only now that an entry of it could be read
                self.cache.fill(tables.domain_id, None, address, level, Table(table, rights))
            rights = self.check_entry(tables, entry_format, rules, rights, entry, intent)
            if rules is entry_format.page:
                kind = self.kind(tables, entry_format, rights, entry)
                return Leaf(Page(entry & entry_format.page_address, kind), where, entry, entry_format)
            if tables.accessed_dirty:
                self.set_bits(tables, entry_format, where, entry, _ACCESSED)
            level, table, is_new = level - 1, entry & _TABLE, self.policy.cache_upper_levels

    def cached_table(self, tables: SecondStageRoot, address: int) -> tuple[int, Table] | None:
        """Where the walk starts: the lowest table that is cached, and its level."""
        if not self.policy.cache_upper_levels:
            return None
        return self.cache.find(tables.domain_id, None, address, tables.levels)

    def check_entry(
        self,
        tables: SecondStageRoot,
        entry_format: PagingFormat,
        rules: Rules,
        rights: int,
        entry: int,
        intent: Intent,
    ) -> int:
        """The rights that remain below an entry. Raises Blocked."""
        # LGN.2, LGN.3, SSS.2: an entry with neither R nor W is not present, and all its other bits are ignored.
        if not entry & entry_format.present:
            raise Blocked(tables.codes.absent(intent))
        rights &= entry
        if self.policy.permission_per_level:
            # LGN.2, LGN.3, SGN.6, SGN.7, before the reserved bits of the entry that lacks it (doubt D-4).
            tables.codes.check(self.kind(tables, entry_format, rights, entry), intent)
        # LSL.2, SSS.3: a reserved bit is set in a present entry.
        if entry & rules.reserved:
            raise Blocked(tables.codes.reserved)
        # LGN.2, LGN.3, SSS.2: neither permission is left, and lower levels cannot restore one.
        if not rights:
            raise Blocked(tables.codes.absent(intent))
        return rights

    def kind(self, tables: SecondStageRoot, entry_format: PagingFormat, rights: int, entry: int) -> PageKind:
        """The kind of page that an entry maps, given the rights of all levels."""
        readable, writable = rights & _READ == _READ, rights & _WRITE == _WRITE
        dirty = not tables.accessed_dirty or entry & _DIRTY == _DIRTY
        attributes = tables.attributes[second_stage_index(entry)]
        return kind_of(entry_format.page_size, readable, writable, writable, True, True, dirty, attributes)

    def check_leaf(self, tables: SecondStageRoot, table: Table, entry: int, intent: Intent) -> PageKind:
        """The kind of page that an entry of a last-level table maps. Raises Blocked."""
        entry_format = tables.formats[1]
        rights = self.check_entry(tables, entry_format, entry_format.page, table.rights, entry, intent)
        return self.kind(tables, entry_format, rights, entry)

    def bits_to_set(self, tables: SecondStageRoot, entry: int, *, dirty: bool) -> int:
        """The accessed and dirty bits that an access still has to set in the leaf entry (3.7.2)."""
        return (_ACCESSED | (_DIRTY if dirty else 0)) & ~entry if tables.accessed_dirty else 0

    def faulty_kind(self, tables: SecondStageRoot, reason: FaultReason) -> PageKind | None:
        """What caching mode caches after a walk that ended with this fault; None for nothing.

        In legacy mode an entry that is not present is reported as a missing permission: a page without permissions is
        cached. With `permission_per_level`, nothing is: an upper level may permit another kind of access.
        """
        codes = tables.codes
        if reason in (codes.reserved, codes.not_present):
            return kind_of(4096, False, False, False, False, False, True, PLAIN, False, reason)
        if reason in codes.missing.values() and not self.policy.permission_per_level:
            return kind_of(4096, False, False, False, True, True, True, PLAIN)
        return None

    def set_accessed_dirty(self, tables: SecondStageRoot, leaf: Leaf, *, dirty: bool) -> Page:
        """Set A and D of the leaf entry in one update. Returns the page with them. Raises Blocked."""
        if not tables.accessed_dirty:
            return leaf.page
        missing = self.bits_to_set(tables, leaf.entry, dirty=dirty)
        self.set_bits(tables, leaf.format, leaf.where, leaf.entry, missing)
        return Page(leaf.page.host, leaf.page.kind.with_flags(dirty=dirty))

    def set_bits(
        self, tables: SecondStageRoot, entry_format: PagingFormat, where: int, entry: int, bits: int
    ) -> None:
        """Set bits of an entry in memory; nothing is written if all are set already (3.7.2).

        Raises Blocked, and EntryChanged.
        """
        if entry & bits == bits:
            return
        # SSS.5: the entry needs an update, but the walk is not snooped.
        if not tables.snooped:
            raise Blocked(FaultReason.SSS_5)
        try:
            self.access.update(entry_format, where, entry, bits, FaultReason.SSS_6)
        except MemoryAccessError:
            # SSS.6: the entry could not be updated.
            raise Blocked(FaultReason.SSS_6) from None
