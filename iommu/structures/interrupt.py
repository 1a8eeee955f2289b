"""From an interrupt request to its remapping entry, and on to a posted-interrupt descriptor (spec chapter 5)."""

from enum import IntEnum

from iommu.fields import Layout, enumerated, field, flag, ignored


class DeliveryMode(IntEnum):
    """How a processor takes the interrupt; 3 and 6 are reserved."""

    FIXED = 0
    LOWEST_PRIORITY = 1
    SMI = 2
    NMI = 4
    INIT = 5
    EXTINT = 7


class SourceValidation(IntEnum):
    """InterruptEntry.SVT: which requesters may use the entry; 3 is reserved."""

    NONE = 0
    """Any requester."""
    SOURCE_ID = 1
    """Those of SID, except for the bits that SQ leaves out."""
    BUS = 2
    """Requesters on buses SID 15:8 to SID 7:0, inclusive."""


class CompatibilityAddress(Layout, bits=32, section="5.1.2.1"):
    """Address of a compatibility-format interrupt request, which holds the destination itself."""

    RANGE = field(31, 20, "FEE")
    DEST = field(19, 12, "destination, an 8-bit APIC id")
    IF = flag(4, "interrupt format: 0")
    RH = flag(3, "redirection hint")
    DM = flag(2, "destination mode: 0 physical, 1 logical")
    IGNORED = field(1, 0, "ignored")


class CompatibilityData(Layout, bits=32, section="5.1.2.1"):
    """Data of a compatibility-format interrupt request, and of every interrupt message a processor gets."""

    TM = flag(15, "trigger mode: 0 edge, 1 level")
    LEVEL = flag(14, "level: 1 assert")
    DLM = enumerated(10, 8, DeliveryMode, "delivery mode")
    V = field(7, 0, "vector")


class RemappableAddress(Layout, bits=32, section="5.1.2.2"):
    """Address of a remappable interrupt request, which holds the handle of an interrupt-remapping entry."""

    RANGE = field(31, 20, "FEE")
    HANDLE_LOW = field(19, 5, "handle 14:0")
    IF = flag(4, "interrupt format: 1")
    SHV = flag(3, "the data hold a subhandle")
    HANDLE_HIGH = flag(2, "handle 15")
    IGNORED = field(1, 0, "ignored")


class RemappableData(Layout, bits=32, section="5.1.2.2"):
    """Data of a remappable interrupt request with SHV; not used without SHV."""

    SUBHANDLE = field(15, 0, "added to the handle")


class InterruptEntry(Layout, bits=128, section="5.1.3"):
    """Interrupt-remapping table entry (IRTE): the fields of both forms."""

    SVT = enumerated(83, 82, SourceValidation, "source validation type")
    SQ = field(81, 80, "source-id bits not compared: 0 none, 1 bit 2, 2 bits 2:1, 3 bits 2:0")
    SID = field(79, 64, "source-id, or first and last bus")
    IM = flag(15, "form: 0 remapped, 1 posted", needs="posted_interrupts")
    AVAIL = ignored(11, 8, "ignored, for software")
    FPD = flag(1, "fault processing disabled")
    P = flag(0, "present")


class RemappedInterruptEntry(InterruptEntry, section="9.9"):
    """IRTE in remapped form (IM=0): the interrupt to deliver."""

    DST = field(63, 32, "destination: 32 bits with IRTA.EIME, otherwise an 8-bit APIC id in its bits 15:8")
    V = field(23, 16, "vector")
    DLM = enumerated(7, 5, DeliveryMode, "delivery mode")
    TM = flag(4, "trigger mode: 0 edge, 1 level")
    RH = flag(3, "redirection hint")
    DM = flag(2, "destination mode: 0 physical, 1 logical")


class PostedInterruptEntry(InterruptEntry, section="9.10"):
    """IRTE in posted form (IM=1): the descriptor to post to."""

    PDAH = field(127, 96, "descriptor address 63:32")
    PDAL = field(63, 38, "descriptor address 31:6")
    VV = field(23, 16, "virtual vector")
    URG = flag(14, "urgent: notify although SN is set")


class PostedInterruptDescriptor(Layout, bits=512, section="9.11"):
    """Posted-interrupt descriptor, 64 bytes aligned to their size: interrupts posted for a virtual processor."""

    AVAIL = ignored(511, 320, "ignored, for software")
    NDST = field(319, 288, "notification destination: as RemappedInterruptEntry.DST")
    NV = field(279, 272, "notification vector")
    SN = flag(257, "suppress notifications that are not urgent")
    ON = flag(256, "a notification is outstanding")
    PIR = field(255, 0, "posted interrupts, a bit per vector")
