"""The first-stage walk, for whole arrays (spec 3.6, 9.7), alone or nested in a second stage (spec 3.8)."""

from __future__ import annotations

import numpy as np

from iommu.batch.arrays import Bools, Int64
from iommu.batch.second_stage import ACCESSED, READ, WRITE, SecondStageWalk
from iommu.batch.walk import Leaves, Level, Pending, Reasons, Wanted, faults_at, first_of
from iommu.batch.words import Words
from iommu.engine.caches.page import Permission
from iommu.engine.caches.tables import FirstStageRoot
from iommu.engine.reasons import FaultReason
from iommu.engine.translation.first_stage import FirstStage
from iommu.structures import FirstStageEntry, FirstStageTable

_ACCESSED, _DIRTY, _EXTENDED = FirstStageEntry.A.mask, FirstStageEntry.D.mask, FirstStageEntry.EA.mask
_USER, _WRITE = FirstStageEntry.US.mask, FirstStageEntry.RW.mask
RIGHTS = _USER | _WRITE
_TABLE = FirstStageTable.ADDR.mask


class FirstStageWalk:
    """Walks the first stages that have the levels, formats and flags of `tables`; its address does not matter.

    Args:
        second: if nested, the walk of the second stage.
        user: whether the requests are not privileged.
    """

    def __init__(
        self, stage: FirstStage, tables: FirstStageRoot, second: SecondStageWalk | None, *, user: bool
    ) -> None:
        self.bits, self.codes, self.second = stage.address_bits(tables), tables.codes, second
        self._per_level = stage.policy.permission_per_level
        self._levels = [Level(each) for each in tables.formats[tables.levels : 0 : -1]]
        self.snooped, self._user = bool(tables.snooped), user
        self._used = _ACCESSED | (_EXTENDED if tables.extended else 0)
        # A supervisor may write read-only pages without WPE.
        self._writing = (_USER if user else 0) | (_WRITE if user or tables.write_protect else 0)
        # With SSADE, reading a table needs write permission too (3.8.1).
        needs = READ | (WRITE if second is not None and second.accessed_dirty else 0)
        self._reads_table = Wanted(None, 0, 0, needs)

    def wanted(self, writes: Bools) -> Wanted:
        """The permissions that requests need."""
        return Wanted(writes, _USER if self._user else 0, self._writing)

    def find(self, words: Words, table: Int64, second_table: Int64, address: Int64, writes: Bools) -> Leaves:
        """The pages that the first stage gives; nested, `host` is a guest address.

        Args:
            table, second_table: the top tables of each walk, as numbers of quadwords.
            address: canonical addresses.
        """
        pending, wanted, rights = Pending(len(address), RIGHTS), self.wanted(writes), None
        for number, level in enumerate(self._levels):
            if not address.size:
                break
            where, top = table + (address >> level.shift & 0x1FF), not number
            under = None if self.second is None else self._locate(words, where, second_table, top)
            where = where if under is None else under.host >> 3
            entry, readable = words.take(where)
            failing = self._failing(words, under)
            if readable is None and (under is None or under.reason is None):
                every, some = int(np.bitwise_and.reduce(entry)), int(np.bitwise_or.reduce(entry))
                if every & level.present and every & RIGHTS == RIGHTS:
                    used = failing is None or not self._used & ~every
                    if used and level.are_tables(some) and not some & level.table:
                        self._mark(words, pending.rows, under, where, entry)
                        table = (entry & _TABLE) >> 3
                        continue
                    checked = failing is None and rights is None
                    if checked and level.are_pages(every) and not some & level.page:
                        host = entry & level.address | address & level.offset
                        return pending.all_end(_leaves(words, under, host, None, entry, where))
            rights = entry & RIGHTS if rights is None else rights & entry
            pages = level.pages(entry)
            dirty = _DIRTY * (pages & (writes if pending.rows is None else writes[pending.rows]))
            update = None if failing is None else np.where((self._used | dirty) & ~entry, failing, np.uint8(0))
            reason = self._faults(level, entry, rights, pages, wanted.bits(pending.rows), update)
            if readable is not None:
                # SFS.4 in the top table, SFS.1 below: the entry could not be read.
                reason[~readable] = self.codes.top_unreadable if top else self.codes.unreadable
            if under is not None and under.reason is not None:
                reason = np.where(under.reason != 0, under.reason, reason)
            ends = pages | (reason != 0)
            if ends.any():
                blocked = np.flatnonzero(reason)
                pending.block(blocked, reason[blocked])
                mapped = np.flatnonzero(pages & (reason == 0))
                host = entry[mapped] & level.address | address[mapped] & level.offset
                late = None if update is None else update[mapped]
                found = _leaves(
                    words,
                    None if under is None else under.part(mapped),
                    host,
                    rights[mapped],
                    entry[mapped],
                    where[mapped],
                )
                pending.end(mapped, found._replace(late=late))
                going = np.flatnonzero(~ends)
                pending.rows = pending.at(going)
                entry, where, under = entry[going], where[going], None if under is None else under.part(going)
                address, rights, second_table = address[going], rights[going], second_table[going]
            self._mark(words, pending.rows, under, where, entry)
            table = (entry & _TABLE) >> 3
        return pending.found

    def _mark(self, words: Words, rows: Int64 | None, under: Leaves | None, where: Int64, entry: Int64) -> None:
        """Entries that point to tables are used: A is to be set, and EA where it is on."""
        if words.marks:
            rows = np.arange(len(where)) if rows is None else rows
            words.marks.add_first_stage(
                rows, where, entry, self._used, self._dirties(None if under is None else under.where)
            )

    def mark_leaves(self, words: Words, leaves: Leaves, through: Int64, writes: Bools) -> None:
        """The pages of these rows are used: A is to be set, EA where it is on, and D for writes."""
        if words.marks and leaves.where is not None and leaves.entry is not None:
            for rows, bits in ((through, self._used), (through[writes[through]], _DIRTY)):
                under = None if leaves.under is None else leaves.under[rows]
                words.marks.add_first_stage(rows, leaves.where[rows], leaves.entry[rows], bits, self._dirties(under))

    def _dirties(self, under: Int64 | None) -> Int64 | None:
        """The second-stage entries that an update makes dirty."""
        return under if self.second is not None and self.second.accessed_dirty else None

    def _locate(self, words: Words, where: Int64, second_table: Int64, top: bool) -> Leaves:
        """Where the entries with these guest addresses are, in quadwords: the second stage translates them (3.8)."""
        second = self.second
        assert second is not None
        # SFS.5: the first-stage table is beyond the guest address width.
        within = where >> second.bits - 3 == 0
        leaves = second.find_some(words, second_table, where << 3, self._reads_table, within)
        # SFS.6 for the top table, SFS.7 below: the second stage does not permit to read the table.
        unreadable = FaultReason.SFS_6 if top else FaultReason.SFS_7
        reason = leaves.reason
        if reason is not None:
            reason[(reason == FaultReason.SGN_6) | (reason == FaultReason.SGN_7)] = unreadable
        if leaves.rights is not None:
            lacking = self._reads_table.bits() & ~leaves.rights != 0
            reason = first_of(reason, faults_at(lacking, unreadable))
        reason = first_of(reason, second.not_updated(words, leaves, dirty=False))
        if not within.all():
            reason = np.where(within, leaves.faulty() if reason is None else reason, np.uint8(FaultReason.SFS_5))
        if words.marks and leaves.where is not None and leaves.entry is not None:
            through = np.flatnonzero(leaves.faulty() == 0 if reason is None else reason == 0)
            second.mark(words, leaves.where[through], leaves.entry[through], ACCESSED)
        return leaves._replace(reason=reason)

    def _failing(self, words: Words, under: Leaves | None) -> Reasons | None:
        """The fault of each entry if it needs an update, or 0; None if all entries can be updated."""
        second = self.second
        if self.snooped and words.writable and (under is None or under.rights is None):
            return None
        count = 1 if under is None else len(under.host)
        failing = np.zeros(count, np.uint8)
        if not words.writable:
            # SFS.10: the entry could not be updated.
            failing[:] = FaultReason.SFS_10
        if second is not None and under is not None:
            # SSS.5, SSS.6: for the second stage, the update is a write to the page that holds the table.
            used = None if under.entry is None else under.entry | ACCESSED
            second_fault = second.not_updated(words, under._replace(entry=used), dirty=True)
            if second_fault is not None:
                failing = np.where(second_fault != 0, second_fault, failing)
            if under.rights is not None:
                # SFS.8: the second stage gives no write permission for the table.
                failing[under.rights & WRITE == 0] = FaultReason.SFS_8
        if not self.snooped:
            # SFS.9: the walk is not snooped.
            failing[:] = FaultReason.SFS_9
        return failing

    def _faults(
        self, level: Level, entry: Int64, rights: Int64, pages: Bools, wanted: Int64 | int, update: Reasons | None
    ) -> Reasons:
        """The fault of each entry, or 0. Of several, the first one counts, which is assigned last here."""
        reason = np.zeros(len(entry), np.uint8)
        if update is not None:
            # SFS.8 to SFS.10, SSS.5, SSS.6: the accessed bit of an entry that points to a table cannot be set.
            reason = np.where(pages, np.uint8(0), update)
        # SGN.2, SGN.6: at the page, for all levels.
        missing = self.missing(rights, wanted)
        reason = np.where(pages & (missing != 0), missing, reason)
        # SFS.3: a reserved bit is set in a present entry.
        reason[entry & np.where(pages, level.page, level.table) != 0] = FaultReason.SFS_3
        if self._per_level:
            # SGN.2, SGN.6, before the reserved bits of the entry (doubt D-4).
            reason = np.where(missing != 0, missing, reason)
        # SFS.2: the entry is not present, and all its other bits are ignored.
        reason[entry & level.present == 0] = FaultReason.SFS_2
        return reason

    def missing(self, rights: Int64, wanted: Int64 | int) -> Reasons:
        """The reasons for missing permissions, or 0: see Intent.lacks. What is present is readable."""
        lacks, missing = wanted & ~rights, self.codes.missing
        writes = faults_at(lacks & _WRITE != 0, missing[Permission.WRITE])
        return np.where(lacks & _USER, np.uint8(missing[Permission.USER]), writes)


def _leaves(
    words: Words, under: Leaves | None, host: Int64, rights: Int64 | None, entry: Int64, where: Int64
) -> Leaves:
    """Walks that end with a page; `under`: the second-stage leaves of the tables that hold the entries."""
    leaves = Leaves(host, rights, entry, None)
    if not words.marks:
        return leaves
    leaves = leaves._replace(where=where)
    return leaves if under is None else leaves._replace(under=under.where)
