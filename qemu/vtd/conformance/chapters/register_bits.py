"""Chapter 11: each register, bit by bit: which bits software can write, and what the register holds after reset.

The tables are written from the descriptions of the registers, not taken from `iommu.registers`. They are for a unit
with host addresses of 48 bits that offers neither extended interrupts, protected memory, page requests nor memory
types.
"""

from __future__ import annotations

from typing import NamedTuple

from qemu.vtd.conformance.bench import Bench
from qemu.vtd.conformance.scenario import Allowed, scenario


class Row(NamedTuple):
    """A register.

    Attributes:
        section: where it is described.
        offset: in bytes.
        bits: its size.
        kept: the bits that software writes and reads back.
        reset: its value after reset; None where the specification does not say.
        freedom: other bits that a unit may keep, and why it may.
    """

    section: str
    offset: int
    bits: int
    kept: int
    reset: int | None = 0
    freedom: tuple[int, str] | None = None


NO_EXTENDED = "a unit without extended interrupts may implement the upper address or not (11.4.7.5, 11.4.9.8)"
WRITABLE_SOURCE = "public descriptions have CCMD.SID and CCMD.FM as write-only or as readable (doubt D-8 of layouts)"
LONG_DATA = (
    "bits 31:16 of the message data are for units with 32-bit messages; others may keep them or not (11.4.9.6)"
)

REGISTERS = {
    "FSTS": Row("11.4.7.1", 0x34, 32, 0),
    "FECTL": Row("11.4.7.2", 0x38, 32, 1 << 31, 1 << 31),
    "FEDATA": Row("11.4.7.3", 0x3C, 32, 0xFFFF, freedom=(0xFFFF_FFFF, LONG_DATA)),
    "FEADDR": Row("11.4.7.4", 0x40, 32, 0xFFFF_FFFC),
    "FEUADDR": Row("11.4.7.5", 0x44, 32, 0xFFFF_FFFF, freedom=(0, NO_EXTENDED)),
    "AFLOG": Row("11.4.7.7", 0x58, 64, 0),
    "PMEN": Row("11.4.8.1", 0x64, 32, 0),
    "PLMBASE": Row("11.4.8.2", 0x68, 32, 0),
    "PLMLIMIT": Row("11.4.8.3", 0x6C, 32, 0),
    "PHMBASE": Row("11.4.8.4", 0x70, 64, 0),
    "PHMLIMIT": Row("11.4.8.5", 0x78, 64, 0),
    "RTADDR": Row("11.4.5", 0x20, 64, 0x0000_FFFF_FFFF_FC00),
    # ICC starts a command and reads as 0 when it is done; CAIG is read-only.
    "CCMD": Row("11.4.6.1", 0x28, 64, 0x6000_0000_0000_FFFF, None, freedom=(0x6000_0003_FFFF_FFFF, WRITABLE_SOURCE)),
    "IQH": Row("11.4.9.1", 0x80, 64, 0),
    "IQT": Row("11.4.9.2", 0x88, 64, 0x7_FFF0),
    "IQA": Row("11.4.9.3", 0x90, 64, 0x0000_FFFF_FFFF_F807),
    "ICS": Row("11.4.9.4", 0x9C, 32, 0),
    "IECTL": Row("11.4.9.5", 0xA0, 32, 1 << 31, 1 << 31),
    "IEDATA": Row("11.4.9.6", 0xA4, 32, 0xFFFF, freedom=(0xFFFF_FFFF, LONG_DATA)),
    "IEADDR": Row("11.4.9.7", 0xA8, 32, 0xFFFF_FFFC),
    "IEUADDR": Row("11.4.9.8", 0xAC, 32, 0xFFFF_FFFF, freedom=(0, NO_EXTENDED)),
    "IQERCD": Row("11.4.9.9", 0xB0, 64, 0),
    "IRTA": Row("11.4.10", 0xB8, 64, 0x0000_FFFF_FFFF_F00F),
    "PQH": Row("11.4.11.1", 0xC0, 64, 0),
    "PQT": Row("11.4.11.2", 0xC8, 64, 0),
    "PQA": Row("11.4.11.3", 0xD0, 64, 0),
    "PRS": Row("11.4.11.4", 0xDC, 32, 0),
    "PECTL": Row("11.4.11.5", 0xE0, 32, 0),
    "PEDATA": Row("11.4.11.6", 0xE4, 32, 0),
    "PEADDR": Row("11.4.11.7", 0xE8, 32, 0),
    "PEUADDR": Row("11.4.11.8", 0xEC, 32, 0),
    # IVT starts a command and reads as 0 when it is done; IAIG is read-only.
    "IOTLB": Row("11.4.6.3", 0xF8, 64, 0x3003_FFFF_0000_0000, None),
    "MTRRDEF": Row("11.4", 0x108, 64, 0),
}


