"""A QEMU for many cases: what one has left behind is undone by a few register writes, where that is enough.

A reset of the machine and a flip of TE each take QEMU milliseconds. So translation, interrupt remapping and the queue
stay on from case to case. What a case does on such a machine is what it does on one just started, unless QEMU
keeps something that it should not: a difference is looked at again on a QEMU of its own.
"""

from __future__ import annotations

from iommu import Access, FlatMemory, Message
from iommu.registers import CCMD, FRCD, FSTS, GCMD, GSTS, IOTLB, IQA, IQT, IRTA, RTADDR, Granularity, TableMode
from iommu.structures import (
    ContextDescriptor,
    ContextEntry,
    DescriptorType,
    IotlbDescriptor,
    PageAllocator,
    PasidCacheDescriptor,
    PasidGranularity,
    RootEntry,
    SecondStageMapper,
)
from qemu.vtd.conformance.bench import Bench
from qemu.vtd.driver import InvalidationQueue
from qemu.vtd.pipeline import Pipeline
from qemu.vtd.platform import Transfer
from qemu.vtd.qemu_platform import SCRATCH, QemuPlatform

_KEPT = ("legacy", "legacy, queue", "scalable", "interrupts", "interrupts, extended")
"""The starts that a machine can be brought back to without a reset."""
_TABLES = 0x1000
"""Where the tables are by which the reader reaches its scratch memory, once a case has ended."""
_LEVELS = 3
_STOPPED = FSTS.IQE.mask | FSTS.ITE.mask | FSTS.ICE.mask
_RUNS = {2, 4, 5, 7}
"""The delivery modes that make a processor run: SMI, NMI, INIT, ExtINT."""


