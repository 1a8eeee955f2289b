"""The operations of a batch, as the agent carries them out: a few for the start, the same ten for each case."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from iommu import Capabilities
from iommu.registers import CCMD, FRCD, FSTS, GCMD, RTADDR
from qemu.vtd.agent import Op, script
from qemu.vtd.devices.rocker import FILL, INVERT, TEST_DMA_ADDRESS, TEST_DMA_CONTROL, TEST_DMA_SIZE
from qemu.vtd.fuzz.lane.areas import SHARED_ROOT
from qemu.vtd.fuzz.lane.judge import CLEAR_RECORD, INVALIDATE_CONTEXTS, INVALIDATE_TRANSLATIONS, TAKE_ROOT
from qemu.vtd.fuzz.lane.records import Records
from qemu.vtd.fuzz.lane.worlds import Worlds

_ROOT, _ADDRESS, _CONTROL, _HIGH, _LOW = 0, 4, 5, 6, 8
"""What differs from case to case: the two operations of the root, the DMA, the two halves of the fault record."""


class Steps:
    """A batch's operations.

    Args:
        registers: the address of the unit's.
        capabilities: of the unit.
        device: the address of the device's registers, a rocker's.
        count: of the cases.
        length: of a DMA.
        mode: RTADDR.TTM.
    """

    def __init__(
        self, registers: int, capabilities: Capabilities, device: int, count: int, length: int, mode: int
    ) -> None:
        record = registers + capabilities.fault_record_offset
        start = [
            (Op.WRITE_32, record + 12, CLEAR_RECORD),
            (Op.WRITE_32, registers + FSTS.offset, FSTS.PFO.mask),
            (Op.WRITE_64, registers + RTADDR.offset, RTADDR.make(RTA=SHARED_ROOT, TTM=mode)),
            (Op.WRITE_32, registers + GCMD.offset, TAKE_ROOT),
            (Op.WRITE_32, device + TEST_DMA_SIZE, length),
        ]
        case = [
            (Op.WRITE_64, SHARED_ROOT + 8, 0),
            (Op.WRITE_64, SHARED_ROOT, 0),
            (Op.WRITE_64, registers + CCMD.offset, INVALIDATE_CONTEXTS),
            (Op.WRITE_64, registers + capabilities.iotlb_offset + 8, INVALIDATE_TRANSLATIONS),
            (Op.WRITE_64, device + TEST_DMA_ADDRESS, 0),
            (Op.WRITE_32, device + TEST_DMA_CONTROL, FILL),
            (Op.READ_64, record + 8, 0),
            (Op.SKIP, 2, FRCD.F.mask >> 64),
            (Op.READ_64, record, 0),
            (Op.WRITE_32, record + 12, CLEAR_RECORD),
        ]
        end = [(Op.READ_32, registers + FSTS.offset, 0), (Op.END, 0, 0)]
        self.operations: NDArray[np.void] = np.concatenate((script(start), np.tile(script(case), count), script(end)))
        self._cases = self.operations[len(start) : -len(end)].reshape(count, len(case))
        self._mode = RTADDR.make(TTM=mode)
        self._registers, self._control = registers, device + TEST_DMA_CONTROL

    def __len__(self) -> int:
        return len(self._cases)

    def fill(self, worlds: Worlds, alive: NDArray[np.bool_], *, shared_root: bool) -> None:
        """Put in what differs from case to case.

        Args:
            alive: which cases do their DMA.
            shared_root: each case replaces the entry in the shared root table, instead of the root pointer.
        """
        cases = self._cases
        first, second = cases[:, _ROOT], cases[:, _ROOT + 1]
        if shared_root:
            first["op"], first["address"], first["value"] = Op.WRITE_64, SHARED_ROOT + 8, worlds.words[:, 1]
            second["op"], second["address"], second["value"] = Op.WRITE_64, SHARED_ROOT, worlds.words[:, 0]
        else:
            first["op"], first["address"] = Op.WRITE_64, self._registers + RTADDR.offset
            first["value"] = worlds.roots | np.uint64(self._mode)
            second["op"], second["address"], second["value"] = Op.WRITE_32, self._registers + GCMD.offset, TAKE_ROOT
        cases[:, _ADDRESS]["value"] = worlds.addresses
        cases[:, _CONTROL]["value"] = np.where(worlds.choices.inverts, INVERT, FILL)
        cases[:, _CONTROL]["op"] = np.where(alive, Op.WRITE_32, Op.SKIP)
        cases[:, _CONTROL]["address"] = np.where(alive, self._control, 0)
        cases[:, _HIGH]["value"] = cases[:, _LOW]["value"] = 0
        self.operations[-2]["value"] = 0

    def take(self, done: NDArray[np.void]) -> Records:
        """The faults that were recorded, from the operations as the agent has left them.

        What was read is in `operations` then too. Without F, the other fields of a record are those of an old one.
        """
        cases = done[len(done) - 2 - self._cases.size : -2].reshape(self._cases.shape)
        for column in (_HIGH, _LOW):
            self._cases[:, column]["value"] = cases[:, column]["value"]
        self.operations[-2]["value"] = done[-2]["value"]
        high, low = self._cases[:, _HIGH]["value"], self._cases[:, _LOW]["value"]
        pending = high >= np.uint64(FRCD.F.mask >> 64)
        return Records(np.where(pending, high, 0), np.where(pending, low, 0))

    @property
    def status(self) -> int:
        """FSTS at the end."""
        return int(self.operations[-2]["value"])
