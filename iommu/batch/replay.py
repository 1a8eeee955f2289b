"""Replays a stream of requests: faults are recorded, and accessed and dirty bits set, as the unit does it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from iommu.batch.arrays import NO_ADDRESS, NO_PASID, Bools, Column, Int64, Requests, Results, Uint8, Uint64, checked
from iommu.batch.marks import Marks
from iommu.batch.translator import BatchTranslator, Call, chunks
from iommu.engine.quiet import uncached_copy
from iommu.engine.reasons import Blocked, FaultReason
from iommu.engine.request import Access, DmaRequest, SourceId
from iommu.engine.unit import RemappingUnit
from iommu.errors import MemoryAccessError
from iommu.structures import SecondStageEntry


@dataclass
class Statistics:
    """How requests have ended.

    Attributes:
        requests: how many there were.
        translated: those that reached memory.
        faults: those that were blocked, by reason.
        dropped: those that were blocked without a fault: a protected region, or the interrupt range.
        recorded: the faults that were recorded.
        suppressed: the faults that were not, because of FPD.
        lost: the faults that were not, because the registers were full, or for compression.
        marked: table entries whose accessed or dirty bits were set. One is counted again for each chunk of requests
            that sets more of them.
    """

    requests: int = 0
    translated: int = 0
    faults: dict[FaultReason, int] = field(default_factory=dict)
    dropped: int = 0
    recorded: int = 0
    suppressed: int = 0
    lost: int = 0
    marked: int = 0

    def count(self, results: Results) -> None:
        """Add requests."""
        translated = int(np.count_nonzero(results.hosts != NO_ADDRESS))
        by_reason = np.bincount(results.reasons, minlength=256)
        self.requests += len(results.hosts)
        self.translated += translated
        self.dropped += int(by_reason[0]) - translated
        for code in np.flatnonzero(by_reason[1:]) + 1:
            reason = FaultReason(int(code))
            self.faults[reason] = self.faults.get(reason, 0) + int(by_reason[code])


class Replay:
    """Requests of one unit, in the order in which its devices send them.

        replay = Replay(unit)
        hosts, reasons = replay.run(source_ids, addresses, writes)
        print(replay.statistics)

    Each request is handled as if nothing were cached. Faults go to the unit's own fault recording registers, in
    order; software may clear them between two calls. Accessed and dirty bits are set in memory: nobody else may
    write the tables meanwhile, unless the memory has its own `compare_exchange`. Requests of one chunk do not see the
    bits that others of it set: these decide nothing, unless a table serves as a table of another kind as well.

    Attributes:
        statistics: of all requests so far.

    Raises:
        MisuseError: as BatchTranslator.
    """

    def __init__(self, unit: RemappingUnit) -> None:
        self._translator = BatchTranslator(unit)
        self._unit = unit
        self.statistics = Statistics()

    def run(
        self, source_ids: Column, addresses: Column, writes: Column, pasids: Column | None = None
    ) -> tuple[Uint64, Uint8]:
        """Replay requests; arguments, results and errors are those of BatchTranslator.translate."""
        given = checked(source_ids, addresses, writes, pasids)
        results = Results.new(len(given))
        marks = Marks()
        memory = self._unit.translation.legacy.access.memory
        for rows in chunks(len(given)):
            part, own = given.part(rows), results.part(rows)
            Call(self._translator.current(), None, marks).translate(part, own)
            try:
                self.statistics.marked += marks.store(memory, SecondStageEntry.D.mask)
            except MemoryAccessError:
                # Not every entry can be written: that is a fault of some of the requests.
                self._one_by_one(part, own)
            else:
                self._report(part, own)
            self.statistics.count(own)
        return results.hosts, results.reasons

    def _report(self, given: Requests, results: Results) -> None:
        """Report the faults of a chunk, in order. Nothing is recorded any more once the registers have overflowed."""
        faults, compresses = self._unit.faults, self._unit.policy.compress_faults
        rows = np.flatnonzero(results.reasons)
        suppressed = self._is_suppressed(results, rows)
        self.statistics.suppressed += int(np.count_nonzero(suppressed))
        rows = rows[~suppressed]
        while rows.size and not faults.overflowed:
            row, rows = int(rows[0]), rows[1:]
            if self._report_one(_request(given, row), int(results.reasons[row]), int(results.fpd[row])):
                self.statistics.recorded += 1
            else:
                self.statistics.lost += 1
            if compresses and faults.is_pending(int(given.source_ids[row])):
                others = given.source_ids[rows] != given.source_ids[row]
                self.statistics.lost += int(np.count_nonzero(~others))
                rows = rows[others]
        self.statistics.lost += len(rows)

    def _is_suppressed(self, results: Results, rows: Int64) -> Bools:
        """Which faults FPD keeps from being recorded (spec 7.1.3)."""
        qualified = np.zeros(256, np.bool_)
        for code in np.flatnonzero(np.bincount(results.reasons[rows], minlength=256)).tolist():
            qualified[code] = self._unit.faults.is_qualified(FaultReason(code))
        return np.logical_and(results.fpd[rows], qualified[results.reasons[rows]])

    def _report_one(self, request: DmaRequest, reason: int, fpd: int) -> bool:
        """Report one fault. Returns whether it was recorded."""
        translation = self._unit.translation
        if translation.is_for_interrupts(request):
            return self._unit.faults.report_interrupt(FaultReason(reason), request.source_id, 0, 0)
        return translation.report(Blocked(FaultReason(reason), fpd), request)

    def _one_by_one(self, given: Requests, results: Results) -> None:
        """Handle a chunk by the scalar engine."""
        translation = uncached_copy(self._unit.translation)
        for row in range(len(given)):
            outcome = translation.translate(_request(given, row))
            results.hosts[row] = NO_ADDRESS if outcome.host_address is None else outcome.host_address
            results.reasons[row] = outcome.fault or 0
            self.statistics.recorded += outcome.recorded
            if outcome.fault and not outcome.recorded:
                if self._is_suppressed(results, np.array([row])).any():
                    self.statistics.suppressed += 1
                else:
                    self.statistics.lost += 1


def _request(given: Requests, row: int) -> DmaRequest:
    """One request, for the scalar engine."""
    pasid = NO_PASID if given.pasids is None else int(given.pasids[row])
    return DmaRequest(
        SourceId.of(int(given.source_ids[row])),
        int(given.addresses[row]),
        Access.WRITE if given.writes[row] else Access.READ,
        pasid=None if pasid == NO_PASID else pasid,
    )
