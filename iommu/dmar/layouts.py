"""The bytes of the ACPI DMAR table, as chapter 8 of the specification draws them.

Everything else about the format comes from here: the Construct of each part, the decoder that reads (reader.py), the
builder (model.py), and which flag bits are reserved (lint). All numbers are little-endian, nothing is aligned.

The fixed part of a structure ends where its device scopes, or its name, begin. `TYPE` and `LENGTH` are common to all;
`LENGTH` counts the whole structure with its scopes.
"""

from enum import IntEnum

from iommu.fields import Layout, at, field, flag, octets


class StructureType(IntEnum):
    """Remapping structure types (spec 8.2). Software skips the types it does not know."""

    DRHD = 0
    RMRR = 1
    ATSR = 2
    RHSA = 3
    ANDD = 4
    SATC = 5
    SIDP = 6


class ScopeType(IntEnum):
    """What a device scope entry names (spec 8.3.1)."""

    ENDPOINT = 1
    BRIDGE = 2
    IOAPIC = 3
    HPET = 4
    NAMESPACE = 5


# The codes that have a name: a frozenset of them is quick to look into.
STRUCTURE_TYPES = frozenset(StructureType)
SCOPE_TYPES = frozenset(ScopeType)


class HeaderLayout(Layout, bits=48 * 8, section="8.1"):
    """The standard ACPI table header, and the DMAR's own fields after it."""

    SIGNATURE = octets(0, 4, "always DMAR")
    LENGTH = at(4, 4, "bytes of the whole table")
    REVISION = at(8, 1, "1 in every published revision of the specification; 2 is seen in the field")
    CHECKSUM = at(9, 1, "makes all bytes of the table add up to 0 modulo 256")
    OEM_ID = octets(10, 6, "who made the table")
    OEM_TABLE_ID = octets(16, 8, "the maker's name for it")
    OEM_REVISION = at(24, 4, "the maker's version")
    COMPILER_ID = octets(28, 4, "the tool that made it")
    COMPILER_REVISION = at(32, 4, "the tool's version")
    HOST_ADDRESS_WIDTH = at(36, 1, "bits of a DMA physical address, minus 1")
    FLAGS = at(37, 1, "see HeaderFlags")
    RESERVED = octets(38, 10, "zero")


class HeaderFlags(Layout, bits=8, section="8.1"):
    """The table's flags."""

    INTR_REMAP = flag(0, "the platform supports interrupt remapping")
    X2APIC_OPT_OUT = flag(1, "software is asked not to use x2APIC; means something only with INTR_REMAP")
    DMA_CTRL_PLATFORM_OPT_IN = flag(2, "firmware asks software to keep DMA under control from boot on")


class StructureHead(Layout, bits=4 * 8, section="8.2"):
    """What every remapping structure begins with."""

    TYPE = at(0, 2, "see StructureType")
    LENGTH = at(2, 2, "bytes of the structure, scopes included")


class DrhdLayout(StructureHead, bits=16 * 8, section="8.3"):
    """DMA remapping hardware unit definition."""

    FLAGS = at(4, 1, "see DrhdFlags")
    SIZE = at(5, 1, "see DrhdSize")
    SEGMENT = at(6, 2, "PCI segment")
    BASE = at(8, 8, "address of the register set")


class DrhdFlags(Layout, bits=8, section="8.3"):
    """A DRHD's flags."""

    INCLUDE_PCI_ALL = flag(0, "covers every PCI device of the segment that no other unit covers")


class DrhdSize(Layout, bits=8, section="8.3"):
    """A DRHD's size byte; reserved as a whole before revision 4.0 of the specification."""

    PAGES_LOG2 = field(3, 0, "N: the register set takes 2^N pages of 4 KiB")


class RmrrLayout(StructureHead, bits=24 * 8, section="8.4"):
    """Reserved memory region reporting: memory a device goes on using after boot."""

    RESERVED = at(4, 2, "zero")
    SEGMENT = at(6, 2, "PCI segment")
    BASE = at(8, 8, "first byte of the region")
    LIMIT = at(16, 8, "its last byte")


class AtsrLayout(StructureHead, bits=8 * 8, section="8.5"):
    """Root port ATS capability reporting."""

    FLAGS = at(4, 1, "see AtsrFlags")
    RESERVED = at(5, 1, "zero")
    SEGMENT = at(6, 2, "PCI segment")


class AtsrFlags(Layout, bits=8, section="8.5"):
    """An ATSR's flags."""

    ALL_PORTS = flag(0, "every root port of the segment supports ATS")


class RhsaLayout(StructureHead, bits=20 * 8, section="8.6"):
    """Remapping hardware static affinity: the memory domain nearest to a unit."""

    RESERVED = at(4, 4, "zero")
    BASE = at(8, 8, "register base of the unit meant")
    PROXIMITY_DOMAIN = at(16, 4, "as in the SRAT")


class AnddLayout(StructureHead, bits=8 * 8, section="8.7"):
    """ACPI namespace device declaration: a DMA source PCI does not enumerate. Its name follows, NUL-terminated."""

    RESERVED = at(4, 3, "zero")
    DEVICE_NUMBER = at(7, 1, "what a namespace device scope's enumeration id refers to")


class SatcLayout(StructureHead, bits=8 * 8, section="8.8"):
    """SoC integrated address translation cache reporting."""

    FLAGS = at(4, 1, "see SatcFlags")
    RESERVED = at(5, 1, "zero")
    SEGMENT = at(6, 2, "PCI segment")


class SatcFlags(Layout, bits=8, section="8.8"):
    """A SATC's flags."""

    ATC_REQUIRED = flag(0, "the devices need their translation cache enabled to work")


class SidpLayout(StructureHead, bits=8 * 8, section="8.9"):
    """SoC integrated device property reporting; each scope's flags are the properties."""

    RESERVED = at(4, 2, "zero")
    SEGMENT = at(6, 2, "PCI segment")


class ScopeLayout(Layout, bits=6 * 8, section="8.3.1"):
    """A device scope entry; {device, function} pairs follow, one for each hop from the start bus."""

    TYPE = at(0, 1, "see ScopeType")
    LENGTH = at(1, 1, "6, and 2 for each hop")
    FLAGS = at(2, 1, "see ScopeFlags; reserved but in a SIDP")
    RESERVED = at(3, 1, "zero")
    ENUMERATION_ID = at(4, 1, "I/O APIC id, HPET number or ANDD device number, by type; else reserved")
    BUS = at(5, 1, "bus the path starts on")


class HopLayout(Layout, bits=2 * 8, section="8.3.1"):
    """One step of a device scope's path."""

    DEVICE = at(0, 1, "0 to 31")
    FUNCTION = at(1, 1, "0 to 7")


class ScopeFlags(Layout, bits=8, section="8.9"):
    """The properties of a device in a SIDP."""

    REQ_WO_PASID_NESTED_NOTALLOWED = flag(0, "no nested translation for requests without PASID")
    REQ_WO_PASID_PWSNP_NOTALLOWED = flag(1, "no PWSNP for requests without PASID")
    REQ_WO_PASID_PGSNP_NOTALLOWED = flag(2, "no PGSNP for requests without PASID")
    ATC_HARDENED = flag(3, "the translation cache is hardened against misuse")
    ATC_REQUIRED = flag(4, "the device needs its translation cache enabled")


HEADER_SIZE = HeaderLayout.bits // 8
HEAD_SIZE = StructureHead.bits // 8
SCOPE_SIZE = ScopeLayout.bits // 8