def kept_bits(bench: Bench, offset: int, size: int) -> int:
    """The bits of a register, each written alone in an access of `size` bytes, that are then read back.

    What reads back beside the bit written is logged.
    """
    kept = 0
    for bit in range(8 * size):
        bench.platform.write_register(offset, 1 << bit, size)
        seen = bench.platform.read_register(offset, size)
        if seen & ~(1 << bit):
            bench.note(f"bit {bit} reads back as {seen:#x}")
        kept |= seen & 1 << bit
    return kept


def _one_by_one(name: str, row: Row) -> None:
    def stimulus(bench: Bench) -> None:
        bench.note(f"{name} keeps {kept_bits(bench, row.offset, row.bits // 8):#x}")
        bench.platform.write_register(row.offset, 0, row.bits // 8)
        bench.note(f"then {bench.platform.read_register(row.offset, row.bits // 8) & row.kept:#x}")

    def lines(kept: int) -> tuple[str, ...]:
        return f"{name} keeps {kept:#x}", "then 0x0", "FSTS 0"

    stimulus.__doc__ = f"Each bit of {name}, written alone: reserved and read-only ones do not read back."
    allowed = () if row.freedom is None else (Allowed(row.freedom[1], lines(row.freedom[0])),)
    scenario(f"registers.bits.{name.lower()}", row.section, *lines(row.kept), allowed=allowed)(stimulus)


def _by_halves(name: str, row: Row) -> None:
    """A 64-bit register in accesses of 32 bits: each half is kept, and neither changes the other."""

    def stimulus(bench: Bench) -> None:
        write, read = bench.platform.write_register, bench.platform.read_register
        for order in ((0, 4), (4, 0)):
            write(row.offset, 0, 8)
            for half in order:
                write(row.offset + half, row.kept >> 8 * half & 0xFFFF_FFFF, 4)
                bench.note(f"{name} {read(row.offset, 8):#x}")
            bench.note(f"halves {read(row.offset, 4):#x} {read(row.offset + 4, 4):#x}")

    low, high = row.kept & 0xFFFF_FFFF, row.kept >> 32
    halves = f"halves {low:#x} {high:#x}"
    expect = (
        *(f"{name} {low:#x}", f"{name} {row.kept:#x}", halves),
        *(f"{name} {high << 32:#x}", f"{name} {row.kept:#x}", halves),
    )
    stimulus.__doc__ = f"{name} is written and read in two halves of 32 bits, in either order."
    scenario(f"registers.halves.{name.lower()}", "11.2", *expect, "FSTS 0")(stimulus)


for _name, _row in REGISTERS.items():
    _one_by_one(_name, _row)
for _name in ("RTADDR", "IQT", "IQA", "IRTA", "IOTLB"):
    _by_halves(_name, REGISTERS[_name])


# Reset.

_RESET = [(name, row) for name, row in REGISTERS.items() if row.reset is not None]


@scenario("registers.reset", "11.4", *(f"{name} {row.reset:#x}" for name, row in _RESET), "GSTS 0x0", "FSTS 0")
def reset_values(bench: Bench) -> None:
    """The registers after reset: all 0, except for the masks of the events."""
    for name, row in _RESET:
        bench.note(f"{name} {bench.platform.read_register(row.offset, row.bits // 8):#x}")
    bench.note(f"GSTS {bench.platform.read_register(0x1C, 4):#x}")


@scenario("registers.reserved-offsets", "11.2", "all read as 0", "FSTS 0")
def reserved_offsets(bench: Bench) -> None:
    """Where there is no register, a write changes nothing and a read returns 0."""
    for offset in (0x04, 0x30, 0x48, 0x4C, 0x50, 0x54, 0x60, 0x98, 0xD8, 0x100, 0x110, 0x178, 0x21C):
        bench.platform.write_register(offset, 0xFFFF_FFFF, 4)
        if value := bench.platform.read_register(offset, 4):
            bench.note(f"{offset:#x} reads as {value:#x}")
    bench.note("all read as 0")
