"""Memory type ranges (spec 11.4): stored, but not combined with the memory types that the tables give."""

from iommu.fields import Rule, address, field, flag
from iommu.registers.register import Register

RW = Rule.RW


class MTRRCAP(Register, bits=64, offset=0x100, section="11.4", needs="memory_types"):
    """Memory type ranges: which there are."""

    WC = flag(10, "write combining")
    FIX = flag(8, "fixed ranges")
    VCNT = field(7, 0, "variable ranges")


class MTRRDEF(Register, bits=64, offset=0x108, section="11.4", needs="memory_types"):
    """Memory type ranges: the default type."""

    E = flag(11, "on", rule=RW)
    FE = flag(10, "fixed ranges on", rule=RW)
    TYPE = field(7, 0, "default type", rule=RW)


class MTRRFIX(Register, bits=64, offsets=range(0x120, 0x178, 8), section="11.4", needs="memory_types"):
    """The fixed memory type ranges, eight sub-ranges each: one of 64 KiB, two of 16 KiB, eight of 4 KiB."""

    TYPES = field(63, 0, "the type of each sub-range, 8 bits each", rule=RW)


class MTRRBASE(Register, bits=64, offsets=range(0x180, 0x220, 16), section="11.4", needs="memory_types"):
    """The variable memory type ranges: base."""

    BASE = address(63, 12, "base", rule=RW)
    TYPE = field(7, 0, "type", rule=RW)


class MTRRMASK(Register, bits=64, offsets=range(0x188, 0x220, 16), section="11.4", needs="memory_types"):
    """The variable memory type ranges: mask."""

    MASK = address(63, 12, "mask", rule=RW)
    V = flag(11, "valid", rule=RW)
