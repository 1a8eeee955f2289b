"""Helpers of the interrupt tests: a unit with a table, entries and requests, all as plain numbers."""

from __future__ import annotations

from typing import Any

from iommu import (
    InterruptOutcome,
    InterruptRequest,
    Message,
    SourceId,
)
from tests.engine.world import (
    GCMD,
    GSTS,
    NIC,
    World,
)

IRTA = 0xB8
IRE, SIRTP, CFI = 1 << 25, 1 << 24, 1 << 23
EIME = 1 << 11
ONES = (1 << 64) - 1

TABLE = 0x10_0000
DESCRIPTOR = 0x8_0040

FIXED_41_TO_5 = 0x0000_0500_0041_0001
"""Lower half of an entry: present, fixed, physical, edge, vector 0x41, 8-bit APIC id 5."""
MESSAGE_41_TO_5 = Message(0xFEE0_5000, 0x4041)
POSTED_71 = DESCRIPTOR << 32 | 0x71 << 16 | 1 << 15 | 1
"""Lower half of an entry: present, posted to DESCRIPTOR with vector 0x71."""
URG = 1 << 14


def request(handle: int, sub: int | None = None, source: SourceId = NIC, data: int | None = None) -> InterruptRequest:
    """A remappable request; SHV is set when there is a subhandle."""
    address = 0xFEE0_0010 | (handle & 0x7FFF) << 5 | handle >> 15 << 2 | (sub is not None) << 3
    return InterruptRequest(source, address, (sub or 0) if data is None else data)


class Interrupting(World):
    """A world whose unit remaps interrupts by a table of 2**(s+1) entries at TABLE, all of them absent."""

    def __init__(
        self, *, s: int = 7, eime: bool = False, cfi: bool = False, start: bool = True, **capabilities: Any
    ) -> None:
        if eime:
            capabilities.setdefault("extended_interrupts", True)
        super().__init__(**{"fault_records": 8, **capabilities})
        if start:
            self.set_table(TABLE | eime * EIME | s)
            self.command(IRE | cfi * CFI)

    def command(self, levels: int) -> None:
        """Write GCMD with exactly these enable bits."""
        self.write(GCMD, levels)

    def set_table(self, irta: int) -> None:
        """Write IRTA and give the SIRTP command; the enable bits are kept."""
        self.write(IRTA, irta, 8)
        self.write(GCMD, self.read(GSTS) & 0x96FF_FFFF | SIRTP)

    def irte(self, index: int, low: int = FIXED_41_TO_5, high: int = 0) -> None:
        """Write an entry."""
        self.put(TABLE + 16 * index, low, high)

    def descriptor(self, pir: int = 0, *, on: int = 0, sn: int = 0, nv: int = 0xF2, ndst: int = 0x900) -> None:
        """Write the posted-interrupt descriptor."""
        control = ndst << 32 | nv << 16 | sn << 1 | on
        self.put(DESCRIPTOR, *(pir >> shift & ONES for shift in (0, 64, 128, 192)), control, 0, 0, 0)

    def pir(self) -> int:
        """The descriptor's first 256 bits."""
        return int.from_bytes(self.memory.read(DESCRIPTOR, 32), "little")

    def control(self) -> int:
        """The quadword with ON and SN."""
        return self.memory.read_u64(DESCRIPTOR + 32)

    def interrupt(
        self, handle: int = 0, sub: int | None = None, source: SourceId = NIC, **rest: Any
    ) -> InterruptOutcome:
        """One remappable request."""
        return self.unit.remap_interrupt(request(handle, sub, source, **rest))

    def code(self, *args: Any, **rest: Any) -> int:
        """The fault code of a request, which must then have no other effect; 0 if there is no fault."""
        outcome = self.interrupt(*args, **rest)
        if outcome.fault is not None:
            assert outcome == InterruptOutcome(fault=outcome.fault, recorded=outcome.recorded)
        return int(outcome.fault or 0)

    def last_record(self) -> tuple[int, int]:
        """Record 0 as its two quadwords; cleared."""
        low, high = self.read(self.frcd, 8), self.read(self.frcd + 8, 8)
        return low, high


def recorded(code: int, index: int = 0, source: int = NIC) -> tuple[int, int]:
    """The two quadwords of the record of an interrupt-remapping fault: F, FR, SID, the index in 63:48, all else 0."""
    return index << 48, 1 << 63 | code << 32 | source
