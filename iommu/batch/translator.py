"""Translates whole arrays of requests by the tables as they stand in memory."""

from __future__ import annotations

import numpy as np

from iommu.batch.arrays import (
    NO_ADDRESS,
    NO_PASID,
    Bools,
    Column,
    Int64,
    Requests,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    checked,
)
from iommu.batch.followed import check_followed
from iommu.batch.found import READERS, Found
from iommu.batch.legacy import LegacyContexts
from iommu.batch.scalable import ScalableContexts
from iommu.batch.ways import Ways
from iommu.batch.words import words_of
from iommu.engine.quiet import quiet_copy
from iommu.engine.reasons import Blocked
from iommu.engine.request import INTERRUPT_RANGE, Access, DmaRequest, SourceId
from iommu.engine.unit import RemappingUnit
from iommu.registers import RTADDR, TableMode

CHUNK = 1 << 14
"""Rows translated at once: what they need stays in the processor's caches."""

_TTM = RTADDR.TTM
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
        self._parts: _Parts | None = None

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
        hosts, reasons = np.empty(len(given), np.uint64), np.zeros(len(given), np.uint8)
        call = Call(self._current(), given.roots)
        for start in range(0, len(given), CHUNK):
            part = slice(start, start + CHUNK)
            call.translate(given.part(part), hosts[part], reasons[part])
        return hosts, reasons

    def contexts(self, source_ids: Column, roots: Column, pasids: Column | None = None) -> tuple[Bools, Bools]:
        """What the tables above the stages come to for each request: whether FPD applies, and whether they are valid.

        The arguments are as in `translate`. Requests in a mode that the unit does not have count as invalid.
        """
        none = np.zeros(len(source_ids), np.bool_)
        given = checked(source_ids, np.zeros(len(none), np.uint64), none, pasids, roots)
        assert given.roots is not None
        parts, fpd, valid = self._current(), none, none.copy()
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

    def _current(self) -> _Parts:
        """The parts for the unit as it is now: a reset gives it new ones."""
        if self._parts is None or self._parts.translation is not self._unit.translation:
            self._parts = _Parts(self._unit)
        return self._parts


