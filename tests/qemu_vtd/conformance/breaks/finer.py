"""Breaks of one bit or one step: of the register window, the fault log, invalidations and the queue."""

from __future__ import annotations

from dataclasses import replace

from iommu.engine.faults.log import FaultLog
from iommu.engine.invalidation.queue import Queue
from iommu.engine.invalidation.registers import Invalidation
from iommu.engine.invalidation.selector import Selector
from iommu.engine.register_file import RegisterFile, Slot
from iommu.registers import FSTS, IQA, RTADDR, Register
from iommu.structures import IotlbDescriptor, WaitDescriptor
from tests.qemu_vtd.conformance.breaks.broken import Break


class UpperHalfLost(Break, RegisterFile):
    """The upper half of RTADDR cannot be written."""

    scenario = "registers.rtaddr.upper-half"

    def store(self, slot: Slot, value: int, reach: int) -> None:
        super().store(slot, value, reach & 0xFFFF_FFFF if slot.layout is RTADDR else reach)


class HalvesSwapped(Break, RegisterFile):
    """The halves of IQA read swapped."""

    scenario = "registers.halves.iqa"

    def read(self, offset: int, size: int) -> int:
        return super().read(offset ^ 4 if size == 4 and offset & -8 == IQA.offset else offset, size)


class EveryBitStored(Break, RegisterFile):
    """A reserved bit of RTADDR is kept."""

    scenario = "registers.bits.rtaddr"

    def stored_bits(self, layout: type[Register]) -> int:
        return super().stored_bits(layout) | (1 << 3 if layout is RTADDR else 0)


class OneBitNotStored(Break, RegisterFile):
    """One address bit of RTADDR is not kept."""

    scenario = "registers.bits.rtaddr"

    def stored_bits(self, layout: type[Register]) -> int:
        return super().stored_bits(layout) & ~(1 << 20 if layout is RTADDR else 0)


class ClearsWithoutOnes(Break, RegisterFile):
    """Any write of FSTS clears PFO."""

    scenario = "fault.status.zeros"

    def store(self, slot: Slot, value: int, reach: int) -> None:
        super().store(slot, value | FSTS.PFO.mask if slot.layout is FSTS else value, reach)


class OverflowIsNoCondition(Break, FaultLog):
    """Only a pending fault holds back the next event."""

    scenario = "fault.event.fault-while-queue-error"

    def _conditions(self) -> int:
        return super()._conditions() & FSTS.PPF.mask


class AddressCut(Break, FaultLog):
    """A record has the low 32 address bits only."""

    scenario = "fault.record.before-any-table"

    def _record(self, record: int) -> bool:
        return super()._record(record & ~(0xFFFF << 32))


class MaskTooWide(Break, Invalidation):
    """A page-selective invalidation drops one page too many."""

    scenario = "cache.range.queue-3"

    def select_translations(
        self, asked: int, domain_id: int, address: int, mask: int, leaf_only: int
    ) -> Selector | None:
        named = super().select_translations(asked, domain_id, address, mask, leaf_only)
        if named is None or named.addresses is None:
            return named
        return replace(named, addresses=range(named.addresses.start, named.addresses.stop + 0x1000))


class DomainCut(Break, Invalidation):
    """Domain-ids of commands have 8 bits."""

    scenario = "cache.domains.register-long-id"

    def domain(self, domain_id: int) -> int:
        return domain_id & 0xFF


class FunctionMaskShifted(Break, Invalidation):
    """The function mask is off by one."""

    scenario = "cache.sources.queue-fm-1"

    def select_contexts(self, asked: int, domain_id: int, source_id: int, function_mask: int) -> Selector | None:
        return super().select_contexts(asked, domain_id, source_id, function_mask + 1 & 3)


class HintMisread(Break, Invalidation):
    """Every page-selective invalidation keeps the upper entries."""

    scenario = "cache.tables.level-2"

    def select_translations(
        self, asked: int, domain_id: int, address: int, mask: int, leaf_only: int
    ) -> Selector | None:
        return super().select_translations(asked, domain_id, address, mask, 1)


class ErrorDoesNotStop(Break, Queue):
    """The queue fetches while IQE is set."""

    scenario = "queue.recovery.not-cleared"

    def is_fetching(self) -> bool:
        return self.enabled


class StatusBeside(Break, Queue):
    """The status is written to the DWORD beside the one that is named."""

    scenario = "queue.on.translation-off"

    def write_status(self, address: int, data: int) -> None:
        super().write_status(address ^ 4, data)


class StatusOfEightBytes(Break, Queue):
    """A status write changes 8 bytes."""

    scenario = "queue.wait.status-4-bytes"

    def write_status(self, address: int, data: int) -> None:
        self.memory.write(address, data.to_bytes(8, "little"))


class InterruptWithoutFlag(Break, Queue):
    """Every wait descriptor raises the event."""

    scenario = "queue.wait.status-and-fence"

    def wait(self, command: WaitDescriptor) -> None:
        super().wait(WaitDescriptor(command.raw | WaitDescriptor.IF.mask))


class MaskUnlimitedByQueue(Break, Queue):
    """The queue takes 4 bits of an address mask."""

    scenario = "queue.values.address-mask"

    def invalidate_translations(self, command: IotlbDescriptor) -> None:
        super().invalidate_translations(IotlbDescriptor(command.raw & ~(IotlbDescriptor.AM.mask & 0x30 << 64)))


BREAKS: tuple[type[Break], ...] = (
    UpperHalfLost,
    HalvesSwapped,
    EveryBitStored,
    OneBitNotStored,
    ClearsWithoutOnes,
    OverflowIsNoCondition,
    AddressCut,
    MaskTooWide,
    DomainCut,
    FunctionMaskShifted,
    HintMisread,
    ErrorDoesNotStop,
    StatusBeside,
    StatusOfEightBytes,
    InterruptWithoutFlag,
    MaskUnlimitedByQueue,
)
