"""Translates whole arrays of requests by the tables as they stand in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from iommu.batch.arrays import (
    NO_ADDRESS,
    NO_PASID,
    Bools,
    Column,
    Int64,
    Requests,
    Results,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    checked,
)
from iommu.batch.followed import check_followed
from iommu.batch.found import READERS, Found
from iommu.batch.legacy import LegacyContexts
from iommu.batch.marks import Marks
from iommu.batch.reach import Reachable, reachable
from iommu.batch.scalable import ScalableContexts
from iommu.batch.ways import Ways
from iommu.batch.words import words_of
from iommu.engine.quiet import quiet_copy
from iommu.engine.reasons import Blocked
from iommu.engine.request import INTERRUPT_RANGE, Access, DmaRequest, SourceId
from iommu.engine.unit import RemappingUnit
from iommu.registers import RTADDR, TableMode

CHUNK = 1 << 15
"""Rows translated at once: what they need stays in the processor's caches."""

_FEW = 1 << 12
"""For so many requests no table of all source-ids is made."""
_TTM = RTADDR.TTM


def chunks(count: int) -> Iterator[slice]:
    """The rows, CHUNK at a time."""
    return (slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


Contexts = LegacyContexts | ScalableContexts


class BatchTranslator:
    """Translates many requests of a unit at once.

        translator = BatchTranslator(unit)
        hosts, reasons = translator.translate(source_ids, addresses, writes)

    It reads memory as it is at the call: it neither uses nor fills the caches of the unit, records no fault, and sets
    no accessed or dirty bit. It takes for granted that these bits can be set, unless the walk is not snooped or the
    memory is a FlatMemory that cannot be written. Otherwise the results are those of the unit: by its registers,
    capabilities, policy and Formats as they are at the call.

    Raises:
        MisuseError: the unit departs from the specification in a way that is not followed here; the message names it.
    """

    def __init__(self, unit: RemappingUnit) -> None:
        check_followed(unit)
        self._unit = unit
        self._parts: BatchParts | None = None

    def translate(
        self,
        source_ids: Column,
        addresses: Column,
        writes: Column,
        pasids: Column | None = None,
        roots: Column | None = None,
    ) -> tuple[Uint64, Uint8]:
        """The host address of each request, and its fault reason.

        Requests are untranslated, of one byte, and neither privileged nor for execution; without a PASID, RID_PRIV
        makes them privileged.

        Args:
            source_ids: 16-bit source-ids.
            addresses: 64-bit addresses.
            writes: whether each is a write; otherwise it is a read.
            pasids: the PASID of each, or NO_PASID; None if no request has one.
            roots: for each a value of RTADDR, mode included, as if SRTP had latched it; None for the unit's own.

        Returns:
            The host addresses, NO_ADDRESS where the request was blocked; and the fault reasons, 0 where there is
            none. A request that was blocked without a fault (a protected memory region, an address in the interrupt
            range) has NO_ADDRESS and 0.

        Raises:
            MisuseError: the arrays differ in length or hold what no request can have; the message names the row.
        """
        given = checked(source_ids, addresses, writes, pasids, roots)
        results = Results.new(len(given))
        call = Call(self.current(), given.roots)
        for rows in chunks(len(given)):
            call.translate(given.part(rows), results.part(rows))
        return results.hosts, results.reasons

    def reachable(self, source_id: SourceId | int, pasid: int | None = None) -> Reachable:
        """All that requests of a device can reach; see iommu.batch.reachable."""
        return reachable(self._unit, source_id, pasid)

    def contexts(self, source_ids: Column, roots: Column, pasids: Column | None = None) -> tuple[Bools, Bools]:
        """What the tables above the stages come to for each request: whether FPD applies, and whether they are valid.

        The arguments are as in `translate`. Requests in a mode that the unit does not have count as invalid.
        """
        none = np.zeros(len(source_ids), np.bool_)
        given = checked(source_ids, np.zeros(len(none), np.uint64), none, pasids, roots)
        assert given.roots is not None
        parts, fpd, valid = self.current(), none, none.copy()
        modes = (given.roots & np.uint64(_TTM.mask)) >> np.uint64(_TTM.lsb)
        tables = ((given.roots & np.uint64(RTADDR.RTA.mask)) >> np.uint64(3)).view(np.int64)
        for mode, contexts in parts.contexts.items():
            rows = np.flatnonzero(modes == mode)
            if rows.size:
                contexts.start()
                own = given.part(rows)
                found = contexts.find(parts.readers(), tables[rows], own.source_ids, own.pasids)
                fpd[rows], valid[rows] = found.fpd != 0, found.reason == 0
        return fpd, valid

    def current(self) -> BatchParts:
        """The parts for the unit as it is now: a reset gives it new ones."""
        if self._parts is None or self._parts.translation is not self._unit.translation:
            self._parts = BatchParts(self._unit)
        return self._parts


class BatchParts:
    """What stays from one call to the next.

    Attributes:
        translation: the unit's own.
        quiet: a copy that caches nothing.
        contexts: how each mode that the unit supports finds contexts.
    """

    def __init__(self, unit: RemappingUnit) -> None:
        self.translation = unit.translation
        self.access = unit.translation.legacy.access
        self.quiet = quiet_copy(unit.translation)
        self.ways = Ways(self.quiet)
        self.contexts: dict[int, Contexts] = {TableMode.LEGACY: LegacyContexts(self.quiet.legacy, self.ways)}
        if unit.capabilities.scalable_mode:
            self.contexts[TableMode.SCALABLE] = ScalableContexts(self.quiet.scalable, self.ways)

    def readers(self) -> READERS:
        """How to read the memory during one call."""
        unsnooped = words_of(self.access.unsnooped)
        same = self.access.snooped is self.access.unsnooped
        return unsnooped, unsnooped if same else words_of(self.access.snooped)


class Call:
    """One call. Contexts that it has found are not looked up again.

    Args:
        roots: see BatchTranslator.translate.
        marks: if given, the accessed and dirty bits that the requests set are put there.
    """

    def __init__(self, parts: BatchParts, roots: Uint64 | None, marks: Marks | None = None) -> None:
        self._parts, self._translation, self._readers = parts, parts.translation, parts.readers()
        self._marks = marks
        for reader in self._readers:
            reader.marks = marks
        for contexts in parts.contexts.values():
            contexts.start()
        if roots is None:
            self._mode: int | None = self._translation.mode
            self._root = self._translation.legacy.root_table >> 3
        elif not roots.size or (roots == roots[0]).all():
            latched = RTADDR(int(roots[0])) if roots.size else RTADDR()
            self._mode, self._root = latched.TTM, latched.RTA >> 3
        else:
            self._mode, self._root = None, 0
        self._known = _Known()

    def translate(self, given: Requests, results: Results) -> None:
        """Translate a chunk of requests; the results are new ones, and are set."""
        if not self._translation.enabled:
            results.hosts[:] = given.addresses
        elif self._mode is not None:
            self._by_mode(self._mode, self._root, given, results)
        else:
            self._by_roots(given, results)
        if self._translation.protected.ranges:
            self._protect(given, results.hosts)
        self._interrupts(given, results)

    def _by_roots(self, given: Requests, results: Results) -> None:
        """Each request has its own RTADDR."""
        assert given.roots is not None
        modes = (given.roots & np.uint64(_TTM.mask)) >> np.uint64(_TTM.lsb)
        tables = ((given.roots & np.uint64(RTADDR.RTA.mask)) >> np.uint64(3)).view(np.int64)
        for mode in np.flatnonzero(np.bincount(modes.astype(np.int64))).tolist():
            rows = np.flatnonzero(modes == mode)
            part = Results.new(len(rows))
            self._by_mode(mode, tables[rows], given.part(rows), part)
            results.put(rows, part)

    def _by_mode(self, mode: int, root: int | Int64, given: Requests, results: Results) -> None:
        """All requests are in one mode."""
        contexts, pasids = self._parts.contexts.get(mode), given.pasids
        if contexts is None:
            results.reasons[:] = self._refused(mode)
            return
        without = None if pasids is None else pasids == NO_PASID
        if pasids is None or without is None or without.all():
            self._by_contexts(contexts, root, given, None, results)
        elif isinstance(contexts, ScalableContexts) or not without.any():
            self._by_contexts(contexts, root, given, pasids, results)
        else:
            # Legacy mode takes requests of one kind at a time.
            for rows, own in ((np.flatnonzero(without), None), (np.flatnonzero(~without), pasids)):
                part = Results.new(len(rows))
                table = root if isinstance(root, int) else root[rows]
                self._by_contexts(contexts, table, given.part(rows), None if own is None else own[rows], part)
                results.put(rows, part)

    def _refused(self, mode: int) -> int:
        """The reason for which the unit refuses requests in a mode that it does not have."""
        quiet = self._parts.quiet
        quiet.mode = mode
        try:
            quiet.translate_by_mode(DmaRequest(SourceId(0, 0, 0), 0, Access.READ))
        except Blocked as condition:
            return condition.reason
        raise AssertionError(f"the unit translates in mode {mode}")

    def _by_contexts(
        self, contexts: Contexts, root: int | Int64, given: Requests, pasids: Uint32 | None, results: Results
    ) -> None:
        if not isinstance(root, int):
            found = contexts.find(self._readers, root, given.source_ids, pasids)
        elif pasids is None:
            found = self._known.find(contexts, self._readers, root, given.source_ids)
        else:
            pairs, rows = np.unique(given.source_ids.astype(np.uint64) << 32 | pasids, return_inverse=True)
            sources, own = (pairs >> 32).astype(np.uint16), pairs.astype(np.uint32)
            found = contexts.find(self._readers, root, sources, own).part(rows)
        results.fpd[:] = found.fpd
        least, most = int(found.way.min()), int(found.way.max())
        if least == most:
            if least:
                self._by_way(least, None, given.addresses, given.writes, found, results)
            else:
                results.reasons[:] = found.reason
            return
        for number in np.flatnonzero(np.bincount(found.way)).tolist():
            rows = np.flatnonzero(found.way == number)
            if not number:
                results.reasons[rows] = found.reason[rows]
                continue
            part = Results.new(len(rows))
            self._by_way(number, rows, given.addresses[rows], given.writes[rows], found.part(rows), part)
            results.hosts[rows], results.reasons[rows] = part.hosts, part.reasons

    def _by_way(
        self, number: int, rows: Int64 | None, addresses: Uint64, writes: Bools, found: Found, results: Results
    ) -> None:
        """All requests, at these rows of the chunk or at all, are translated by one way."""
        way = self._parts.ways[number]
        if self._marks:
            self._marks.order = np.arange(len(addresses)) if rows is None else rows
        hosts, reason = way.translate(self._readers, addresses, writes, found.first, found.second)
        results.hosts[:] = hosts
        if reason is not None:
            np.copyto(results.hosts, np.uint64(NO_ADDRESS), where=reason != 0)
            results.reasons[:] = reason

    def _protect(self, given: Requests, hosts: Uint64) -> None:
        """Block host addresses in protected regions: no fault is recorded (spec 11.4.8)."""
        protected = np.zeros(len(hosts), np.bool_)
        for first, last in self._translation.protected.ranges:
            protected |= (hosts >= np.uint64(first)) & (hosts <= np.uint64(last))
        if self._translation.enabled and not self._translation.protects_remapped:
            protected &= hosts == given.addresses
        hosts[protected] = NO_ADDRESS

    def _interrupts(self, given: Requests, results: Results) -> None:
        """Requests for the interrupt range are not translated, whatever the tables say (spec 3.14)."""
        inside = given.addresses >> np.uint64(20) == INTERRUPT_RANGE
        if given.pasids is not None and self._translation.enabled:
            inside &= given.pasids == NO_PASID
        if inside.any():
            rows = np.flatnonzero(inside)
            results.hosts[rows], results.fpd[rows] = NO_ADDRESS, 0
            results.reasons[rows] = self._translation.interrupts.refusal() or 0


class _Known:
    """The contexts of source-ids that a call has looked up, for requests without a PASID and one root table."""

    def __init__(self) -> None:
        self._single: dict[int, Found] = {}
        self._is_known = np.zeros(0, np.bool_)
        self._found = Found.nothing(0)

    def find(self, contexts: Contexts, readers: READERS, root: int, source_ids: Uint16) -> Found:
        """The contexts of requests; only one if all have the same source-id."""
        first = int(source_ids[0])
        if (source_ids == first).all():
            if first not in self._single:
                self._single[first] = contexts.find(readers, root, source_ids[:1], None)
            return self._single[first]
        if not self._is_known.size and len(source_ids) <= _FEW:
            own, rows = np.unique(source_ids, return_inverse=True)
            return contexts.find(readers, root, own, None).part(rows)
        if not self._is_known.size:
            self._is_known, self._found = np.zeros(1 << 16, np.bool_), Found.nothing(1 << 16)
        sources = source_ids.astype(np.int64)
        if not self._is_known.take(sources).all():
            new = np.zeros(1 << 16, np.bool_)
            new[sources] = True
            rows = np.flatnonzero(new & ~self._is_known)
            self._found.put(rows, contexts.find(readers, root, rows.astype(np.uint16), None))
            self._is_known[rows] = True
        return self._found.part(sources)
