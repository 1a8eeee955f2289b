"""The second opinion: the scalar engine with all quirks of a QEMU, on one case after the other."""

from __future__ import annotations

from typing import NamedTuple

from iommu import Access, Capabilities, DmaRequest, FlatMemory, RemappingUnit, SourceId
from iommu.registers import CCMD, FRCD, GCMD, IOTLB, RTADDR, Granularity
from qemu.vtd.quirks import POLICY

INVALIDATE_CONTEXTS = CCMD.make(ICC=1, CIRG=Granularity.GLOBAL)
INVALIDATE_TRANSLATIONS = IOTLB.make(IVT=1, IIRG=Granularity.GLOBAL, DR=1, DW=1)
TAKE_ROOT = GCMD.make(SRTP=1, TE=1)
CLEAR_RECORD = FRCD.F.mask >> 96
PATTERN = 0x96


class Verdict(NamedTuple):
    """What a case comes to.

    Attributes:
        record: the fault recording register; 0 if nothing was recorded.
        host: where in memory the device writes; None where it does not.
        data: what it writes there.
        marks: the words of tables in which the unit sets bits, and what they are then.
        odd: it reads tables where devices have their registers: what it finds there is not determined.
    """

    record: int
    host: int | None
    data: bytes
    marks: tuple[tuple[int, bytes], ...] = ()
    odd: bool = False


_REGISTERS = range(0xB000_0000, 1 << 32)
"""The addresses of devices' registers, from the configuration space on."""


class _Undone:
    """Memory as a unit accesses it, which can be made as it was before.

    Attributes:
        odd: the unit has read devices' registers.
    """

    def __init__(self, memory: FlatMemory) -> None:
        self._memory, self._before = memory, dict[int, bytes]()
        self.odd = False

    def read(self, address: int, length: int) -> bytes:
        """See Memory."""
        self.odd |= address in _REGISTERS
        return self._memory.read(address, length)

    def read_u64(self, address: int) -> int:
        """See Memory."""
        self.odd |= address in _REGISTERS
        return self._memory.read_u64(address)

    def write(self, address: int, data: bytes) -> None:
        """See Memory. A unit writes aligned words."""
        self._before.setdefault(address, self._memory.read(address, len(data)))
        self._memory.write(address, data)

    def undo(self) -> tuple[tuple[int, bytes], ...]:
        """Undo all writes. Returns what there was."""
        after = tuple((address, self._memory.read(address, len(data))) for address, data in self._before.items())
        for address, data in self._before.items():
            self._memory.write(address, data)
        self._before.clear()
        return after


class Judge:
    """A unit that carries out cases in a memory, each from empty caches. It leaves the memory as it is.

    Args:
        profile: its class.
        memory: holds the tables.
        source_id: the device that does the DMA.
        mode: RTADDR.TTM.
    """

    def __init__(
        self,
        profile: type[RemappingUnit],
        memory: FlatMemory,
        capabilities: Capabilities,
        source_id: SourceId,
        mode: int,
    ) -> None:
        self._memory, self._source_id, self._seen = memory, source_id, _Undone(memory)
        self._unit = profile(self._seen, capabilities, POLICY)
        self._record = capabilities.fault_record_offset
        self._mode = mode
        self._unit.mmio_write(GCMD.offset, GCMD.make(TE=1), 4)

    def verdict(self, root: int, address: int, length: int, *, inverts: bool) -> Verdict:
        """Carry out a case: it takes the root, invalidates what is cached, and lets the device do its DMA."""
        unit = self._unit
        # What SRTP and the two invalidations come to, in a fraction of the time.
        unit.translation.set_root_table(RTADDR.RTA.get(root), self._mode)
        unit.caches.invalidate_dma()
        self._seen.odd = False
        data = bytes([PATTERN]) * length
        if inverts:
            # A device that is blocked reads zeros.
            source = self._translate(address, length, Access.READ)
            read = bytes(length) if source is None else self._memory.read(source, length)
            data = bytes(byte ^ 0xFF for byte in read)
        host = self._translate(address, length, Access.WRITE)
        low, high = unit.mmio_read(self._record, 8), unit.mmio_read(self._record + 8, 8)
        record = low | high << 64
        if not FRCD.F.get(record):
            record = 0
        else:
            unit.mmio_write(self._record + 12, CLEAR_RECORD, 4)
        return Verdict(record, host, data if host is not None else b"", self._seen.undo(), self._seen.odd)

    def _translate(self, address: int, length: int, access: Access) -> int | None:
        """Where in memory an access ends; None if it is blocked or reaches no memory."""
        host = self._unit.translate(DmaRequest(self._source_id, address, access, length)).host_address
        return None if host is None or host + length > self._memory.size else host