class _Parts:
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
    """One call. Contexts that it has found are not looked up again."""

    def __init__(self, parts: _Parts, roots: Uint64 | None) -> None:
        self._parts, self._translation, self._readers = parts, parts.translation, parts.readers()
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

    def translate(self, given: Requests, hosts: Uint64, reasons: Uint8) -> None:
        """Translate a chunk of requests; the results are stored in the two arrays."""
        if not self._translation.enabled:
            hosts[:] = given.addresses
        elif self._mode is not None:
            self._by_mode(self._mode, self._root, given, hosts, reasons)
        else:
            self._by_roots(given, hosts, reasons)
        if self._translation.protected.ranges:
            self._protect(given, hosts)
        self._interrupts(given, hosts, reasons)

    def _by_roots(self, given: Requests, hosts: Uint64, reasons: Uint8) -> None:
        """Each request has its own RTADDR."""
        assert given.roots is not None
        modes = (given.roots & np.uint64(_TTM.mask)) >> np.uint64(_TTM.lsb)
        tables = ((given.roots & np.uint64(RTADDR.RTA.mask)) >> np.uint64(3)).view(np.int64)
        for mode in np.flatnonzero(np.bincount(modes.astype(np.int64))).tolist():
            rows = np.flatnonzero(modes == mode)
            host, reason = hosts[rows], reasons[rows]
            self._by_mode(mode, tables[rows], given.part(rows), host, reason)
            hosts[rows], reasons[rows] = host, reason

    def _by_mode(self, mode: int, root: int | Int64, given: Requests, hosts: Uint64, reasons: Uint8) -> None:
        """All requests are in one mode."""
        contexts = self._parts.contexts.get(mode)
        if contexts is None:
            hosts[:], reasons[:] = NO_ADDRESS, self._refused(mode)
            return
        pasids = given.pasids
        without = None if pasids is None else pasids == NO_PASID
        if pasids is None or without is None or without.all():
            self._by_contexts(contexts, root, given, None, hosts, reasons)
        elif isinstance(contexts, ScalableContexts) or not without.any():
            self._by_contexts(contexts, root, given, pasids, hosts, reasons)
        else:
            # Legacy mode takes requests of one kind at a time.
            for rows, own in ((np.flatnonzero(without), None), (np.flatnonzero(~without), pasids)):
                host, reason = hosts[rows], reasons[rows]
                part = root if isinstance(root, int) else root[rows]
                self._by_contexts(contexts, part, given.part(rows), None if own is None else own[rows], host, reason)
                hosts[rows], reasons[rows] = host, reason

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
        self,
        contexts: Contexts,
        root: int | Int64,
        given: Requests,
        pasids: Uint32 | None,
        hosts: Uint64,
        reasons: Uint8,
    ) -> None:
        if isinstance(root, int) and pasids is None:
            way, first, second, reason = self._known.find(contexts, self._readers, root, given.source_ids)
        else:
            found = contexts.find(self._readers, root, given.source_ids, pasids)
            way, first, second, reason = found.way, found.first, found.second, found.reason
        least, most = int(way.min()), int(way.max())
        if least == most and least:
            self._by_way(least, given.addresses, given.writes, first, second, hosts, reasons)
            return
        for number in np.flatnonzero(np.bincount(way)).tolist():
            rows = np.flatnonzero(way == number)
            if not number:
                hosts[rows], reasons[rows] = NO_ADDRESS, reason[rows]
                continue
            host, fault = np.empty(len(rows), np.uint64), np.zeros(len(rows), np.uint8)
            self._by_way(number, given.addresses[rows], given.writes[rows], first[rows], second[rows], host, fault)
            hosts[rows], reasons[rows] = host, fault

    def _by_way(
        self,
        number: int,
        addresses: Uint64,
        writes: Bools,
        first: Int64,
        second: Int64,
        hosts: Uint64,
        reasons: Uint8,
    ) -> None:
        """All requests are translated by one way."""
        found, reason = self._parts.ways[number].translate(self._readers, addresses, writes, first, second)
        hosts[:] = found
        if reason is not None:
            hosts[reason != 0] = NO_ADDRESS
            reasons[:] = reason

    def _protect(self, given: Requests, hosts: Uint64) -> None:
        """Block host addresses in protected regions: no fault is recorded (spec 11.4.8)."""
        protected = np.zeros(len(hosts), np.bool_)
        for first, last in self._translation.protected.ranges:
            protected |= (hosts >= np.uint64(first)) & (hosts <= np.uint64(last))
        if self._translation.enabled and not self._translation.protects_remapped:
            protected &= hosts == given.addresses
        hosts[protected] = NO_ADDRESS

    def _interrupts(self, given: Requests, hosts: Uint64, reasons: Uint8) -> None:
        """Requests for the interrupt range are not translated, whatever the tables say (spec 3.14)."""
        inside = given.addresses >> np.uint64(20) == INTERRUPT_RANGE
        if given.pasids is not None and self._translation.enabled:
            inside &= given.pasids == NO_PASID
        rows = np.flatnonzero(inside)
        if rows.size:
            hosts[rows], reasons[rows] = NO_ADDRESS, self._translation.interrupts.refusal() or 0


class _Known:
    """The contexts of source-ids that a call has looked up, for requests without a PASID and one root table."""

    def __init__(self) -> None:
        self._is_known = np.zeros(1 << 16, np.bool_)
        self._found = Found.nothing(1 << 16)

    def find(
        self, contexts: Contexts, readers: READERS, root: int, source_ids: Uint16
    ) -> tuple[Int64, Int64, Int64, Int64]:
        """See Found: way, first, second, reason."""
        known = self._is_known.take(source_ids)
        if not known.all():
            new = np.zeros(1 << 16, np.bool_)
            new[source_ids] = True
            rows = np.flatnonzero(new & ~self._is_known)
            self._found.put(rows, contexts.find(readers, root, rows.astype(np.uint16), None))
            self._is_known[rows] = True
        way, first, second, reason, _ = self._found
        return way.take(source_ids), first.take(source_ids), second.take(source_ids), reason.take(source_ids)
