"""The second-stage walk, for whole arrays (spec 3.7, 9.8)."""

from __future__ import annotations

import numpy as np

from iommu.batch.arrays import Bools, Int64
from iommu.batch.walk import Leaves, Level, Pending, Reasons, Wanted
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
        pending, rights = Pending(len(address), RIGHTS), None
        updates = self.accessed_dirty and self.no_update(words) is not None
        for number, level in enumerate(self._levels):
            where = table + (address >> level.shift & 0x1FF)
            entry, readable = words.take(where)
            if not entry.size:
                return pending.found
            if readable is None:
                every, some = int(np.bitwise_and.reduce(entry)), int(np.bitwise_or.reduce(entry))
                if every & RIGHTS == RIGHTS:
                    if level.are_tables(some) and not some & level.table and (not updates or every & ACCESSED):
                        self.mark(words, where, entry, ACCESSED)
                        table = (entry & _TABLE) >> 3
                        continue
                    if level.are_pages(every) and not some & level.page:
                        host, place = entry & level.address | address & level.offset, where if words.marks else None
                        return pending.all_end(Leaves(host, rights, entry, None, where=place))
            rights = entry & RIGHTS if rights is None else rights & entry
            pages = level.pages(entry)
            reason = self._faults(words, level, not number, entry, readable, rights, pages, wanted, pending.rows)
            ends = pages | (reason != 0)
            if ends.any():
                blocked = np.flatnonzero(reason)
                pending.block(blocked, reason[blocked])
                mapped = np.flatnonzero(pages & (reason == 0))
                host = entry[mapped] & level.address | address[mapped] & level.offset
                place = where[mapped] if words.marks else None
                pending.end(mapped, Leaves(host, rights[mapped], entry[mapped], None, where=place))
                going = np.flatnonzero(~ends)
                pending.rows = pending.at(going)
                entry, address, rights, where = entry[going], address[going], rights[going], where[going]
            self.mark(words, where, entry, ACCESSED)
            table = (entry & _TABLE) >> 3
        return pending.found

    def find_some(self, words: Words, table: Int64, address: Int64, wanted: Wanted, which: Bools) -> Leaves:
        """As `find`, for some of the rows only: the others are left out, with all rights and without a fault."""
        if which.all():
            return self.find(words, table, address, wanted)
        pending, rows = Pending(len(address), RIGHTS), np.flatnonzero(which)
        if rows.size:
            pending.end(rows, self.find(words, table[rows], address[rows], wanted.part(rows)))
        return pending.found

    def _faults(
        self,
        words: Words,
        level: Level,
        top: bool,
        entry: Int64,
        readable: Bools | None,
        rights: Int64,
        pages: Bools,
        wanted: Wanted,
        rows: Int64 | None,
    ) -> Reasons:
        """The fault of each entry, or 0. Of several, the first one counts, which is assigned last here."""
        codes, reason = self.codes, np.zeros(len(entry), np.int64)
        if self.accessed_dirty and (failed := self.no_update(words)) is not None:
            # SSS.5, SSS.6: the accessed bit of an entry that points to a table cannot be set.
            reason[~pages & (entry & ACCESSED == 0)] = failed
        # LGN.2, LGN.3, SSS.2: neither permission is left, or the entry has none itself: it is not present.
        gone = rights == 0
        if gone.any():
            reason[gone] = self._absent(wanted, rows, gone)
        # LSL.2, SSS.3: a reserved bit is set in a present entry.
        reason[entry & np.where(pages, level.page, level.table) != 0] = codes.reserved
        if self._per_level:
            # LGN.2, LGN.3, SGN.6, SGN.7, before the reserved bits of the entry that lacks it (doubt D-4).
            missing = self.missing(rights, wanted, rows)
            reason = np.where(missing != 0, missing, reason)
        absent = entry & level.present == 0
        if absent.any():
            reason[absent] = self._absent(wanted, rows, absent)
        if readable is not None:
            # LCT.4, SSS.4 in the top table; LSL.1, SSS.1 below: the entry could not be read.
            reason[~readable] = codes.top_unreadable if top else codes.unreadable
        return reason

    def _absent(self, wanted: Wanted, rows: Int64 | None, which: Bools) -> Reasons | int:
        """The reasons for entries that are not present: see FaultCodes.absent."""
        if self.codes.not_present is not None:
            return self.codes.not_present
        missing = self.codes.missing
        bits = np.broadcast_to(wanted.bits(rows), len(which))[which]
        return np.where(bits & WRITE, missing[Permission.WRITE], missing[Permission.READ])

    def missing(
        self, rights: Int64, wanted: Wanted, rows: Int64 | None = None, codes: FaultCodes | None = None
    ) -> Reasons:
        """The reasons for missing permissions, or 0: see Intent.lacks."""
        missing, lacks = (codes or self.codes).missing, wanted.bits(rows) & ~rights
        reads = np.where(lacks & READ, missing[Permission.READ], 0)
        return np.where(lacks & WRITE, missing[Permission.WRITE], reads)

    def mark(self, words: Words, where: Int64, entry: Int64, bits: int) -> None:
        """Bits are to be set in these entries, if the unit sets such bits."""
        if self.accessed_dirty and words.marks:
            words.marks.add(where, entry, bits)

    def mark_leaves(self, words: Words, leaves: Leaves, through: Int64, writes: Bools) -> None:
        """The pages of these rows are used: A is to be set, and D for writes."""
        if self.accessed_dirty and words.marks and leaves.where is not None:
            self.mark(words, leaves.where[through], leaves.entry[through], ACCESSED)
            through = through[writes[through]]
            self.mark(words, leaves.where[through], leaves.entry[through], DIRTY)

    def not_updated(self, words: Words, leaves: Leaves, dirty: Bools | bool) -> Reasons | None:
        """The faults of leaves of which A, or D where `dirty`, cannot be set; None if there is none."""
        if not self.accessed_dirty or (failed := self.no_update(words)) is None:
            return None
        bits = np.where(dirty, ACCESSED | DIRTY, ACCESSED)
        return np.where(bits & ~leaves.entry, failed, 0)
