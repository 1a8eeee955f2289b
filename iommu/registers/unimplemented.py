"""Registers of features that no unit here has (NOT_MODELLED in iommu.engine.capabilities): they read as 0."""

from iommu.fields import Rule, field, flag
from iommu.registers.register import EventAddress, EventControl, EventData, EventUpperAddress, Register

RW, RW1C = Rule.RW, Rule.RW1C


class PERFCAP(Register, bits=64, offset=0x300, section="11.4", needs="performance_monitoring"):
    """Performance counters: which there are."""

    CS = field(54, 52, "counter stride is 2**(CS+10) bytes")
    PCCS = flag(51, "per-counter capabilities")
    IOS = flag(50, "interrupt on overflow")
    GFS = flag(49, "freeze on overflow")
    FILTERS = field(36, 32, "filters")
    NEG = field(28, 24, "event groups")
    CW = field(22, 16, "counter width")
    NC = field(15, 0, "counters")


class PERFCFGOFF(Register, bits=32, offset=0x310, section="11.4", needs="performance_monitoring"):
    """Offset of the counters' configuration."""

    OFFSET = field(31, 0, "bytes")


class PERFFRZOFF(Register, bits=32, offset=0x314, section="11.4", needs="performance_monitoring"):
    """Offset of the freeze status."""

    OFFSET = field(31, 0, "bytes")


class PERFOVFOFF(Register, bits=32, offset=0x318, section="11.4", needs="performance_monitoring"):
    """Offset of the overflow status."""

    OFFSET = field(31, 0, "bytes")


class PERFCNTROFF(Register, bits=32, offset=0x31C, section="11.4", needs="performance_monitoring"):
    """Offset of the counters."""

    OFFSET = field(31, 0, "bytes")


class PERFINTRSTS(Register, bits=32, offset=0x324, section="11.4", needs="performance_monitoring"):
    """Performance event status."""

    PIS = flag(0, "a counter has overflowed", rule=RW1C)


class PERFINTRCTL(EventControl, offset=0x328, section="11.4", reset=1 << 31, needs="performance_monitoring"):
    """Performance event control."""


class PERFINTRDATA(EventData, offset=0x32C, section="11.4", needs="performance_monitoring"):
    """Performance event data."""


class PERFINTRADDR(EventAddress, offset=0x330, section="11.4", needs="performance_monitoring"):
    """Performance event address, low half."""


class PERFINTRUADDR(EventUpperAddress, offset=0x334, section="11.4", needs="performance_monitoring"):
    """Performance event address, high half."""


class PERFEVNTCAP(Register, bits=64, section="11.4", needs="performance_monitoring"):
    """The events of one group."""

    ES = field(27, 0, "events")


class ECMD(Register, bits=64, offset=0x400, section="11.4", needs="enhanced_commands"):
    """Enhanced command: writing starts it."""

    OA = field(63, 16, "operand A", rule=RW)
    CMD = field(7, 0, "command", rule=RW)


class ECEO(Register, bits=64, offset=0x408, section="11.4", needs="enhanced_commands"):
    """Enhanced command: operand B."""

    OB = field(63, 0, "operand B", rule=RW)


class ECRSP(Register, bits=64, offset=0x410, section="11.4", needs="enhanced_commands"):
    """Enhanced command: response."""

    SC = field(7, 1, "status, 0 success")
    IP = flag(0, "in progress")


class ECSTS(Register, bits=64, offset=0x420, section="11.4", needs="enhanced_commands"):
    """Enhanced command: status."""


class ECCAP(Register, bits=64, offsets=range(0x430, 0x450, 8), section="11.4", needs="enhanced_commands"):
    """The enhanced commands there are, one bit for each."""

    COMMANDS = field(63, 0, "commands")


class VCMD(Register, bits=64, offset=0xE00, section="11.4", needs="virtual_commands"):
    """Virtual command: writing starts it."""

    OP = field(63, 16, "operand", rule=RW)
    CMD = field(7, 0, "command", rule=RW)


class VCMD_EO(Register, bits=64, offset=0xE08, section="11.4", needs="virtual_commands"):
    """Virtual command: operand B."""

    OB = field(63, 0, "operand B", rule=RW)


class VCRSP(Register, bits=64, offset=0xE10, section="11.4", needs="virtual_commands"):
    """Virtual command: response."""

    RSLT = field(63, 16, "result")
    SC = field(7, 1, "status, 0 success")
    IP = flag(0, "in progress")


class VCCAP(Register, bits=64, offset=0xE30, section="11.4", needs="virtual_commands"):
    """The virtual commands there are."""

    PAS = flag(0, "PASID allocation")
