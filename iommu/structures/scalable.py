"""From a source-id and a PASID to a translation, scalable mode (spec 9.2, 9.4 to 9.6)."""

from enum import IntEnum

from iommu.fields import Layout, address, enumerated, field, flag


class PasidTranslationType(IntEnum):
    """PasidEntry.PGTT."""

    FIRST_STAGE = 1
    SECOND_STAGE = 2
    NESTED = 3
    PASS_THROUGH = 4


class ScalableRootHalf(Layout, bits=64, section="9.2"):
    """Half a root entry, scalable mode: the lower serves device and function 00 to 7F, the upper 80 to FF."""

    CTP = address(63, 12, "context table of 128 entries")
    P = flag(0, "present")


class ScalableContextEntry(Layout, bits=256, section="9.4"):
    """Context entry, scalable mode."""

    RID_PRIV = flag(84, "requests without PASID are privileged", needs="rid_priv")
    RID_PASID = field(83, 64, "PASID of requests without one", needs="rid_pasid")
    PASIDDIRPTR = address(63, 12, "PASID directory")
    PDTS = field(11, 9, "the directory has 2**(PDTS+7) entries")
    PRE = flag(4, "page requests enabled", needs="page_requests")
    PASIDE = flag(3, "PASIDs enabled", needs="pasid")
    DTE = flag(2, "device-TLB enabled", needs="device_tlb")
    FPD = flag(1, "fault processing disabled")
    P = flag(0, "present")


class PasidDirectoryEntry(Layout, bits=64, section="9.5"):
    """PASID directory entry: one for 64 PASIDs."""

    SMPTBLPTR = address(63, 12, "PASID table")
    FPD = flag(1, "fault processing disabled")
    P = flag(0, "present")


class PasidEntry(Layout, bits=512, section="9.6"):
    """PASID table entry."""

    FSPTPTR = address(191, 140, "first-stage table")
    EAFE = flag(135, "extended accessed enabled", needs="extended_accessed")
    SMEP = flag(134, "ignored (withdrawn)")
    NXE = flag(133, "ignored (withdrawn)")
    WPE = flag(132, "supervisor writes honour R/W")
    FSPM = field(131, 130, "first-stage levels: 0 four, 1 five")
    ERE = flag(129, "execute requests enabled", needs="execute_requests")
    SRE = flag(128, "supervisor requests enabled", needs="supervisor_requests")
    PA7 = field(126, 124, "memory type 7 of the page attribute table", needs="memory_types")
    PA6 = field(122, 120, "memory type 6 of the page attribute table", needs="memory_types")
    PA5 = field(118, 116, "memory type 5 of the page attribute table", needs="memory_types")
    PA4 = field(114, 112, "memory type 4 of the page attribute table", needs="memory_types")
    PA3 = field(110, 108, "memory type 3 of the page attribute table", needs="memory_types")
    PA2 = field(106, 104, "memory type 2 of the page attribute table", needs="memory_types")
    PA1 = field(102, 100, "memory type 1 of the page attribute table", needs="memory_types")
    PA0 = field(98, 96, "memory type 0 of the page attribute table", needs="memory_types")
    EMTE = flag(90, "extended memory types enabled", needs="memory_types")
    CD = flag(89, "caches disabled", needs="memory_types")
    PGSNP = flag(88, "the access is snooped", needs="snoop_control")
    PWSNP = flag(87, "the walk is snooped", needs="scalable_coherent")
    DID = field(79, 64, "domain-id")
    SSPTPTR = address(63, 12, "second-stage table")
    SSADE = flag(9, "second-stage accessed and dirty enabled", needs="second_stage_dirty")
    PGTT = enumerated(8, 6, PasidTranslationType, "translation type")
    SSEE = flag(5, "second-stage execute enabled", needs="execute_requests")
    AW = field(4, 2, "second-stage levels: 1 three, 2 four, 3 five")
    FPD = flag(1, "fault processing disabled")
    P = flag(0, "present")
