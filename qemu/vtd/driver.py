"""A minimal VT-d driver for any `Platform`. It does what every operating system's driver has to do."""

from __future__ import annotations

from dataclasses import dataclass

from iommu import Capabilities, MisuseError, SourceId, VtdError
from iommu.registers import (
    CCMD,
    FRCD,
    FSTS,
    GCMD,
    GSTS,
    IOTLB,
    IQA,
    IQT,
    IRTA,
    IVA,
    RTADDR,
    Granularity,
    TableMode,
)
from qemu.vtd.platform import Platform

# One-shot commands: they are not part of the state that GCMD carries from one write to the next (spec 11.4.4.1).
_ONE_SHOT = GCMD.make(SRTP=1, WBF=1, SIRTP=1)
# Commands complete immediately on every platform here; a unit that needs more polls than this has hung.
_POLLS = 100


@dataclass(frozen=True)
class RecordedFault:
    """A fault recording register as software reads it (spec 11.4.7.6).

    `address_type` is an AddressType, or 3, which is reserved.
    """

    reason: int
    source_id: SourceId
    page: int
    is_read: bool
    address_type: int
    pasid: int | None
    raw: int

    @classmethod
    def decode(cls, raw: int) -> RecordedFault:
        """From the 128 bits of the register."""
        record = FRCD(raw)
        return cls(
            reason=record.FR,
            source_id=SourceId.of(record.SID),
            page=record.FI,
            is_read=bool(record.T1),
            address_type=record.AT,
            pasid=record.PV if record.PP else None,
            raw=raw,
        )

    @property
    def index(self) -> int:
        """The interrupt_index, in the record of an interrupt's fault: FI bits 63:48."""
        return self.page >> 48


@dataclass
class InvalidationQueue:
    """Software's side of the queue: `size` bytes at `base`; `tail` is the offset of the next descriptor."""

    base: int
    size: int
    width: int
    tail: int = 0

    def next(self, descriptor: int) -> tuple[int, bytes]:
        """Where the next descriptor goes, and its bytes; the tail moves on, and wraps at the end of the queue."""
        at = self.base + self.tail
        self.tail = (self.tail + self.width) % self.size
        return at, descriptor.to_bytes(self.width, "little")


