"""Scalable mode, for whole arrays: from source-id and PASID to the PASID-table entry (spec 3.4.3)."""

from __future__ import annotations

import numpy as np

from iommu.batch.arrays import NO_PASID, Bools, Int64, Uint16, Uint32
from iommu.batch.decoding import LOW, Given, Meaning, Meanings, attempt, number_of, without_detail
from iommu.batch.found import READERS, Found
from iommu.batch.walk import Reasons
from iommu.batch.ways import Ways
from iommu.batch.words import Words
from iommu.engine.caches.entries import PasidContext, ScalableContext
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import Access, DmaRequest, SourceId
from iommu.engine.translation.scalable import ScalableMode
from iommu.structures import PasidDirectoryEntry, PasidEntry, ScalableContextEntry, ScalableRootHalf

_REQUESTERS = SourceId(0, 0, 0), SourceId(0, 16, 0)
"""One that uses the lower half of a root entry, and one that uses the upper half."""
_FPD = PasidDirectoryEntry.FPD.mask
_SECOND_TABLE, _FIRST_TABLE = PasidEntry.SSPTPTR.lsb // 64, PasidEntry.FSPTPTR.lsb // 64
"""The quadwords of a PASID-table entry that hold the addresses of the stages."""


class ScalableContexts:
    """Finds the contexts of devices and PASIDs. `mode`: a copy of the unit's, which caches nothing."""

    def __init__(self, mode: ScalableMode, ways: Ways) -> None:
        self._mode, self._ways, self._given = mode, ways, Given()
        mode.access, mode.root_table = self._given, 0
        formats = self._formats = mode.formats
        reserved = formats.scalable_root.reserved
        self._roots = Meanings(
            np.tile(without_detail(ScalableRootHalf), 2),
            lambda both: reserved(both & (1 << 64) - 1) | reserved(both >> 64) << 64,
            3,
        )
        self._contexts = Meanings(without_detail(ScalableContextEntry), formats.scalable_context.reserved, 7)
        self._directories = Meanings(without_detail(PasidDirectoryEntry), formats.directory.reserved, 3)
        types = (f"PA{number}" for number in range(8))
        self._pasids = Meanings(without_detail(PasidEntry, "DID", *types), formats.pasid.reserved, 5)

    def start(self) -> None:
        """A new call begins."""
        for meanings in (self._roots, self._contexts, self._directories, self._pasids):
            meanings.start()

    def find(self, readers: READERS, root: int | Int64, source_ids: Uint16, pasids: Uint32 | None) -> Found:
        """The contexts of requests.

        Args:
            root: the root table of all, or of each, as numbers of quadwords.
            pasids: of the requests, or NO_PASID; None if none has one.
        """
        words, sources = readers[self._mode.snooped], source_ids.astype(np.int64)
        found = Found.nothing(len(sources))
        roots, table = self._read_roots(words, root, sources, found)
        rows = np.flatnonzero(found.reason == 0)
        contexts = self._read_contexts(words, table[rows], roots[rows], sources[rows])
        rid_pasid, fpd = contexts[4], contexts[1]
        found.block(rows, contexts[0], fpd)
        pasid, user = rid_pasid, contexts[5] == 0
        if pasids is not None:
            own = pasids[rows].astype(np.int64)
            explicit = own != NO_PASID
            pasid, user = np.where(explicit, own, rid_pasid), user | explicit
            refused = np.where(explicit & (contexts[0] == 0), self._refused(contexts, own), contexts[0])
            found.reason[rows] = refused
        going = np.flatnonzero(found.reason[rows] == 0)
        self._find_entries(words, found, rows[going], contexts[2][going], pasid[going], fpd[going], user[going])
        return found

    def _read_roots(self, words: Words, root: int | Int64, sources: Int64, found: Found) -> tuple[Int64, Int64]:
        """The root entries, and the context tables they lead to; what is blocked is put into `found`."""
        half = sources >> 7 & 1
        where = root + 2 * (sources >> 8)
        entries = np.column_stack((words.take(where)[0], words.take(where + 1)[0]))
        readable = words.take(where + half)[1]
        reason, fpd, table = self._roots.of(entries, half, lambda row, entry: self._root(entry, int(half[row])))
        found.block(np.arange(len(sources)), reason, fpd)
        if readable is not None and (lost := np.flatnonzero(~readable)).size:
            found.block(lost, self._root(None, 0)[0], 0)
        own = np.where(half, entries[:, 1], entries[:, 0])
        return entries, table | (own & LOW) >> 3

    def _root(self, entry: int | None, half: int) -> Meaning:
        """What a half of a root entry means: the fault reason, FPD, the context table."""
        self._given.entries = [(self._formats.scalable_root, entry)]
        reason, fpd, where = attempt(lambda: self._mode.context_of(_REQUESTERS[half]))
        return reason, fpd, where >> 3

    def _read_contexts(self, words: Words, table: Int64, roots: Int64, sources: Int64) -> Int64:
        """The meanings of context entries, as columns; the directory with its whole address."""
        half = sources >> 7 & 1
        entries, readable = words.rows(table + 4 * (sources & 0x7F), 4)

        def decode(row: int, entry: int | None) -> Meaning:
            return self._context(number_of(roots[row]), entry, int(half[row]))

        meanings = self._contexts.of(entries, None, decode)
        meanings[2] |= (entries[:, 0] & LOW) >> 3
        if readable is not None and (lost := np.flatnonzero(~readable)).size:
            meanings[:, lost] = np.array(decode(int(lost[0]), None))[:, None]
        return meanings

    def _context(self, root: int, entry: int | None, half: int) -> Meaning:
        """What a context entry means: the fault reason, FPD, the directory, its size, RID_PASID, RID_PRIV, PASIDE."""
        self._given.entries = [(self._formats.scalable_root, root), (self._formats.scalable_context, entry)]
        try:
            context = self._mode.context_of(_REQUESTERS[half])
        except Blocked as condition:
            return int(condition.reason), condition.fpd, 0, 0, 0, 0, 0
        where, size = context.directory >> 3, context.pasids
        return 0, context.fpd, where, size, context.rid_pasid, context.rid_priv, context.pasid_enabled

    def _refused(self, contexts: Int64, pasids: Int64) -> Reasons:
        """The faults of requests with a PASID that the context does not permit, or 0: see effective_pasid (7.1.3)."""
        size, rid_pasid, enabled = contexts[3], contexts[4], contexts[6]
        bits = self._mode.capabilities.pasid_bits
        conditions: list[tuple[FaultReason, Bools]] = [
            # SCT.6: a request with a PASID while PASIDs are not enabled.
            (FaultReason.SCT_6, enabled == 0),
            # SCT.7: the PASID is beyond the PASID directory.
            (FaultReason.SCT_7, pasids >= size),
            # SCT.9: the PASID is RID_PASID, which stands for requests without one.
            (FaultReason.SCT_9, pasids == rid_pasid),
            # SGN.10: the PASID has more bits than the unit supports.
            (FaultReason.SGN_10, pasids >> bits != 0),
        ]
        return np.select([which for _, which in conditions], [int(reason) for reason, _ in conditions], 0)

    def _find_entries(
        self, words: Words, found: Found, rows: Int64, directory: Int64, pasid: Int64, fpd: Int64, user: Bools
    ) -> None:
        """PASID directory and PASID table: from there on the requests at `rows` have a way, or are blocked."""
        entries, readable = words.rows(directory + (pasid >> 6), 1)

        def directory_entry(row: int, entry: int | None) -> Meaning:
            self._given.entries = [(self._formats.directory, entry)]
            reason, own, where = attempt(lambda: self._entry_of(int(fpd[row])))
            return reason, own, where >> 3

        reason, own, table = self._directories.of(entries, fpd, directory_entry)
        if readable is not None and (lost := np.flatnonzero(~readable)).size:
            for row in lost.tolist():
                reason[row], own[row], _ = directory_entry(row, None)
        found.block(rows, reason, own)
        going = np.flatnonzero(reason == 0)
        if not going.size:
            return
        rows, pasid, fpd, user, directories = rows[going], pasid[going], fpd[going], user[going], entries[going]
        entries, readable = words.rows((table[going] | (directories[:, 0] & LOW) >> 3) + 8 * (pasid & 0x3F), 8)

        def pasid_entry(row: int, entry: int | None) -> Meaning:
            self._given.entries = [
                (self._formats.directory, number_of(directories[row])),
                (self._formats.pasid, entry),
            ]
            return self._way(int(fpd[row]), user=bool(user[row]))

        # What the entry means for the record depends on the FPD bits before it.
        before = fpd | (directories[:, 0] & _FPD != 0) << 1 | user << 2
        way, first, second, reason, own = self._pasids.of(entries, before, pasid_entry)
        if readable is not None and (lost := np.flatnonzero(~readable)).size:
            for row in lost.tolist():
                way[row], _, _, reason[row], own[row] = pasid_entry(row, None)
        found.way[rows] = way
        found.first[rows] = first | (entries[:, _FIRST_TABLE] & LOW) >> 3
        found.second[rows] = second | (entries[:, _SECOND_TABLE] & LOW) >> 3
        found.block(rows, reason, own)

    def _entry_of(self, fpd: int) -> PasidContext:
        """What the unit's own code makes of the given entries, for a context with this FPD. Raises Blocked."""
        return self._mode.pasid_context_of(_context(fpd, rid_priv=0), _REQUESTERS[0], 0)

    def _way(self, fpd: int, *, user: bool) -> Meaning:
        """What the given PASID-table entry means: the way, the top tables, the fault reason, FPD."""
        mode, context = self._mode, _context(fpd, rid_priv=int(not user))
        try:
            found = self._entry_of(fpd)
        except Blocked as condition:
            return 0, 0, 0, int(condition.reason), condition.fpd

        def blocks(address: int) -> int:
            request = DmaRequest(_REQUESTERS[0], address, Access.READ, pasid=0)
            return attempt(lambda: mode.translate_by(context, found, request))[0]

        first, second = found.first, found.second
        if first is None and second is None:
            return self._ways.pass_through(blocks), 0, 0, 0, found.fpd
        if first is not None:
            intent = mode.intent(context, DmaRequest(_REQUESTERS[0], 0, Access.READ))
            reason = attempt(lambda: mode.check_request_flags(found, intent))[0]
            if reason:
                return 0, 0, 0, reason, found.fpd
        way = self._ways.stages(first, second, user=user or first is None)
        return (
            way,
            0 if first is None else first.address >> 3,
            0 if second is None else second.address >> 3,
            0,
            found.fpd,
        )


def _context(fpd: int, *, rid_priv: int) -> ScalableContext:
    """A context of which only these two matter."""
    return ScalableContext(0, 1 << 20, 1, 1, 1, 0, rid_priv, fpd)
