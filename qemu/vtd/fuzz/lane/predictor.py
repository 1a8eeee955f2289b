"""What the engine expects of a batch: by the batch engine, with those of a QEMU's quirks that it follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iommu import Capabilities, FlatMemory, RemappingUnit, SourceId
from iommu.batch import BatchTranslator
from iommu.batch.followed import departures
from iommu.registers import GCMD, RTADDR
from qemu.vtd.fuzz.lane.effects import Writes
from qemu.vtd.fuzz.lane.records import Faults, Recorder, Records
from qemu.vtd.fuzz.lane.worlds import Worlds
from qemu.vtd.quirks import POLICY, Quirk, quirks_of, unit_with
from qemu.vtd.quirks.quirk import Version

NOWHERE = ~np.uint64(0)


def followed(version: Version, capabilities: Capabilities) -> tuple[list[type[Quirk]], list[type[Quirk]]]:
    """A QEMU's quirks that the batch engine follows, and those that it leaves to the scalar engine."""
    follows: tuple[list[type[Quirk]], list[type[Quirk]]] = ([], [])
    for quirk in quirks_of(version):
        unit = unit_with([quirk])(FlatMemory(8), capabilities, POLICY)
        follows[bool(departures(unit))].append(quirk)
    return follows


@dataclass
class Expected:
    """What is expected of a batch.

    Attributes:
        reasons: the fault of each case's write, or of its read if that came first; 0 for none.
        records: what is in the fault recording register after each case.
        writes: what the devices write.
    """

    reasons: NDArray[np.uint8]
    records: Records
    writes: Writes


class Predictor:
    """Expects what a QEMU of this version does.

    Args:
        memory: holds the tables.
        mode: RTADDR.TTM.
        units: those that the recorder asks.
    """

    def __init__(
        self,
        version: Version,
        memory: FlatMemory,
        capabilities: Capabilities,
        source_id: SourceId,
        mode: int,
        units: tuple[RemappingUnit, RemappingUnit],
    ) -> None:
        quirks, self.left = followed(version, capabilities)
        unit: RemappingUnit = unit_with(quirks)(memory, capabilities, POLICY)
        unit.mmio_write(GCMD.offset, GCMD.make(TE=1), 4)
        self._translator, self._source_id = BatchTranslator(unit), int(source_id)
        self._mode = np.uint64(RTADDR.make(TTM=mode))
        self._recorder = Recorder(units, source_id)

    def expect(self, worlds: Worlds) -> Expected:
        """What is expected, with memory as it is."""
        inverts = worlds.choices.inverts
        n, rows = len(worlds), np.flatnonzero(inverts)
        reads = np.concatenate((np.zeros(n, np.bool_), np.ones(len(rows), np.bool_)))
        addresses = np.concatenate((worlds.addresses, worlds.addresses[rows]))
        roots = np.concatenate((worlds.roots, worlds.roots[rows])) | self._mode
        sources = np.full(len(reads), self._source_id, np.uint16)
        hosts, reasons = self._translator.translate(sources, addresses, ~reads, roots=roots)
        fpd, valid = np.zeros(len(reads), np.bool_), np.zeros(len(reads), np.bool_)
        at = np.flatnonzero(reasons)
        fpd[at], valid[at] = self._translator.contexts(sources[at], roots[at])
        records = self._recorder.records(Faults(reasons, fpd, valid), ~reads, addresses)
        first = Records(np.zeros(n, np.uint64), np.zeros(n, np.uint64))
        first.high[rows], first.low[rows] = records.high[n:], records.low[n:]
        record = first.where(first.high != 0, Records(records.high[:n], records.low[:n]))
        blind = np.zeros(n, np.bool_)
        blind[rows] = reasons[n:] != 0
        found = reasons[:n].copy()
        found[rows] = np.where(reasons[n:] != 0, reasons[n:], found[rows])
        return Expected(found, record, Writes.expected(hosts[:n], worlds.length, inverts, blind))
