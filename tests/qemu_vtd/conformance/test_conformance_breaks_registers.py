"""More deliberate breaks, of registers, faults, queue and caches: each is noticed by the scenario named here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from iommu import RemappingUnit
from iommu.engine.faults.log import FaultLog
from iommu.engine.invalidation.queue import Queue
from iommu.engine.invalidation.registers import Invalidation
from iommu.engine.invalidation.selector import CacheName, Selector
from iommu.engine.register_file import RegisterFile, Slot
from iommu.registers import FRCD, FSTS, IQA, RTADDR, Register
from iommu.structures import IotlbDescriptor, WaitDescriptor
from qemu.vtd.conformance.scenario import catalogue
from qemu.vtd.platform import ModelPlatform


class UpperHalfLost(RegisterFile):
    def store(self, slot: Slot, value: int, reach: int) -> None:
        super().store(slot, value, reach & 0xFFFF_FFFF if slot.layout is RTADDR else reach)


class HalvesSwapped(RegisterFile):
    def read(self, offset: int, size: int) -> int:
        return super().read(offset ^ 4 if size == 4 and offset & -8 == IQA.offset else offset, size)


class EveryBitStored(RegisterFile):
    def stored_bits(self, layout: type[Register]) -> int:
        return super().stored_bits(layout) | (1 << 3 if layout is RTADDR else 0)


class OneBitNotStored(RegisterFile):
    def stored_bits(self, layout: type[Register]) -> int:
        return super().stored_bits(layout) & ~(1 << 20 if layout is RTADDR else 0)


class ClearsWithoutOnes(RegisterFile):
    def store(self, slot: Slot, value: int, reach: int) -> None:
        super().store(slot, value | FSTS.PFO.mask if slot.layout is FSTS else value, reach)


class OverflowForgotten(FaultLog):
    def _record(self, record: int) -> bool:
        self._status.value &= ~FSTS.PFO.mask
        return super()._record(record)


class RecordErased(FaultLog):
    def _on_clear(self, _written: int) -> None:
        for slot in self._records:
            slot.value *= FRCD.F.get(slot.value)
        super()._on_clear(_written)


class PendingForever(FaultLog):
    def _on_clear(self, _written: int) -> None:
        pending = self._status.value & FSTS.PPF.mask
        super()._on_clear(_written)
        self._status.value |= pending


class EventForEachCondition(FaultLog):
    def _conditions(self) -> int:
        return 0


class OverflowIsNoCondition(FaultLog):
    def _conditions(self) -> int:
        return super()._conditions() & FSTS.PPF.mask


class ReadsAsWrites(FaultLog):
    def _record(self, record: int) -> bool:
        return super()._record(record & ~FRCD.T1.mask)


class AddressCut(FaultLog):
    def _record(self, record: int) -> bool:
        return super()._record(record & ~(0xFFFF << 32))


class MaskOffByOne(Invalidation):
    def select_translations(
        self, asked: int, domain_id: int, address: int, mask: int, leaf_only: int
    ) -> Selector | None:
        named = super().select_translations(asked, domain_id, address, mask, leaf_only)
        if named is None or named.addresses is None:
            return named
        return replace(named, addresses=range(named.addresses.start, named.addresses.stop - 0x1000))


class MaskTooWide(Invalidation):
    def select_translations(
        self, asked: int, domain_id: int, address: int, mask: int, leaf_only: int
    ) -> Selector | None:
        named = super().select_translations(asked, domain_id, address, mask, leaf_only)
        if named is None or named.addresses is None:
            return named
        return replace(named, addresses=range(named.addresses.start, named.addresses.stop + 0x1000))


class DomainCut(Invalidation):
    def domain(self, domain_id: int) -> int:
        return domain_id & 0xFF


class FunctionMaskShifted(Invalidation):
    def select_contexts(self, asked: int, domain_id: int, source_id: int, function_mask: int) -> Selector | None:
        return super().select_contexts(asked, domain_id, source_id, function_mask + 1 & 3)


class HintMisread(Invalidation):
    def select_translations(
        self, asked: int, domain_id: int, address: int, mask: int, leaf_only: int
    ) -> Selector | None:
        return super().select_translations(asked, domain_id, address, mask, 1)


class GlobalIgnored(Invalidation):
    def invalidate(self, named: Selector) -> None:
        if named.cache is not CacheName.CONTEXTS or named.source_id is not None or named.domain_id is not None:
            super().invalidate(named)


class NoWrap(Queue):
    def size(self) -> int:
        return super().size() + 0x1000


class HeadPassesErrors(Queue):
    def carry_out(self, raw: int, bits: int) -> None:
        if raw & 0xF:
            super().carry_out(raw, bits)


class TailUnlimited(Queue):
    def tail(self) -> int:
        return min(self._tail.value, self.size() - 16)


class ErrorDoesNotStop(Queue):
    def is_fetching(self) -> bool:
        return self.enabled


class StatusWrittenAtZero(Queue):
    def write_status(self, address: int, data: int) -> None:
        super().write_status(address & 0xFFFF_FFFF, data)


class StatusOfEightBytes(Queue):
    def write_status(self, address: int, data: int) -> None:
        self.memory.write(address, data.to_bytes(8, "little"))


class EveryWaitInterrupts(Queue):
    def complete(self) -> None:
        self._completed.value = 0
        super().complete()


class InterruptWithoutFlag(Queue):
    def wait(self, command: WaitDescriptor) -> None:
        super().wait(WaitDescriptor(command.raw | WaitDescriptor.IF.mask))


class MaskUnlimitedByQueue(Queue):
    def invalidate_translations(self, command: IotlbDescriptor) -> None:
        super().invalidate_translations(IotlbDescriptor(command.raw & ~(IotlbDescriptor.AM.mask & 0x30 << 64)))


class QueueKeepsItsHead(Queue):
    def switch(self, on: int) -> bool:
        head = self._head.value
        result = super().switch(on)
        self._head.value = head
        return result


BREAKS: list[tuple[type, str]] = [
    (UpperHalfLost, "registers.rtaddr.upper-half"),
    (HalvesSwapped, "registers.halves.iqa"),
    (EveryBitStored, "registers.bits.rtaddr"),
    (OneBitNotStored, "registers.bits.rtaddr"),
    (ClearsWithoutOnes, "fault.status.zeros"),
    (OverflowForgotten, "legacy.overflow.blocks-recording"),
    (RecordErased, "fault.clear.by-last-quarter"),
    (PendingForever, "fault.status.f-pfo-iqe"),
    (EventForEachCondition, "fault.event.queue-error-while-fault"),
    (OverflowIsNoCondition, "fault.event.fault-while-queue-error"),
    (ReadsAsWrites, "fault.record.read"),
    (AddressCut, "fault.record.before-any-table"),
    (MaskOffByOne, "cache.range.register-2"),
    (MaskTooWide, "cache.range.queue-3"),
    (DomainCut, "cache.domains.register-long-id"),
    (FunctionMaskShifted, "cache.sources.queue-fm-1"),
    (HintMisread, "cache.tables.level-2"),
    (GlobalIgnored, "cache.change.to-pass-through.global"),
    (NoWrap, "queue.wrap.size-1"),
    (HeadPassesErrors, "queue.recovery.not-replaced"),
    (TailUnlimited, "queue.size.1"),
    (ErrorDoesNotStop, "queue.recovery.not-cleared"),
    (StatusWrittenAtZero, "queue.error.status-write"),
    (StatusOfEightBytes, "queue.wait.status-4-bytes"),
    (EveryWaitInterrupts, "queue.completion.not-acknowledged"),
    (InterruptWithoutFlag, "queue.wait.status-and-fence"),
    (MaskUnlimitedByQueue, "queue.values.address-mask"),
    (QueueKeepsItsHead, "queue.off.and-on"),
]


@pytest.mark.parametrize(("broken", "id_"), BREAKS, ids=[broken.__name__ for broken, _ in BREAKS])
def test_a_broken_engine_is_caught_by(broken: type, id_: str) -> None:
    parts = ("RegisterFile", "FaultLog", "Invalidation", "Queue")
    part = next(name for name in parts if issubclass(broken, getattr(RemappingUnit, name)))
    (scenario,) = (each for each in catalogue(id_) if each.id == id_)
    platform = ModelPlatform(
        scenario.setup.capabilities,
        unit=type("Broken", (RemappingUnit,), {part: broken}),
        topology=scenario.setup.topology,
    )
    seen = scenario.run(platform)
    assert seen != scenario.expect
    assert all(seen != allowed.lines for allowed in scenario.allowed)
