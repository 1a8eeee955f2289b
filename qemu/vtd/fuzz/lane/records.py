"""What a fault leaves in the fault recording register, for whole arrays of faults.

The unit itself says what it records: it is asked once for each reason and access, and the rest follows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from iommu import Access, DmaRequest, FaultReason, RemappingUnit, SourceId
from iommu.engine.reasons import Blocked
from iommu.registers import FRCD
from qemu.vtd.fuzz.lane.areas import Words

_LOW = (1 << 64) - 1
_ADDRESSES = 0, _LOW & ~0xFFF


class Records(NamedTuple):
    """Fault recording registers: bits 127:64 and 63:0; 0 where nothing was recorded."""

    high: Words
    low: Words

    def where(self, chosen: NDArray[np.bool_], other: Records) -> Records:
        """These where chosen, the others elsewhere."""
        return Records(np.where(chosen, self.high, other.high), np.where(chosen, self.low, other.low))


class Faults(NamedTuple):
    """Why requests are blocked.

    Attributes:
        reasons: 0 for those that are not.
        fpd: FPD applies.
        valid: the tables above the stages are in order.
    """

    reasons: NDArray[np.uint8]
    fpd: NDArray[np.bool_]
    valid: NDArray[np.bool_]


class Recorder:
    """What a unit records for requests of one device.

    Args:
        units: two units that nothing else uses: in the first the device has no valid tables, in the second it has.
        source_id: the device.
    """

    def __init__(self, units: tuple[RemappingUnit, RemappingUnit], source_id: SourceId) -> None:
        self._source_id = source_id
        shape = 2, 2, 256
        self._recorded = np.zeros((2, *shape), np.bool_)
        self._high, self._low, self._address = (np.zeros(shape, np.uint64) for _ in range(3))
        for valid, unit in enumerate(units):
            for reason in FaultReason:
                if not reason.name.startswith("IR_"):
                    for write in (0, 1):
                        self._ask(unit, (valid, write, reason))

    def _ask(self, unit: RemappingUnit, where: tuple[int, int, FaultReason]) -> None:
        for fpd in (1, 0):
            records = [self._record(unit, where, fpd, address) for address in _ADDRESSES]
            self._recorded[fpd, *where] = any(records)
        without, full = records
        self._high[where] = without >> 64
        self._low[where] = without & _LOW
        self._address[where] = (without ^ full) & _LOW

    def _record(self, unit: RemappingUnit, where: tuple[int, int, FaultReason], fpd: int, address: int) -> int:
        """The register after this fault; 0 if it was not recorded."""
        _, write, reason = where
        offset = unit.capabilities.fault_record_offset
        request = DmaRequest(self._source_id, address, Access.WRITE if write else Access.READ)
        unit.translation.report(Blocked(reason, fpd), request)
        found = [unit.mmio_read(offset + at, 8) for at in (0, 8)]
        unit.mmio_write(offset + 12, FRCD.F.mask >> 96, 4)
        record = found[0] | found[1] << 64
        return record if FRCD.F.get(record) else 0

    def records(self, faults: Faults, writes: NDArray[np.bool_], addresses: Words) -> Records:
        """The record of each request, as the only fault that is pending; none where the reason is 0."""
        where = faults.valid.astype(np.int64), writes.astype(np.int64), faults.reasons
        recorded = self._recorded[faults.fpd.astype(np.int64), *where]
        low = self._low[where] | addresses & self._address[where]
        return Records(np.where(recorded, self._high[where], 0), np.where(recorded, low, 0))
