"""The descriptor that hardware writes to the page request queue (spec 7.4)."""

from iommu.fields import Layout, address, field, flag


class PageRequestDescriptor(Layout, bits=256, section="7.4.1.1"):
    """A page request. With neither read nor write, as the last of its group, it is a stop marker."""

    ADDR = address(127, 76, "page")
    PRGI = field(75, 67, "page request group index")
    LPIG = flag(66, "last page in group")
    WR = flag(65, "write requested")
    RD = flag(64, "read requested")
    PMR = flag(53, "privileged mode requested")
    EXR = flag(52, "execute requested")
    PASID = field(51, 32, "PASID, where PP is 1")
    RID = field(31, 16, "source-id")
    PP = flag(8, "has a PASID")
    TYPE = field(7, 0, "1")
