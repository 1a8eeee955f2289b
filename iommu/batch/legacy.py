"""Legacy mode, for whole arrays: from the source-id to the context entry (spec 3.4.2)."""

from __future__ import annotations

import numpy as np

from iommu.batch.arrays import Int64, Uint16, Uint32
from iommu.batch.decoding import LOW, Given, Meaning, Meanings, attempt, number_of, without_detail
from iommu.batch.found import READERS, Found
from iommu.batch.ways import Ways
from iommu.engine.caches.entries import CachedContext
from iommu.engine.reasons import Blocked
from iommu.engine.request import Access, DmaRequest, SourceId
from iommu.engine.translation.legacy import LegacyMode
from iommu.structures import ContextEntry, RootEntry, TranslationType

_NOBODY = SourceId(0, 0, 0)


class LegacyContexts:
    """Finds the contexts of devices. `mode`: a copy of the unit's, which caches nothing."""

    def __init__(self, mode: LegacyMode, ways: Ways) -> None:
        self._mode, self._ways, self._given = mode, ways, Given()
        mode.access, mode.root_table = self._given, 0
        formats = mode.formats
        self._roots = Meanings(without_detail(RootEntry), formats.root.reserved, 3)
        self._contexts = Meanings(without_detail(ContextEntry, "DID", "AVAIL"), formats.context.reserved, 4)
        self._refused = attempt(lambda: mode.translate(DmaRequest(_NOBODY, 0, Access.READ, pasid=0)))
        self._snooped = mode.snooped

    def start(self) -> None:
        """A new call begins."""
        self._roots.start()
        self._contexts.start()

    def find(self, readers: READERS, root: int | Int64, source_ids: Uint16, pasids: Uint32 | None) -> Found:
        """The contexts of requests.

        Args:
            root: the root table of all, or of each, as numbers of quadwords.
            pasids: of requests that have one. Legacy mode refuses them.
        """
        count = len(source_ids)
        found = Found.nothing(count)
        if pasids is not None:
            found.block(np.arange(count), self._refused[0], self._refused[1])
            return found
        words = readers[self._snooped]
        sources = source_ids.astype(np.int64)
        entries, readable = words.rows(root + 2 * (sources >> 8), 2)
        reason, fpd, where = self._roots.of(entries, None, self._root)
        if readable is not None:
            reason[~readable] = self._unreadable_root()[0]
        found.reason[:], found.fpd[:] = reason, fpd
        going = np.flatnonzero(reason == 0)
        if not going.size:
            return found
        table = where[going] | (entries[going, 0] & LOW) >> 3
        roots = entries[going]
        entries, readable = words.rows(table + 2 * (sources[going] & 0xFF), 2)
        way, top, reason, fpd = self._contexts.of(
            entries,
            None,
            lambda row, entry: self._context(number_of(roots[row]), entry),
        )
        top = top | (entries[:, 0] & LOW) >> 3
        if readable is not None and (lost := np.flatnonzero(~readable)).size:
            way[lost], _, reason[lost], fpd[lost] = self._context(number_of(roots[lost[0]]), None)
        found.way[going], found.second[going], found.reason[going], found.fpd[going] = way, top, reason, fpd
        return found

    def _root(self, _row: int, entry: int) -> Meaning:
        """What a root entry means: the fault reason, FPD, the context table."""
        formats = self._mode.formats
        self._given.entries = [(formats.root, entry)]
        reason, fpd, where = attempt(lambda: self._mode.context_entry(_NOBODY))
        return reason, fpd, where >> 3

    def _unreadable_root(self) -> Meaning:
        self._given.entries = [(self._mode.formats.root, None)]
        return attempt(lambda: self._mode.context_entry(_NOBODY))

    def _context(self, root: int, entry: int | None) -> Meaning:
        """What a context entry means: the way, the top table, the fault reason, FPD. `root` has led to it."""
        mode, formats = self._mode, self._mode.formats
        self._given.entries = [(formats.root, root), (formats.context, entry)]
        request = DmaRequest(_NOBODY, 0, Access.READ)
        try:
            context = mode.context_of(request)
        except Blocked as condition:
            return 0, 0, int(condition.reason), condition.fpd
        if context.translation_type is TranslationType.PASS_THROUGH:
            return *self._pass_through(context), context.fpd
        return self._ways.stages(None, context.tables, user=True), context.tables.address >> 3, 0, context.fpd

    def _pass_through(self, context: CachedContext) -> tuple[int, int, int]:
        """The way, no table, and the fault reason."""

        def blocks(address: int) -> int:
            return attempt(lambda: self._mode.translate_by(context, DmaRequest(_NOBODY, address, Access.READ)))[0]

        reason = blocks(0)
        return (0, 0, reason) if reason else (self._ways.pass_through(blocks), 0, 0)