class QuickPlatform(QemuPlatform):
    """A platform in QEMU whose resets leave on what the last case had on.

    Register writes are held back until something is to be observed, and then sent with it.
    """

    _memory: FlatMemory
    _start = ""
    _queue: InvalidationQueue | None = None
    _held: Pipeline | None = None

    @property
    def memory(self) -> FlatMemory:
        """See Platform."""
        self._send()
        return self._memory

    @memory.setter
    def memory(self, memory: FlatMemory) -> None:
        self._memory = memory

    def write_register(self, offset: int, value: int, size: int) -> None:
        """See Platform."""
        if offset not in self._harmless():
            self._start = ""
        self._hold().write(self._base + offset, value, size)

    def read_register(self, offset: int, size: int) -> int:
        """See Platform."""
        pipeline, self._held = self._hold(), None
        answer = pipeline.read(self._base + offset, size)
        pipeline.run()
        return answer.value

    def _hold(self) -> Pipeline:
        if self._held is None:
            self._held = Pipeline(self.machine.qtest.exchange)
        return self._held

    def _send(self) -> None:
        pipeline, self._held = self._held, None
        if pipeline is not None:
            pipeline.run()

    def _harmless(self) -> frozenset[int]:
        """The registers that a soft reset takes care of, by their offsets."""
        unit = self.capabilities
        record, iotlb = unit.fault_record_offset, unit.iotlb_offset
        fixed = (RTADDR, GCMD, CCMD, FSTS, IQT, IQA, IRTA)
        return frozenset((*(each.offset for each in fixed), iotlb, iotlb + 8, record + 12))

    # Resets.

    def reset(self) -> None:
        """Clear memory. What else is needed is done by `prepare`, which a case calls next."""
        self._send()
        self.machine.ram.clear()
        self.machine.trace_lines()
        self._remapped, self._own = [], []
        self._pending.clear()

    def spoil(self) -> None:
        """Have the next case begin with a reset of the machine."""
        self._start = ""

    def prepare(self, start: str, bench: Bench) -> bool:
        """See Prepared."""
        if start == self._start and self._restore():
            bench.driver.queue = self._queue
            return True
        self._held = None
        self.machine.reset()
        if self._slots_used and self._reader is not None:
            self._reader.clear_slots(SCRATCH, self._slots_used)
            self._slots_used = 0
        self._start, self._queue = (start, None) if start in _KEPT else ("", None)
        return False

    def _restore(self) -> bool:
        """Drop what is cached and recorded. Returns False if the unit is not as its start has left it."""
        pipeline = self._hold()
        self._invalidate(pipeline)
        pipeline.write(self._base + self.capabilities.fault_record_offset + 12, FRCD.F.mask >> 96, 4)
        pipeline.write(self._base + FSTS.offset, FSTS.PFO.mask, 4)
        on = pipeline.read(self._base + GSTS.offset, 4)
        status = pipeline.read(self._base + FSTS.offset, 4)
        self._held = None
        pipeline.run()
        wanted = GSTS.IRES.mask if self._start.startswith("interrupts") else GSTS.TES.mask
        wanted |= GSTS.QIES.mask if self._queue is not None else 0
        seen = on.value & (GSTS.IRES.mask | GSTS.TES.mask | GSTS.QIES.mask)
        return seen == wanted and not status.value & _STOPPED

    def _invalidate(self, pipeline: Pipeline) -> None:
        if self._queue is None:
            base = self._base + self.capabilities.iotlb_offset + 8
            pipeline.write(self._base + CCMD.offset, CCMD.make(ICC=1, CIRG=Granularity.GLOBAL), 8)
            pipeline.write(base, IOTLB.make(IVT=1, IIRG=Granularity.GLOBAL), 8)
            return
        of = DescriptorType
        descriptors = [ContextDescriptor.make(TYPE=of.CONTEXT, G=1), IotlbDescriptor.make(TYPE=of.IOTLB, G=1)]
        if self._start == "scalable":
            descriptors.insert(1, PasidCacheDescriptor.make(TYPE=of.PASID_CACHE, G=PasidGranularity.GLOBAL))
        for descriptor in descriptors:
            at, data = self._queue.next(descriptor)
            self._memory.write(at, data)
        pipeline.write(self._base + IQT.offset, self._queue.tail, 8)

    # What a case does.

    def dma(self, device: str, access: Access, address: int, length: int = 4) -> Transfer:
        """See Platform."""
        self._send()
        return super().dma(device, access, address, length)

    def interrupt(self, device: str, address: int, data: int) -> Message | None:
        """See Platform."""
        self._send()
        message = super().interrupt(device, address, data)
        if message is not None and message.data >> 8 & 7 in _RUNS:
            self.spoil()
        return message

    def pin(self, pin: int, entry: int) -> Message | None:
        """See Platform."""
        self._send()
        message = super().pin(pin, entry)
        if message is not None and message.data >> 8 & 7 in _RUNS:
            self.spoil()
        return message

    def settle(self) -> None:
        """See Platform. Translation stays on: the reader gets tables by which it reaches its scratch memory."""
        self._send()
        if not self._start or not self._pending or self._reader is None:
            super().settle()
            return
        self._trace()
        root = self.read_register(RTADDR.offset, 8)
        self._latch(self._scratch_root())
        self._reader.dump_buffer(SCRATCH)
        self.take_reads()
        self._memory.write(SCRATCH, bytes(0x1000))
        self._reader.clear_slots(SCRATCH, self._slots_used)
        self._slots_used = 0
        self._latch(root)

    def _scratch_root(self) -> int:
        """Write a legacy root table by which the reader reaches its scratch memory, and nothing else."""
        assert self._reader is not None
        source_id, memory = self._reader.source_id, self._memory
        levels = max(self.capabilities.levels)
        root, context = _TABLES, _TABLES + 0x1000
        memory.write(root, bytes(0x1000))
        memory.write(context, bytes(0x1000))
        mapper = SecondStageMapper(memory, PageAllocator(_TABLES + 0x2000, _TABLES + 0x8000), levels)
        mapper.map(SCRATCH, SCRATCH, 0x1000)
        memory.write(root, RootEntry.make(P=1, CTP=context).to_bytes(16, "little"))
        entry = ContextEntry.make(P=1, AW=levels - 2, DID=1, SSPTPTR=mapper.root)
        memory.write(context + 16 * (source_id & 0xFF), entry.to_bytes(16, "little"))
        return RTADDR.make(RTA=root, TTM=TableMode.LEGACY)

    def _latch(self, root: int) -> None:
        """Set the root pointer, by which QEMU drops all that it has cached for DMA, in every version."""
        state = self.read_register(GSTS.offset, 4) & (GSTS.IRES.mask | GSTS.TES.mask | GSTS.QIES.mask)
        self._hold().write(self._base + RTADDR.offset, root, 8)
        self._hold().write(self._base + GCMD.offset, state | GCMD.SRTP.mask, 4)
        self._send()
