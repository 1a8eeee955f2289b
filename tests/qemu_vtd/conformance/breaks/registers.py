"""Breaks of the register window and of the global commands."""

from __future__ import annotations

from iommu import RemappingUnit
from iommu.registers import CAP, FEADDR, FECTL, FEDATA, FRCD, GCMD, GSTS, RTADDR
from tests.qemu_vtd.conformance.breaks.broken import Break


class CommandReadable(Break, RemappingUnit):
    """GCMD reads as what was written."""

    scenario = "registers.gcmd.reads-zero"

    def mmio_read(self, offset: int, size: int) -> int:
        return self.registers[GCMD].value if offset == GCMD.offset else super().mmio_read(offset, size)


class CapabilitiesWritable(Break, RemappingUnit):
    """Software can write CAP."""

    scenario = "registers.read-only"

    def mmio_write(self, offset: int, value: int, size: int) -> None:
        if offset == CAP.offset:
            self.registers[CAP].value = value
        super().mmio_write(offset, value, size)


class HalfLost(Break, RemappingUnit):
    """A 32-bit write of the lower half of RTADDR does nothing."""

    scenario = "registers.rtaddr.halves"

    def mmio_write(self, offset: int, value: int, size: int) -> None:
        if offset != RTADDR.offset or size == 8:
            super().mmio_write(offset, value, size)


class RootNotLatched(Break, RemappingUnit):
    """Writing RTADDR takes effect at once."""

    scenario = "registers.rtaddr.waits-for-srtp"

    def mmio_write(self, offset: int, value: int, size: int) -> None:
        super().mmio_write(offset, value, size)
        if offset == RTADDR.offset:
            self._set_root_table()


class RootLatchedOnce(Break, RemappingUnit):
    """Only the first SRTP sets the root table."""

    scenario = "cache.root.srtp-invalidates"

    def _set_root_table(self) -> None:
        if not GSTS.RTPS.get(self.registers[GSTS].value):
            super()._set_root_table()


class PointerStatusLost(Break, RemappingUnit):
    """RTPS is 0 again after the next command."""

    scenario = "registers.gsts.follows-gcmd"

    def _on_command(self, written: int) -> None:
        super()._on_command(written)
        if not GCMD.SRTP.get(written):
            self.registers[GSTS].value &= ~GSTS.RTPS.mask


class StoredBits(RemappingUnit):
    """A unit of which a register keeps more bits than it should."""

    layout: type = FEDATA
    kept = 0xFFFF_FFFF

    def reset(self) -> None:
        super().reset()
        self.registers[self.layout]._stored |= self.kept


class DataOf32Bits(Break, StoredBits):
    """FEDATA keeps 32 bits."""

    scenario = "message.registers.data"


class AddressUnaligned(Break, StoredBits):
    """FEADDR keeps bits 1:0."""

    scenario = "message.registers.address"
    layout = FEADDR


class PendingWritable(Break, StoredBits):
    """Software can write FECTL.IP."""

    scenario = "message.registers.control"
    layout = FECTL


class RecordWritable(Break, StoredBits):
    """Software can write a fault record."""

    scenario = "legacy.record.only-f-can-be-written"
    layout = FRCD
    kept = FRCD.FI.mask | FRCD.SID.mask | FRCD.FR.mask


BREAKS = (
    CommandReadable,
    CapabilitiesWritable,
    HalfLost,
    RootNotLatched,
    RootLatchedOnce,
    PointerStatusLost,
    DataOf32Bits,
    AddressUnaligned,
    PendingWritable,
    RecordWritable,
)
