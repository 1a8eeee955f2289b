"""The second-stage walk, for whole arrays (spec 3.7, 9.8)."""

from __future__ import annotations

import numpy as np

from iommu.batch.arrays import Bools, Int64
from iommu.batch.walk import NO_FAULTS, Bits, Entries, Faults, Going, Leaves, Level, Pending, Reasons, Wanted
from iommu.batch.words import Words
from iommu.engine.caches.page import Permission
from iommu.engine.caches.tables import FaultCodes, SecondStageRoot
from iommu.engine.reasons import FaultReason
from iommu.engine.translation.second_stage import SecondStage
from iommu.structures import SecondStageEntry, SecondStageTable

READ, WRITE = SecondStageEntry.R.mask, SecondStageEntry.W.mask
RIGHTS = READ | WRITE
ACCESSED, DIRTY = SecondStageEntry.A.mask, SecondStageEntry.D.mask
_TABLE = SecondStageTable.ADDR.mask


class SecondStageWalk:
    """Walks the second stages that have the levels and formats of `tables`; its address does not matter."""

    def __init__(self, stage: SecondStage, tables: SecondStageRoot) -> None:
        self.bits, self.codes = stage.address_bits(tables), tables.codes
        self._per_level = stage.policy.permission_per_level
        self._levels = [Level(each) for each in tables.formats[tables.levels : 0 : -1]]
        self.accessed_dirty, self.snooped = bool(tables.accessed_dirty), bool(tables.snooped)

    def wanted(self, writes: Bools) -> Wanted:
        """The permissions that requests need."""
        return Wanted(writes, READ, WRITE)

    def no_update(self, words: Words) -> FaultReason | None:
        """The fault if an entry needs an update; None if it can be updated."""
        # SSS.5: the walk is not snooped. SSS.6: the entry cannot be updated.
        if not self.snooped:
            return FaultReason.SSS_5
        return None if words.writable else FaultReason.SSS_6

    def find(self, words: Words, table: Int64, address: Int64, wanted: Wanted) -> Leaves:
        """The pages that map the addresses, which the tables can map. The caller checks the permissions.

        Args:
            table: the top table of each walk, as a number of quadwords.
        """
        pending = Pending(len(address), RIGHTS)
        going = Going(table, address, None, None)
        for number, level in enumerate(self._levels):
            if not going.address.size:
                break
            where = going.address >> level.shift
            where &= 0x1FF
            where += going.table
            entry, readable = words.take(where)
            at = Entries(entry, where if words.marks else None, going.address, going.rights, going.rows)
            if readable is not None:
                # LCT.4, SSS.4 in the top table; LSL.1, SSS.1 below: the entry could not be read.
                reason = self.codes.unreadable if number else self.codes.top_unreadable
                pending.block(at.rows_at(np.flatnonzero(~readable)), reason)
                at = at.part(np.flatnonzero(readable))
            bits = at.bits()
            tables, pages, gone = level.split(at, bits)
            if gone is not None:
                # LGN.2, LGN.3, SSS.2: an entry with neither R nor W is not present; all its other bits are ignored.
                rows = at.rows_at(gone)
                pending.block(rows, self._absent(wanted, rows))
            if pages is not None:
                own = bits if pages is at else pages.bits()
                pages = self._checked(words, level, pages, own, wanted, pending, are_tables=False)
                host = pages.entry & level.address
                host |= pages.address & level.offset
                leaves = Leaves(
                    host,
                    pages.rights,
                    pages.entry if self.accessed_dirty else None,
                    None,
                    where=pages.where,
                )
                if pages.rows is None:
                    return leaves
                pending.end(pages.rows, leaves)
            if tables is None:
                break
            own = bits if tables is at else tables.bits()
            tables = self._checked(words, level, tables, own, wanted, pending, are_tables=True)
            self.mark(words, tables.where, tables.entry, ACCESSED)
            table = tables.entry & _TABLE
            table >>= 3
            going = Going(table, tables.address, tables.rights, tables.rows)
        return pending.found

    def _checked(
        self,
        words: Words,
        level: Level,
        at: Entries,
        bits: Bits,
        wanted: Wanted,
        pending: Pending,
        *,
        are_tables: bool,
    ) -> Entries:
        """The entries without those that block their walks, and with the rights that are left.

        Args:
            bits: of the entries.
            are_tables: they point to tables; otherwise they map pages.
        """
        entry, rights, reserved = at.entry, at.rights, level.table if are_tables else level.page
        failed = self.no_update(words) if are_tables and self.accessed_dirty else None
        every, some = bits
        if every & RIGHTS == RIGHTS and not some & reserved and (failed is None or every & ACCESSED):
            return at
        rights = entry & RIGHTS if rights is None else rights & entry
        odd = rights != RIGHTS
        if some & reserved:
            odd |= entry & reserved != 0
        if failed is not None:
            odd |= entry & ACCESSED == 0
        rows = np.flatnonzero(odd)
        reason = self._faults(at._replace(rights=rights).part(rows), reserved, failed, wanted)
        blocked = reason != 0
        # Most often only entries that block have not all rights.
        at = at._replace(rights=rights if (rights[rows[~blocked]] != RIGHTS).any() else None)
        if not blocked.any():
            return at
        pending.block(at.rows_at(rows[blocked]), reason[blocked])
        odd[:] = True
        odd[rows[blocked]] = False
        return at.part(np.flatnonzero(odd))

    def _faults(self, at: Entries, reserved: int, failed: FaultReason | None, wanted: Wanted) -> Reasons:
        """The fault of each entry, or 0. Of several, the first one counts, which is assigned last here.

        Args:
            failed: the fault of an entry whose accessed bit is not set; None if it can be set.
        """
        entry, rights = at.entry, at.rights
        assert rights is not None
        reason, absent = np.zeros(len(entry), np.uint8), self._absent(wanted, at.rows)
        if failed is not None:
            # SSS.5, SSS.6: the accessed bit of an entry that points to a table cannot be set.
            reason[entry & ACCESSED == 0] = failed
        # LGN.2, LGN.3, SSS.2: neither permission is left, and lower levels cannot restore one.
        np.copyto(reason, absent, where=rights == 0)
        # LSL.2, SSS.3: a reserved bit is set in a present entry.
        reason[entry & reserved != 0] = self.codes.reserved
        if self._per_level:
            # LGN.2, LGN.3, SGN.6, SGN.7, before the reserved bits of the entry that lacks it (doubt D-4).
            missing = self.missing(rights, wanted, at.rows)
            np.copyto(reason, missing, where=missing != 0)
        return reason

    def _absent(self, wanted: Wanted, rows: Int64 | None) -> Reasons:
        """The reasons of these rows for an entry that is not present: see FaultCodes.absent."""
        if self.codes.not_present is not None:
            return np.array(self.codes.not_present, np.uint8)
        missing = self.codes.missing
        by_bit = np.array([missing[Permission.READ], missing[Permission.WRITE]], np.uint8)
        return by_bit.take(np.asarray(wanted.bits(rows) & WRITE != 0, np.int64))

    def find_some(self, words: Words, table: Int64, address: Int64, wanted: Wanted, which: Bools) -> Leaves:
        """As `find`, for some of the rows only: the others are left out, with all rights and without a fault."""
        if which.all():
            return self.find(words, table, address, wanted)
        pending, rows = Pending(len(address), RIGHTS), np.flatnonzero(which)
        if rows.size:
            pending.end(rows, self.find(words, table[rows], address[rows], wanted.part(rows)))
        return pending.found

    def missing(
        self, rights: Int64, wanted: Wanted, rows: Int64 | None = None, codes: FaultCodes | None = None
    ) -> Reasons:
        """The reasons for missing permissions, or 0: see Intent.lacks."""
        missing, lacks = (codes or self.codes).missing, wanted.bits(rows) & ~rights
        reads = np.where(lacks & READ, np.uint8(missing[Permission.READ]), np.uint8(0))
        return np.where(lacks & WRITE, np.uint8(missing[Permission.WRITE]), reads)

    def not_permitted(self, leaves: Leaves, wanted: Wanted, codes: FaultCodes | None = None) -> Faults:
        """The pages that do not give what is wanted of them; `codes`: the reasons, if they are not the stage's."""
        if leaves.rights is None:
            return NO_FAULTS
        rows = np.flatnonzero(leaves.rights != RIGHTS)
        return Faults(rows, self.missing(leaves.rights[rows], wanted, rows, codes))

    def mark(self, words: Words, where: Int64 | None, entry: Int64, bits: int) -> None:
        """Bits are to be set in these entries, if the unit sets such bits."""
        if self.accessed_dirty and words.marks and where is not None:
            words.marks.add(where, entry, bits)

    def mark_leaves(self, words: Words, leaves: Leaves, through: Int64, writes: Bools) -> None:
        """The pages of these rows are used: A is to be set, and D for writes."""
        if self.accessed_dirty and words.marks and leaves.where is not None and leaves.entry is not None:
            self.mark(words, leaves.where[through], leaves.entry[through], ACCESSED)
            through = through[writes[through]]
            self.mark(words, leaves.where[through], leaves.entry[through], DIRTY)

    def not_updated(self, words: Words, leaves: Leaves, dirty: Bools | bool) -> Reasons | None:
        """The faults of leaves of which A, or D where `dirty`, cannot be set; None if there is none."""
        failed = self.no_update(words) if self.accessed_dirty else None
        if failed is None or leaves.entry is None:
            return None
        bits = np.where(dirty, ACCESSED | DIRTY, ACCESSED)
        return np.where(bits & ~leaves.entry, np.uint8(failed), np.uint8(0))