class Driver:
    """Programs one remapping unit through its registers. Raises VtdError when the unit does not answer."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.capabilities: Capabilities = platform.capabilities
        self.queue: InvalidationQueue | None = None

    def write_root_table(self, table: int, mode: int = TableMode.LEGACY) -> None:
        """Program RTADDR, which changes nothing until the unit latches it."""
        self.platform.write_register(RTADDR.offset, RTADDR.make(RTA=table, TTM=mode), 8)

    def set_root_table(self, table: int, mode: int = TableMode.LEGACY) -> None:
        """Program RTADDR and have the unit latch it (spec 6.6)."""
        self.write_root_table(table, mode)
        self._command(GCMD.SRTP.mask, GSTS.RTPS.mask, GSTS.RTPS.mask)

    def enable(self) -> None:
        """Turn DMA remapping on."""
        self._command(GCMD.TE.mask, GSTS.TES.mask, GSTS.TES.mask)

    def disable(self) -> None:
        """Turn DMA remapping off."""
        self._command(0, GSTS.TES.mask, 0, drop=GCMD.TE.mask)

    # The invalidation queue (spec 6.5.2).

    def start_queue(self, base: int, *, size: int = 0, wide: bool = False) -> None:
        """Turn the invalidation queue on: 2**size pages at `base`, with descriptors of 128 or 256 bits."""
        self.queue = InvalidationQueue(base, 0x1000 << size, 32 if wide else 16)
        self.platform.write_register(IQT.offset, 0, 8)
        self.platform.write_register(IQA.offset, IQA.make(IQA=base, DW=wide, QS=size), 8)
        self._command(GCMD.QIE.mask, GSTS.QIES.mask, GSTS.QIES.mask)

    def stop_queue(self) -> None:
        """Turn the invalidation queue off. The last descriptor has to be a wait descriptor (spec 6.5.2)."""
        self._command(0, GSTS.QIES.mask, 0, drop=GCMD.QIE.mask)

    def submit(self, *descriptors: int) -> None:
        """Write descriptors to the queue, and tell the unit. Raises MisuseError while the queue is off."""
        if self.queue is None:
            raise MisuseError("the invalidation queue is not on")
        for descriptor in descriptors:
            at, data = self.queue.next(descriptor)
            self.platform.memory.write(at, data)
        self.platform.write_register(IQT.offset, self.queue.tail, 8)

    # Interrupt remapping (spec 6.7).

    def set_interrupt_table(self, table: int, *, size: int = 7, extended: bool = False) -> None:
        """Program IRTA, a table of 2**(size + 1) entries, and have the unit latch it."""
        self.platform.write_register(IRTA.offset, IRTA.make(IRTA=table, S=size, EIME=extended), 8)
        self._command(GCMD.SIRTP.mask, GSTS.IRTPS.mask, GSTS.IRTPS.mask)

    def enable_interrupts(self) -> None:
        """Turn interrupt remapping on."""
        self._command(GCMD.IRE.mask, GSTS.IRES.mask, GSTS.IRES.mask)

    def _command(self, command: int, mask: int, wanted: int, *, drop: int = 0) -> None:
        """Write GCMD: the current state without one-shot bits, with one change. Then wait for GSTS."""
        state = self.platform.read_register(GSTS.offset, 4) & ~_ONE_SHOT & ~drop
        self.platform.write_register(GCMD.offset, state | command, 4)
        for _ in range(_POLLS):
            if self.platform.read_register(GSTS.offset, 4) & mask == wanted:
                return
        names = " ".join(part.name for part in GSTS.fields.values() if part.mask & mask)
        raise VtdError(f"GSTS.{names} did not become {int(wanted != 0)}")

    def invalidate_contexts(
        self, granularity: Granularity = Granularity.GLOBAL, *, domain_id: int = 0, source_id: int = 0, mask: int = 0
    ) -> Granularity:
        """Invalidate the context cache through CCMD; returns the granularity performed."""
        command = CCMD.make(ICC=1, CIRG=granularity, DID=domain_id, SID=source_id, FM=mask)
        self.platform.write_register(CCMD.offset, command, 8)
        return Granularity(CCMD.CAIG.get(self._wait(CCMD.offset, CCMD.ICC.mask, "CCMD.ICC")))

    def invalidate_translations(
        self, granularity: Granularity = Granularity.GLOBAL, *, domain_id: int = 0, address: int = 0, mask: int = 0
    ) -> Granularity:
        """Invalidate the IOTLB through IVA and IOTLB, draining; returns the granularity performed."""
        base = self.capabilities.iotlb_offset
        if granularity is Granularity.SELECTIVE:
            self.platform.write_register(base, IVA.make(ADDR=address, AM=mask), 8)
        command = IOTLB.make(IVT=1, IIRG=granularity, DID=domain_id, DR=1, DW=1)
        self.platform.write_register(base + 8, command, 8)
        return Granularity(IOTLB.IAIG.get(self._wait(base + 8, IOTLB.IVT.mask, "IOTLB.IVT")))

    def invalidate_everything(self) -> None:
        """Invalidate the context cache, then the IOTLB: in the other order, stale contexts could refill the IOTLB."""
        self.invalidate_contexts()
        self.invalidate_translations()

    def _wait(self, offset: int, busy: int, name: str) -> int:
        for _ in range(_POLLS):
            value = self.platform.read_register(offset, 8)
            if not value & busy:
                return value
        raise VtdError(f"{name} did not become 0")

    def status(self) -> int:
        """The value of FSTS."""
        return self.platform.read_register(FSTS.offset, 4)

    def faults(self) -> list[RecordedFault]:
        """The pending fault records, oldest first: starting at FSTS.FRI and wrapping around."""
        if not FSTS.PPF.get(self.status()):
            return []
        count, first = self.capabilities.fault_records, FSTS.FRI.get(self.status())
        raws = [self.record((first + n) % count) for n in range(count)]
        return [RecordedFault.decode(raw) for raw in raws if FRCD.F.get(raw)]

    def record(self, index: int) -> int:
        """The 128 bits of a fault recording register."""
        offset = self._record_offset(index)
        return self.platform.read_register(offset, 8) | self.platform.read_register(offset + 8, 8) << 64

    def _record_offset(self, index: int) -> int:
        if not 0 <= index < self.capabilities.fault_records:
            raise MisuseError(f"no fault recording register {index}")
        return self.capabilities.fault_record_offset + 16 * index

    def clear_faults(self) -> None:
        """Clear every F, then PFO: in the other order a fault could be lost without PFO being set (spec 7.2.1)."""
        for index in range(self.capabilities.fault_records):
            self.clear_record(index)
        self.platform.write_register(FSTS.offset, FSTS.PFO.mask, 4)

    def clear_record(self, index: int) -> None:
        """Clear one record's F with a 32-bit write to the last quarter of the record."""
        self.platform.write_register(self._record_offset(index) + 12, FRCD.F.mask >> 96, 4)
