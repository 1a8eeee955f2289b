"""The descriptors of the invalidation queue (spec 6.5.2), one declaration for each type.

These are the 128-bit forms. The 256-bit form of every type has the same low half, and its upper half is reserved.
"""

from enum import IntEnum

from iommu.fields import Field, Layout, address, enumerated, field, flag


class DescriptorType(IntEnum):
    """The type of a descriptor: bits 11:9 and 3:0."""

    CONTEXT = 1
    IOTLB = 2
    DEVICE_TLB = 3
    INTERRUPT = 4
    WAIT = 5
    PASID_IOTLB = 6
    PASID_CACHE = 7
    PASID_DEVICE_TLB = 8
    PAGE_RESPONSE = 9


class PasidGranularity(IntEnum):
    """PasidCacheDescriptor.G, whose encoding differs from other granularities."""

    DOMAIN = 0
    PASID = 1
    GLOBAL = 3


class ResponseCode(IntEnum):
    """The response code for a page request group; other codes mean failure."""

    SUCCESS = 0
    INVALID = 1
    FAILURE = 15


def _page_address() -> Field[int]:
    return address(127, 76, "first page")


class Descriptor(Layout, bits=128, section="6.5.2"):
    """The fields that all types have."""

    TYPE_HIGH = field(11, 9, "type 6:4")
    TYPE = enumerated(3, 0, DescriptorType, "type 3:0")


class ContextDescriptor(Descriptor, section="6.5.2.1"):
    """Invalidates the context cache."""

    FM = field(49, 48, "function bits of SID to ignore: 0 none, 1 bit 2, 2 bits 2:1, 3 bits 2:0")
    SID = field(47, 32, "source-id")
    DID = field(31, 16, "domain-id")
    G = field(5, 4, "granularity: 1 global, 2 domain, 3 device")


class IotlbDescriptor(Descriptor, section="6.5.2.3"):
    """Invalidates the IOTLB and the paging-structure caches."""

    ADDR = _page_address()
    IH = flag(70, "only leaf entries changed")
    AM = field(69, 64, "low page-number bits to ignore: 2**AM pages")
    DID = field(31, 16, "domain-id")
    DR = flag(7, "drain reads")
    DW = flag(6, "drain writes")
    G = field(5, 4, "granularity: 1 global, 2 domain, 3 pages of a domain")


class DeviceTlbDescriptor(Descriptor, section="6.5.2.5"):
    """Invalidates the translations without PASID in a device-TLB."""

    ADDR = _page_address()
    S = flag(64, "the lowest 0 bit of ADDR gives the size; otherwise one page")
    PFSID_HIGH = field(63, 52, "physical function, bits 15:4", needs="invalidation_throttle")
    SID = field(47, 32, "source-id")
    MIP = field(20, 16, "largest number of pending invalidations; 0 is 32")
    PFSID_LOW = field(15, 12, "physical function, bits 3:0", needs="invalidation_throttle")


class InterruptDescriptor(Descriptor, section="6.5.2.7"):
    """Invalidates the interrupt-entry cache."""

    IIDX = field(47, 32, "interrupt index")
    IM = field(31, 27, "low index bits to ignore: 2**IM entries")
    G = flag(4, "granularity: 0 global, 1 by index")


class WaitDescriptor(Descriptor, section="6.5.2.8"):
    """Completes when all earlier descriptors have completed."""

    STADDR = address(127, 66, "status address")
    STDATA = field(63, 32, "status data")
    PD = flag(7, "drain page requests", needs="page_request_drain")
    FN = flag(6, "fence: later descriptors wait too")
    SW = flag(5, "write the status data to the status address")
    IF = flag(4, "set ICS.IWC and raise the invalidation event")


class PasidIotlbDescriptor(Descriptor, section="6.5.2.4"):
    """Invalidates translations that a first stage took part in: IOTLB and first-stage paging-structure cache."""

    ADDR = _page_address()
    IH = flag(70, "only leaf entries changed")
    AM = field(69, 64, "low page-number bits to ignore: 2**AM pages")
    PASID = field(51, 32, "PASID")
    DID = field(31, 16, "domain-id")
    G = field(5, 4, "granularity: 2 everything of the PASID, 3 pages of it")


class PasidCacheDescriptor(Descriptor, section="6.5.2.2"):
    """Invalidates the PASID cache."""

    PASID = field(51, 32, "PASID")
    DID = field(31, 16, "domain-id")
    G = enumerated(5, 4, PasidGranularity, "granularity")


class PasidDeviceTlbDescriptor(Descriptor, section="6.5.2.6"):
    """Invalidates the translations with a PASID in a device-TLB."""

    ADDR = _page_address()
    S = flag(75, "the lowest 0 bit of ADDR gives the size; otherwise one page")
    G = flag(64, "whatever the PASID")
    PFSID_HIGH = field(63, 52, "physical function, bits 15:4", needs="invalidation_throttle")
    PASID = field(51, 32, "PASID")
    SID = field(31, 16, "source-id")
    PFSID_LOW = field(15, 12, "physical function, bits 3:0", needs="invalidation_throttle")
    MIP = field(8, 4, "largest number of pending invalidations; 0 is 32")


class PageResponseDescriptor(Descriptor, section="7.6.1"):
    """Responds to a group of page requests."""

    PRGI = field(75, 67, "page request group index")
    LPIG = flag(66, "last page in group")
    PASID = field(51, 32, "PASID, where PP is 1")
    RID = field(31, 16, "source-id of the device")
    RC = enumerated(15, 12, ResponseCode, "response code")
    PP = flag(4, "has a PASID")


DESCRIPTORS: dict[int, type[Descriptor]] = {
    DescriptorType.CONTEXT: ContextDescriptor,
    DescriptorType.IOTLB: IotlbDescriptor,
    DescriptorType.DEVICE_TLB: DeviceTlbDescriptor,
    DescriptorType.INTERRUPT: InterruptDescriptor,
    DescriptorType.WAIT: WaitDescriptor,
    DescriptorType.PASID_IOTLB: PasidIotlbDescriptor,
    DescriptorType.PASID_CACHE: PasidCacheDescriptor,
    DescriptorType.PASID_DEVICE_TLB: PasidDeviceTlbDescriptor,
    DescriptorType.PAGE_RESPONSE: PageResponseDescriptor,
}
"""The declaration of each type."""
