"""Protected memory regions (spec 11.4.8)."""

from iommu.fields import Rule, address, flag
from iommu.registers.register import Register

RW = Rule.RW


class PMEN(Register, bits=32, offset=0x64, section="11.4.8.1", needs="protected_memory"):
    """Protected memory: on or off."""

    EPM = flag(31, "protected regions on", rule=RW)
    PRS = flag(0, "protected regions are on")


class PLMBASE(Register, bits=32, offset=0x68, section="11.4.8.2", needs="protected_low"):
    """Protected low memory: first byte, in steps of 1 MiB."""

    PLMB = address(31, 20, "base", rule=RW)


class PLMLIMIT(Register, bits=32, offset=0x6C, section="11.4.8.3", needs="protected_low"):
    """Protected low memory: the last MiB."""

    PLML = address(31, 20, "limit; the bits below it are taken as ones", rule=RW)


class PHMBASE(Register, bits=64, offset=0x70, section="11.4.8.4", needs="protected_high"):
    """Protected high memory: first byte, in steps of 1 MiB."""

    PHMB = address(63, 20, "base", rule=RW)


class PHMLIMIT(Register, bits=64, offset=0x78, section="11.4.8.5", needs="protected_high"):
    """Protected high memory: the last MiB."""

    PHML = address(63, 20, "limit; the bits below it are taken as ones", rule=RW)
